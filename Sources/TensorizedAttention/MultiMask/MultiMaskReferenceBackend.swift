import AttentionCPU
import AttentionCore
import Torch

extension MultiMaskCall {
  /// Attends in plain loops, in the type of the tensors.
  func attendByReference() -> Tensor {
    let plan = ReferencePlan(scheme: scheme, shape: shape, layout: layout)
    let isDouble = inputs[0].dtype == .float64
    let results = Autograd.apply(
      inputs,
      forward: { isDouble ? plan.forward($0, Double.self) : plan.forward($0, Float.self) },
      backward: { isDouble ? plan.backward($0, Double.self) : plan.backward($0, Float.self) })
    return results[0]
  }
}

/// A call without its tensors, and how tensors become arrays.
private struct ReferencePlan: Sendable {
  let scheme: MultiMaskScheme
  let shape: AttentionShape
  let layout: Layout

  private func headsFirst(_ tensor: Tensor) -> Tensor {
    layout == .headsFirst ? tensor : tensor.transpose(1, 2)
  }

  private func tensor<Scalar: TensorElement>(_ values: [Scalar]) -> Tensor {
    let rows = Tensor(values, shape: [shape.batch, shape.heads, shape.tokens, shape.width])
    return headsFirst(rows).contiguous()
  }

  private func reference<Scalar: ReferenceScalar & TensorElement>(
    _ inputs: [Tensor], _ type: Scalar.Type
  ) -> MultiMaskReference<Scalar> {
    let rows = inputs.map { headsFirst($0).array(type) }
    return MultiMaskReference(
      MultiMaskProblem(
        shape: shape, scheme: scheme, queries: rows[0], keys: rows[1], values: rows[2],
        sourceLogits: rows[3]))
  }

  func forward<Scalar: ReferenceScalar & TensorElement>(
    _ inputs: [Tensor], _ type: Scalar.Type
  ) -> (outputs: [Tensor], saved: [Tensor]) {
    let result = reference(inputs, type).forward()
    let denominators = Tensor(
      result.logDenominator, shape: [shape.batch, shape.heads, shape.tokens, shape.width])
    let output = tensor(result.output)
    return ([output], inputs + [output, denominators])
  }

  func backward<Scalar: ReferenceScalar & TensorElement>(
    _ pass: Autograd.BackwardPass, _ type: Scalar.Type
  ) -> [Tensor?] {
    guard let upstream = pass.gradients[0] else { return pass.needed.map { _ in nil } }
    let gradients = reference(Array(pass.saved[..<4]), type).backward(
      MultiMaskResult(
        output: headsFirst(pass.saved[4]).array(type), logDenominator: pass.saved[5].array(type)),
      outputGradient: headsFirst(upstream).array(type))
    return [gradients.queries, gradients.keys, gradients.values, gradients.sourceLogits].map(tensor)
  }
}
