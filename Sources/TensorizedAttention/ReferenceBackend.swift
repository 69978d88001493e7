import AttentionCPU
import AttentionCore
import Folding
import Torch

extension AttentionCall {
  /// Attends in plain loops, in the type of the tensors.
  func attendByReference() -> (output: Tensor, logSumExp: Tensor) {
    let plan = ReferencePlan(
      pattern: pattern, shape: shape, scale: scale, layout: layout, hasBeta: beta != nil,
      hasBias: modeBiases.map { $0 != nil })
    let isDouble = queries.dtype == .float64
    let results = Autograd.apply(
      inputs,
      forward: { isDouble ? plan.forward($0, Double.self) : plan.forward($0, Float.self) },
      backward: { isDouble ? plan.backward($0, Double.self) : plan.backward($0, Float.self) })
    return (results[0], results[1])
  }
}

/// A call without its tensors, and how tensors become arrays.
private struct ReferencePlan: Sendable {
  let pattern: AttentionPattern
  let shape: AttentionShape
  let scale: Double
  let layout: Layout
  let hasBeta: Bool
  let hasBias: [Bool]

  private func headsFirst(_ tensor: Tensor) -> Tensor {
    layout == .headsFirst ? tensor : tensor.transpose(1, 2)
  }

  private func problem<Scalar: ReferenceScalar & TensorElement>(
    _ inputs: [Tensor], _ type: Scalar.Type
  ) -> AttentionProblem<Scalar> {
    var biases = inputs[(hasBeta ? 4 : 3)...]
    return AttentionProblem(
      shape: shape, pattern: pattern, scale: Scalar(scale),
      queries: headsFirst(inputs[0]).array(type), keys: headsFirst(inputs[1]).array(type),
      values: headsFirst(inputs[2]).array(type), beta: hasBeta ? inputs[3].array(type) : nil,
      biases: hasBias.map { $0 ? biases.removeFirst().array(type) : nil })
  }

  func forward<Scalar: ReferenceScalar & TensorElement>(
    _ inputs: [Tensor], _ type: Scalar.Type
  ) -> (outputs: [Tensor], saved: [Tensor]) {
    let result = Reference(problem(inputs, type)).forward()
    let output = Tensor(result.output, shape: headsFirst(inputs[0]).shape)
    let lse = Tensor(result.logSumExp, shape: [shape.batch, shape.heads, shape.tokens])
    return ([headsFirst(output).contiguous(), lse], inputs)
  }

  func backward<Scalar: ReferenceScalar & TensorElement>(
    _ pass: Autograd.BackwardPass, _ type: Scalar.Type
  ) -> [Tensor?] {
    let inputs = pass.saved
    let reference = Reference(problem(inputs, type))
    let result = reference.forward()
    let upstream = pass.gradients[0].map { headsFirst($0).array(type) }
    let gradients = reference.backward(
      result,
      outputGradient: upstream ?? [Scalar](repeating: 0, count: result.output.count),
      logSumExpGradient: pass.gradients[1]?.array(type))
    let rows = [gradients.queries, gradients.keys, gradients.values].enumerated().map {
      headsFirst(Tensor($1, shape: headsFirst(inputs[$0]).shape))
    }
    let rest =
      (hasBeta ? [gradients.beta] : []) + gradients.biases.compactMap { $0 }
    return rows
      + rest.enumerated().map { Tensor($1, shape: inputs[3 + $0].shape) }
  }
}
