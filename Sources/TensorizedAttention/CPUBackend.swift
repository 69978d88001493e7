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

  /// Tensors as the kernels read them: channels next to each other, biases without gaps.
  private func readable(_ inputs: [Tensor]) -> [Tensor] {
    inputs.enumerated().map { index, tensor in
      index < 3 ? tensor.withNeighboringChannels : tensor.contiguous()
    }
  }

  private func kernelInputs(_ inputs: [Tensor]) -> AttentionInputs {
    AttentionInputs(
      queries: inputs[0].rows(layout).reading, keys: inputs[1].rows(layout).reading,
      values: inputs[2].rows(layout).reading,
      beta: hasBeta ? UnsafePointer(inputs[3].floats) : nil, betaStride: shape.heads,
      biases: biasPlaces.map { place in
        place.map {
          let bias = inputs[firstBias + $0]
          return BiasPointer(
            bias.floats, isPerHead: bias.size(0) == shape.heads && bias.size(0) > 1)
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
      CPUAttention.onTorchThreads.forward(
        pattern, shape, scale: scale, inputs: kernelInputs(inputs), output: output.rows(layout),
        logSumExp: lse.floats)
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
      CPUAttention.onTorchThreads.forward(
        pattern, shape, scale: scale, inputs: kernelInputs(inputs), output: output.rows(layout),
        saving: SavedPasses(values: values.map(\.floats), logSumExps: lses.map(\.floats)))
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
      CPUAttention.onTorchThreads.backward(
        pattern, shape, scale: scale, inputs: kernelInputs(inputs),
        saved: SavedPasses(values: values.map(\.floats), logSumExps: lses.map(\.floats)),
        output: output.rows(layout).reading,
        gradients: CPUAttention.GradientRows(
          output: upstream.rows(layout).reading,
          logSumExp: lseUpstream.map { UnsafePointer($0.floats) },
          queries: gradients[0].rows(layout), keys: gradients[1].rows(layout),
          values: gradients[2].rows(layout),
          beta: hasBeta && pass.needed[3] ? gradients[3].floats : nil,
          biases: biasPlaces.map { place in
            place.flatMap {
              pass.needed[firstBias + $0] ? gradients[firstBias + $0].floats : nil
            }
          }))
    }
    return zip(gradients, pass.needed).map { $1 ? $0 : nil }
  }
}
