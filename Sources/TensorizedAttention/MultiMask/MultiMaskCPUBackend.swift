import AttentionCPU
import AttentionCore
import Torch

extension MultiMaskCall {
  /// Attends through the SIMD kernels.
  func attendOnCPU() -> Tensor {
    let plan = CPUPlan(arguments: MultiMaskArguments(shape: shape, scheme: scheme), layout: layout)
    guard Autograd.isRecording, inputs.contains(where: \.requiresGrad) else {
      return plan.forward(inputs)
    }
    let results = Autograd.apply(
      inputs, forward: { plan.forwardSaving($0) }, backward: { plan.backward($0) })
    return results[0]
  }
}

/// A call without its tensors: what the backward pass needs to know besides them.
private struct CPUPlan: Sendable {
  let arguments: MultiMaskArguments
  let layout: Layout

  private func forwardRows(
    _ inputs: [Tensor], output: Tensor, saved: MultiMaskSaved?
  ) -> MultiMaskForwardRows {
    MultiMaskForwardRows(
      queries: inputs[0].rows(layout).reading, keys: inputs[1].rows(layout).reading,
      values: inputs[2].rows(layout).reading, sourceLogits: inputs[3].rows(layout).reading,
      output: output.rows(layout), saved: saved)
  }

  func forward(_ inputs: [Tensor]) -> Tensor {
    let inputs = inputs.map(\.withNeighboringChannels)
    let output = Tensor.empty(inputs[0].shape)
    withExtendedLifetime((inputs, output)) {
      CPUAttention.onTorchThreads.multiMaskForward(
        arguments, forwardRows(inputs, output: output, saved: nil))
    }
    return output
  }

  func forwardSaving(_ inputs: [Tensor]) -> (outputs: [Tensor], saved: [Tensor]) {
    let inputs = inputs.map(\.withNeighboringChannels)
    let shape = arguments.shape
    let output = Tensor.empty(inputs[0].shape)
    let normalizers = Tensor.empty([shape.batch, shape.heads, shape.tokens, shape.width])
    let references = Tensor.empty([shape.batch, shape.heads, shape.tokens])
    withExtendedLifetime((inputs, output, normalizers, references)) {
      CPUAttention.onTorchThreads.multiMaskForward(
        arguments,
        forwardRows(
          inputs, output: output,
          saved: MultiMaskSaved(
            normalizers: normalizers.floats, references: references.floats)))
    }
    return ([output], inputs + [output, normalizers, references])
  }

  func backward(_ pass: Autograd.BackwardPass) -> [Tensor?] {
    guard let gradient = pass.gradients[0] else { return pass.needed.map { _ in nil } }
    let upstream = gradient.withNeighboringChannels
    let inputs = Array(pass.saved[..<4])
    let saved = MultiMaskSaved(
      normalizers: pass.saved[5].floats, references: pass.saved[6].floats)
    let gradients = inputs.enumerated().map { index, input -> Tensor in
      // dq is summed over the blocks of keys, the others are written.
      index == 0 ? .zeros(input.shape) : .empty(input.shape)
    }
    withExtendedLifetime((pass, upstream, gradients)) {
      CPUAttention.onTorchThreads.multiMaskBackward(
        arguments,
        MultiMaskBackwardRows(
          forward: forwardRows(inputs, output: pass.saved[4], saved: nil), saved: saved,
          outputGradient: upstream.rows(layout).reading, queriesGradient: gradients[0].rows(layout),
          keysGradient: gradients[1].rows(layout), valuesGradient: gradients[2].rows(layout),
          sourceLogitsGradient: gradients[3].rows(layout)))
    }
    return zip(gradients, pass.needed).map { $1 ? $0 : nil }
  }
}
