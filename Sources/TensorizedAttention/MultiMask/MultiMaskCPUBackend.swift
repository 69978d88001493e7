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

  private var kernels: CPUAttention {
    do {
      return try CPUAttention(executor: .torch)
    } catch {
      fatalError(error.description)
    }
  }

  /// A tensor whose channels are neighbors, as the kernels read it.
  private func readable(_ tensor: Tensor) -> Tensor {
    tensor.strides[3] == 1 || tensor.size(3) == 1 ? tensor : tensor.contiguous()
  }

  private func address(_ tensor: Tensor) -> UnsafeMutablePointer<Float> {
    // An empty tensor has no memory; nothing is read or written there either.
    tensor.dataPointer?.assumingMemoryBound(to: Float.self)
      ?? UnsafeMutablePointer(bitPattern: MemoryLayout<Float>.alignment)
      ?? .allocate(capacity: 0)
  }

  private func rows(_ tensor: Tensor) -> MutableRows<Float> {
    let strides = tensor.strides
    let (head, token) = layout == .headsFirst ? (1, 2) : (2, 1)
    return MutableRows(
      address(tensor), batchStride: strides[0], headStride: strides[head],
      tokenStride: strides[token])
  }

  private func forwardRows(
    _ inputs: [Tensor], output: Tensor, saved: MultiMaskSaved?
  ) -> MultiMaskForwardRows {
    MultiMaskForwardRows(
      queries: rows(inputs[0]).reading, keys: rows(inputs[1]).reading,
      values: rows(inputs[2]).reading, sourceLogits: rows(inputs[3]).reading,
      output: rows(output), saved: saved)
  }

  func forward(_ inputs: [Tensor]) -> Tensor {
    let inputs = inputs.map(readable)
    let output = Tensor.empty(inputs[0].shape)
    withExtendedLifetime((inputs, output)) {
      kernels.multiMaskForward(arguments, forwardRows(inputs, output: output, saved: nil))
    }
    return output
  }

  func forwardSaving(_ inputs: [Tensor]) -> (outputs: [Tensor], saved: [Tensor]) {
    let inputs = inputs.map(readable)
    let shape = arguments.shape
    let output = Tensor.empty(inputs[0].shape)
    let normalizers = Tensor.empty([shape.batch, shape.heads, shape.tokens, shape.width])
    let references = Tensor.empty([shape.batch, shape.heads, shape.tokens])
    withExtendedLifetime((inputs, output, normalizers, references)) {
      kernels.multiMaskForward(
        arguments,
        forwardRows(
          inputs, output: output,
          saved: MultiMaskSaved(
            normalizers: address(normalizers), references: address(references))))
    }
    return ([output], inputs + [output, normalizers, references])
  }

  func backward(_ pass: Autograd.BackwardPass) -> [Tensor?] {
    guard let gradient = pass.gradients[0] else { return pass.needed.map { _ in nil } }
    let upstream = readable(gradient)
    let inputs = Array(pass.saved[..<4])
    let saved = MultiMaskSaved(
      normalizers: address(pass.saved[5]), references: address(pass.saved[6]))
    let gradients = inputs.enumerated().map { index, input -> Tensor in
      // dq is summed over the blocks of keys, the others are written.
      index == 0 ? .zeros(input.shape) : .empty(input.shape)
    }
    withExtendedLifetime((pass, upstream, gradients)) {
      kernels.multiMaskBackward(
        arguments,
        MultiMaskBackwardRows(
          forward: forwardRows(inputs, output: pass.saved[4], saved: nil), saved: saved,
          outputGradient: rows(upstream).reading, queriesGradient: rows(gradients[0]),
          keysGradient: rows(gradients[1]), valuesGradient: rows(gradients[2]),
          sourceLogitsGradient: rows(gradients[3])))
    }
    return zip(gradients, pass.needed).map { $1 ? $0 : nil }
  }
}
