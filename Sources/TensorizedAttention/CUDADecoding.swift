import AttentionCUDA
import AttentionCore
import Folding
import Torch

extension DecodeStep {
  /// The step through the CUDA kernels: one launch for one token, a launch a pass for a chunk; nil where
  /// no kernel covers it.
  func runOnCUDA(queries: Tensor, keys: Tensor, values: [Tensor]) -> Tensor? {
    guard let element = CUDAElement(queries.dtype) else { return nil }
    if let objection = passShapes(element).lazy.compactMap({
      $0.objection(sharedMemory: CUDAPlan.sharedMemory)
    }).first {
      ComposedFallback.log(objection)
      return nil
    }
    let output = Tensor.empty(queries.shape, dtype: queries.dtype, device: queries.device)
    let beta = beta?.contiguous()
    let biases = modeBiases.map { $0?.to(.float32).contiguous() }
    let operands = Operands(
      element: element, queries: queries, keys: keys, values: values, output: output, beta: beta,
      biases: biases)
    do {
      let kernels = try CUDAKernels.shared()
      let ordinal = max(queries.device.index, 0)
      return try withExtendedLifetime(operands) {
        try kernels.driver.withDevice(ordinal) {
          let stream = try TorchStream.current(device: ordinal)
          let step = single(operands)
          if shape.queries.count == 1, step.objection == nil {
            try kernels.decode(step, stream: stream)
          } else {
            try chunk(operands, kernels, stream)
          }
          return output
        }
      }
    } catch {
      fatalError("\(error)")
    }
  }

  /// The tensors of a step as the kernels read them.
  private struct Operands {
    let element: CUDAElement
    let queries: Tensor
    let keys: Tensor
    let values: [Tensor]
    let output: Tensor
    let beta: Tensor?
    let biases: [Tensor?]

    func betaAddress(_ mode: Mode, heads: Int) -> CUDADriver.Address {
      guard let beta, !mode.isLowest else { return 0 }
      return beta.address + UInt64((mode.index - 1) * heads * element.size)
    }

    func bias(_ mode: Mode) -> (address: CUDADriver.Address, stride: Int) {
      guard biases.indices.contains(mode.index - 1), let bias = biases[mode.index - 1] else {
        return (0, 0)
      }
      return (bias.address, bias.size(0) > 1 ? bias.count / bias.size(0) : 0)
    }
  }

  private var isJoint: Bool { pattern.normalization == .joint }

  private func passShapes(_ element: CUDAElement) -> [CUDAPassShape] {
    pattern.chain.enumerated().map { index, mode in
      CUDAPassShape(
        element: element, headWidth: shape.width, batch: shape.batch, heads: shape.heads,
        keyHeads: shape.keyHeads, valueHeads: index == 0 ? shape.keyHeads : shape.heads,
        tokens: shape.tokens, mode: mode, support: pattern.support, isJoint: isJoint && index > 0,
        hasBeta: beta != nil && !mode.isLowest,
        hasBias: modeBiases.indices.contains(mode.index - 1) && modeBiases[mode.index - 1] != nil,
        isRotary: pattern.rotary.positions != .none)
    }
  }

  private func single(_ operands: Operands) -> CUDADecode {
    let passes = pattern.chain.enumerated().map { index, mode in
      var pass = CUDADecode.Pass(
        mode: mode, values: DeviceTensor(operands.values[index]),
        valueHeads: index == 0 ? shape.keyHeads : shape.heads)
      pass.beta = operands.betaAddress(mode, heads: shape.heads)
      (pass.bias, pass.biasStride) = operands.bias(mode)
      pass.rotary = RotaryAngles(pattern.rotary, mode: mode, width: shape.width)
      return pass
    }
    return CUDADecode(
      element: operands.element, headWidth: shape.width, batch: shape.batch, heads: shape.heads,
      keyHeads: shape.keyHeads, support: pattern.support, isJoint: isJoint,
      queries: DeviceTensor(operands.queries), keys: DeviceTensor(operands.keys),
      output: DeviceTensor(operands.output), position: shape.queries.lowerBound, passes: passes,
      scale: Float(scale))
  }

  /// Every pass over the queries of the chunk; what a pass returns is appended to the next one's cache.
  private func chunk(_ operands: Operands, _ kernels: CUDAKernels, _ stream: CUDADriver.Stream)
    throws
  {
    let first = shape.queries.lowerBound
    let lse = Tensor.empty(
      [shape.batch, shape.heads, shape.queries.count], dtype: .float32,
      device: operands.queries.device)
    /// A tensor of the chunk's tokens, addressed by the token's place in the whole sequence.
    func whole(_ tensor: Tensor) -> DeviceTensor {
      var view = DeviceTensor(tensor)
      view.address &-= UInt64(first * view.tokenStride * operands.element.size)
      return view
    }
    let shapes = passShapes(operands.element)
    for (index, mode) in pattern.chain.enumerated() {
      let isLast = index == shapes.count - 1
      var pass = CUDAPass(
        shape: shapes[index], queries: whole(operands.queries), keys: DeviceTensor(operands.keys),
        values: DeviceTensor(operands.values[index]),
        output: isLast ? whole(operands.output) : DeviceTensor(operands.values[index + 1]),
        lse: lse.address &- UInt64(first * 4), lseRow: shape.queries.count, scale: Float(scale))
      pass.carriedLSE = isJoint && index > 0 ? pass.lse : 0
      pass.beta = operands.betaAddress(mode, heads: shape.heads)
      (pass.bias, pass.biasStride) = operands.bias(mode)
      pass.rotary = RotaryAngles(pattern.rotary, mode: mode, width: shape.width)
      pass.firstQuery = first
      try kernels.forward(pass, stream: stream)
    }
    withExtendedLifetime(lse) {}
  }
}
