import NN
import OrderedCollections
import Torch

/// Steps whose size follows the running sizes of earlier steps and gradients, in place:
///
///     g ← g + λ·w
///     s ← ρ·s + (1 − ρ)·g²
///     Δ = √(a + ε) / √(s + ε) · g
///     a ← ρ·a + (1 − ρ)·Δ²          w ← w − rate·Δ
///
/// Source: Zeiler, "ADADELTA: An Adaptive Learning Rate Method" (2012), algorithm 1, with L2 decay
/// and a rate as in other implementations.
public final class Adadelta: Optimizer {
  /// The parameters by name.
  public let parameters: OrderedDictionary<String, Parameter>
  private let slots: [Slot]
  private let momentum: Double
  private let epsilon: Double

  private struct Slot {
    let name: String
    let tensor: Tensor
    let decay: Double
    /// s.
    let gradients: Tensor
    /// a.
    let changes: Tensor
  }

  /// Prepares to optimize parameters; the running means are zero.
  ///
  /// - Parameters:
  ///   - weightDecay: λ, for the parameters that decay.
  ///   - momentum: ρ.
  ///   - epsilon: ε.
  public init(
    _ parameters: OrderedDictionary<String, Parameter>, weightDecay: Double,
    momentum: Double = 0.95, epsilon: Double = 1e-6
  ) {
    self.parameters = parameters
    self.momentum = momentum
    self.epsilon = epsilon
    slots = parameters.map { name, parameter in
      Slot(
        name: name, tensor: parameter.tensor, decay: parameter.decays ? weightDecay : 0,
        gradients: parameter.tensor.detached().zerosLike(),
        changes: parameter.tensor.detached().zerosLike())
    }
  }

  /// Changes the parameters by one step along their gradients. Parameters without one stay.
  public func step(rate: Double) {
    withNoGrad {
      for slot in slots {
        guard var gradient = slot.tensor.grad else { continue }
        if slot.decay > 0 { gradient = gradient + slot.tensor * slot.decay }
        slot.gradients.multiplyInPlace(momentum)
        slot.gradients.addProductInPlace(gradient, gradient, scale: 1 - momentum)
        let change =
          (slot.changes + epsilon).sqrt() / (slot.gradients + epsilon).sqrt() * gradient
        slot.changes.multiplyInPlace(momentum)
        slot.changes.addProductInPlace(change, change, scale: 1 - momentum)
        slot.tensor.addInPlace(change, scale: -rate)
      }
    }
  }

  /// The running means by name, for a checkpoint.
  public func state() -> OrderedDictionary<String, Tensor> {
    var state: OrderedDictionary<String, Tensor> = [:]
    for slot in slots {
      state[slot.name + ".gradients"] = slot.gradients
      state[slot.name + ".changes"] = slot.changes
    }
    return state
  }
}
