import AttentionCPU
import AttentionCore
import Folding
import Torch

extension AttentionCall {
  /// Attends through the SIMD kernels.
  func attendOnCPU() -> (output: Tensor, logSumExp: Tensor) {
    let plan = CPUPlan(self)
    let inputs = inputs
    guard Autograd.isRecording, inputs.contains(where: \.requiresGrad) else {
      return plan.forward(inputs)
    }
    let results = Autograd.apply(
      inputs, forward: { plan.forwardSaving($0) }, backward: { plan.backward($0) })
    return (results[0], results[1])
  }
}

/// A call without its tensors: what the backward pass needs to know besides them.
private struct CPUPlan: Sendable {
  let pattern: AttentionPattern
  let shape: AttentionShape
  let scale: Float
  let layout: Layout
  let hasBeta: Bool
  /// For every mode, the place of its bias among the given ones.
  let biasPlaces: [Int?]

  init(_ call: AttentionCall) {
    pattern = call.pattern
    shape = call.shape
    scale = Float(call.scale)
    layout = call.layout
    hasBeta = call.beta != nil
    var next = 0
    biasPlaces = call.modeBiases.map { bias in
      guard bias != nil else { return nil }
      defer { next += 1 }
      return next
    }
  }

  private var firstBias: Int { hasBeta ? 4 : 3 }

  private var kernels: CPUAttention {
    do {
      return try CPUAttention(executor: .torch)
    } catch {
      fatalError(error.description)
    }
  }

  /// Tensors as the kernels read them: channels next to each other, biases without gaps.
  private func readable(_ inputs: [Tensor]) -> [Tensor] {
    inputs.enumerated().map { index, tensor in
      let isRows = index < 3
      return isRows && (tensor.strides[3] == 1 || tensor.size(3) == 1)
        ? tensor : tensor.contiguous()
    }
  }

  private func rows(_ tensor: Tensor) -> MutableRows<Float> {
    let strides = tensor.strides
    let (head, token) = layout == .headsFirst ? (1, 2) : (2, 1)
    return MutableRows(
      address(tensor), batchStride: strides[0], headStride: strides[head],
      tokenStride: strides[token])
  }

  private func address(_ tensor: Tensor) -> UnsafeMutablePointer<Float> {
    // An empty tensor has no memory; nothing is read or written there either.
    tensor.dataPointer?.assumingMemoryBound(to: Float.self)
      ?? UnsafeMutablePointer(bitPattern: MemoryLayout<Float>.alignment)
      ?? .allocate(capacity: 0)
  }

  private func kernelInputs(_ inputs: [Tensor]) -> AttentionInputs {
    AttentionInputs(
      queries: rows(inputs[0]).reading, keys: rows(inputs[1]).reading,
      values: rows(inputs[2]).reading,
      beta: hasBeta ? UnsafePointer(address(inputs[3])) : nil, betaStride: shape.heads,
      biases: biasPlaces.map { place in
        place.map {
          let bias = inputs[firstBias + $0]
          return BiasPointer(
            address(bias), isPerHead: bias.size(0) == shape.heads && bias.size(0) > 1)
        }
      })
  }

  private var lseShape: [Int] { [shape.batch, shape.heads, shape.tokens] }

  private func emptyOutput(_ inputs: [Tensor]) -> Tensor { .empty(inputs[0].shape) }

  func forward(_ inputs: [Tensor]) -> (output: Tensor, logSumExp: Tensor) {
    let inputs = readable(inputs)
    let output = emptyOutput(inputs)
    let lse = Tensor.empty(lseShape)
    withExtendedLifetime((inputs, output, lse)) {
      kernels.forward(
        pattern, shape, scale: scale, inputs: kernelInputs(inputs), output: rows(output),
        logSumExp: address(lse))
    }
    return (output, lse)
  }

  func forwardSaving(_ inputs: [Tensor]) -> (outputs: [Tensor], saved: [Tensor]) {
    let inputs = readable(inputs)
    let output = emptyOutput(inputs)
    let order = pattern.fold.order
    let values = (1..<order).map { _ in
      Tensor.empty([shape.batch, shape.heads, shape.tokens, shape.width])
    }
    let lses = (0..<order).map { _ in Tensor.empty(lseShape) }
    withExtendedLifetime((inputs, output, values, lses)) {
      kernels.forward(
        pattern, shape, scale: scale, inputs: kernelInputs(inputs), output: rows(output),
        saving: SavedPasses(values: values.map(address), logSumExps: lses.map(address)))
    }
    let outputs = [output, lses[order - 1]]
    return (outputs, inputs + [output] + values + lses)
  }

  func backward(_ pass: Autograd.BackwardPass) -> [Tensor?] {
    let order = pattern.fold.order
    let count = pass.needed.count
    let inputs = Array(pass.saved[..<count])
    let output = pass.saved[count]
    let values = Array(pass.saved[(count + 1)..<(count + order)])
    let lses = Array(pass.saved[(count + order)...])
    let upstream = pass.gradients[0].map { readable([$0])[0] } ?? output.zerosLike()
    let lseUpstream = pass.gradients[1]?.contiguous()
    let gradients = inputs.enumerated().map { index, input -> Tensor in
      // q and k gradients are summed over the passes; the row of the lowest β is never written.
      index < 2 || (hasBeta && index == 3) ? .zeros(input.shape) : .empty(input.shape)
    }
    withExtendedLifetime((pass, upstream, lseUpstream, gradients)) {
      kernels.backward(
        pattern, shape, scale: scale, inputs: kernelInputs(inputs),
        saved: SavedPasses(values: values.map(address), logSumExps: lses.map(address)),
        output: rows(output).reading,
        gradients: CPUAttention.GradientRows(
          output: rows(upstream).reading,
          logSumExp: lseUpstream.map { UnsafePointer(address($0)) },
          queries: rows(gradients[0]), keys: rows(gradients[1]), values: rows(gradients[2]),
          beta: hasBeta && pass.needed[3] ? address(gradients[3]) : nil,
          biases: biasPlaces.map { place in
            place.flatMap {
              pass.needed[firstBias + $0] ? address(gradients[firstBias + $0]) : nil
            }
          }))
    }
    return zip(gradients, pass.needed).map { $1 ? $0 : nil }
  }
}
