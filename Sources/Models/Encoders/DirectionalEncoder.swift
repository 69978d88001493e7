import NN
import Torch

// Shen et al., "DiSAN: Directional Self-Attention Network for RNN/CNN-Free Language Understanding"
// (2018): feature-wise attention with the scores of all pairs in memory.

/// Directional self-attention in one direction, as published:
///
///     h = act(x·Whᵀ + b_h)
///     f(i,j) = c·tanh((W₁h_i + W₂h_j + b)/c) + log M(i,j)        a score a feature, c = 5
///     s_i = Σ_j softmax_j f(i,j) ⊙ h_j                           feature by feature
///     F = sigmoid(W_s s + W_h h + b_F),   u = F ⊙ h + (1 − F) ⊙ s
///
/// Shapes: x [B, N, inputs], h, s and u [B, N, width], f [B, N, N, width]. M hides the token itself
/// and everything after it, or before it.
///
/// Complexity: O(B·N²·width) time and memory: the tensor of scores is formed. That is the point of
/// comparison for multi-mask attention, which has feature-wise scores without the tensor.
final class DirectionalAttention: Module {
  @Child("hidden") private var hidden: Affine
  @Child("query") private var query: Affine
  @Weight("key") private var key: Tensor
  @Child("gate_attended") private var gateAttended: Affine
  @Weight("gate_hidden") private var gateHidden: Tensor
  private let isForward: Bool
  private let activation: Activation

  /// c, the bound of the scores.
  static let bound = 5.0

  init(
    inputs: Int, width: Int, isForward: Bool, activation: Activation, initializer: Initializer
  ) {
    _hidden.wrappedValue = Affine(inputs, width, initializer: initializer)
    _query.wrappedValue = Affine(width, width, initializer: initializer)
    _key.wrappedValue = initializer.glorot([width, width])
    _gateAttended.wrappedValue = Affine(width, width, initializer: initializer)
    _gateHidden.wrappedValue = initializer.glorot([width, width])
    self.isForward = isForward
    self.activation = activation
  }

  func callAsFunction(_ x: Tensor, padding: Padding?) -> Tensor {
    let h = activation(hidden(x))
    // The division by c comes before the pairs, where it costs N instead of N² a feature.
    let queries = (query(h) / Self.bound).unsqueeze(2)
    let keys = (h.linear(key) / Self.bound).unsqueeze(1)
    let isHidden = hiddenPairs(tokens: x.size(1), padding: padding, device: x.device)
    // Scores are at most c and their stand-in for −∞ is finite: a row that sees nothing gets even
    // weights here and is cleared below.
    let scores = ((queries + keys).tanh() * Self.bound).filled(where: isHidden, with: -1e30)
    let attended = (scores.softmax(axis: 2) * h.unsqueeze(1)).sum(axis: 2)
    let s = attended.filled(where: isHidden.squeeze(3).asEveryKey, with: 0.0)
    let gate = (gateAttended(s) + h.linear(gateHidden)).sigmoid()
    return s + gate * (h - s)
  }

  /// True where a query must not see a key: [1 or B, N, N, 1].
  private func hiddenPairs(tokens: Int, padding: Padding?, device: Device) -> Tensor {
    let ones = Tensor.ones([1, tokens, tokens], dtype: .bool, device: device)
    let direction = isForward ? ones.upperTriangle() : ones.lowerTriangle()
    guard let padding else { return direction.unsqueeze(3) }
    return (direction .| .!padding.isReal.unsqueeze(1)).unsqueeze(3)
  }
}

extension Tensor {
  /// Where every key of a query is hidden: [B, N, N] to [B, N, 1].
  fileprivate var asEveryKey: Tensor {
    ATen.tensor("aten::all.dim", [.tensor(self), 2, true])
  }
}

/// Both directions side by side, and a map to the width that is asked for.
public final class BidirectionalFeatureAttention: SequenceLayer {
  @Child("forward") private var forward: DirectionalAttention
  @Child("backward") private var backward: DirectionalAttention
  @Child("o_proj") private var outputProjection: Affine

  /// Creates a layer; each direction is `width` wide.
  public init(
    inputs: Int, width: Int, outputs: Int, activation: Activation = .elu, initializer: Initializer
  ) {
    _forward.wrappedValue = DirectionalAttention(
      inputs: inputs, width: width, isForward: true, activation: activation,
      initializer: initializer)
    _backward.wrappedValue = DirectionalAttention(
      inputs: inputs, width: width, isForward: false, activation: activation,
      initializer: initializer)
    _outputProjection.wrappedValue = Affine(2 * width, outputs, initializer: initializer)
  }

  /// Applies the layer.
  public func callAsFunction(_ x: Tensor, padding: Padding?, dropout: Generator?) -> Tensor {
    let both = [forward(x, padding: padding), backward(x, padding: padding)]
    return outputProjection(Tensor.cat(both, axis: 2))
  }
}
