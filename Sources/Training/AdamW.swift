import NN
import OrderedCollections
import Torch

/// Adam with decoupled weight decay, in place on all parameters at once:
///
///     m ← β₁·m + (1 − β₁)·g        v ← β₂·v + (1 − β₂)·g²
///     w ← w − rate·λ·w             w ← w − rate · (m / (1 − β₁ˢ)) / (√(v / (1 − β₂ˢ)) + ε)
///
/// Norms, embeddings and logit biases declare themselves free of decay (λ = 0 for them).
///
/// Source: Loshchilov, Hutter, "Decoupled Weight Decay Regularization" (2019), algorithm 2.
public final class AdamW: Optimizer {
  /// The parameters by name.
  public let parameters: OrderedDictionary<String, Parameter>
  private let configuration: TrainingConfiguration
  private let groups: [Group]

  /// Parameters with the same decay, and their running moments.
  private struct Group {
    let names: [String]
    let tensors: [Tensor]
    let means: [Tensor]
    let squares: [Tensor]
    /// s, once a parameter, as libtorch's fused step wants it.
    let steps: [Tensor]
    let decay: Double

    init(_ parameters: [(name: String, tensor: Tensor)], decay: Double) {
      names = parameters.map(\.name)
      tensors = parameters.map(\.tensor)
      means = tensors.map { $0.detached().zerosLike() }
      squares = tensors.map { $0.detached().zerosLike() }
      steps = tensors.map { Tensor.zeros([], device: $0.device) }
      self.decay = decay
    }
  }

  /// Prepares to optimize parameters; all moments are zero.
  public init(
    _ parameters: OrderedDictionary<String, Parameter>, configuration: TrainingConfiguration
  ) {
    self.parameters = parameters
    self.configuration = configuration
    let all = parameters.map { (name: $0.key, tensor: $0.value.tensor, decays: $0.value.decays) }
    groups = [true, false].map { decays in
      Group(
        all.filter { $0.decays == decays }.map { ($0.name, $0.tensor) },
        decay: decays ? configuration.weightDecay : 0)
    }.filter { !$0.tensors.isEmpty }
  }

  /// Changes the parameters by one step along their gradients. Parameters without one stay.
  public func step(rate: Double) {
    withNoGrad {
      for group in groups {
        let active = group.tensors.indices.filter { group.tensors[$0].grad != nil }
        guard !active.isEmpty else { continue }
        let steps = active.map { group.steps[$0] }
        ATen.values("aten::_foreach_add_.Scalar", [.tensors(steps), 1])
        Foreach.adamWInPlace(
          active.map { group.tensors[$0] },
          gradients: active.compactMap { group.tensors[$0].grad },
          averages: active.map { group.means[$0] },
          squareAverages: active.map { group.squares[$0] },
          steps: steps,
          options: .init(
            learningRate: rate, beta1: configuration.beta1, beta2: configuration.beta2,
            weightDecay: group.decay, epsilon: configuration.epsilon))
      }
    }
  }

  /// The moments and step counts by name, for a checkpoint.
  public func state() -> OrderedDictionary<String, Tensor> {
    var state: OrderedDictionary<String, Tensor> = [:]
    for group in groups {
      for (index, name) in group.names.enumerated() {
        state[name + ".mean"] = group.means[index]
        state[name + ".square"] = group.squares[index]
        state[name + ".step"] = group.steps[index]
      }
    }
    return state
  }
}

/// Cuts the gradients of parameters together to an L2 norm:
/// `g ← g · min(1, clip / ‖g‖)`.
///
/// - Parameters:
///   - clip: the largest norm; 0 changes nothing.
/// - Returns: ‖g‖ before the cut.
@discardableResult
public func clipGradients(_ parameters: some Sequence<Parameter>, to clip: Double) -> Double {
  withNoGrad {
    let gradients = parameters.compactMap { $0.tensor.grad }
    guard !gradients.isEmpty else { return 0 }
    let norm = Tensor.stack(Foreach.norms(gradients)).norm().item(Double.self)
    if clip > 0, norm > clip { Foreach.multiplyInPlace(gradients, clip / norm) }
    return norm
  }
}
