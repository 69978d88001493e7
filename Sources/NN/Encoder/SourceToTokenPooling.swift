import Torch

/// Multi-dimensional source2token self-attention, which makes one vector of a sequence: every
/// feature weighs the tokens by a softmax of its own.
///
///     a = softmax over tokens of ( act(x·W₁ᵀ + b₁)·W₂ᵀ + b₂ )      feature by feature
///     y = Σ_j a_j ⊙ x_j
///
/// Shapes: x [B, N, width], W₁ and W₂ [width, width], y [B, width]. Padding has weight 0; a sequence
/// without tokens gives 0.
///
/// Source: Shen et al., "Tensorized Self-Attention" (2019), section 2.2; in its code the pooling of
/// every sentence model.
public final class SourceToTokenPooling: Module {
  @Child("inner") private var inner: Affine
  @Child("outer") private var outer: Affine
  private let activation: Activation

  /// Creates a layer.
  public init(_ width: Int, activation: Activation, initializer: Initializer) {
    _inner.wrappedValue = Affine(width, width, initializer: initializer)
    _outer.wrappedValue = Affine(width, width, initializer: initializer)
    self.activation = activation
  }

  /// Applies the layer.
  public func callAsFunction(_ x: Tensor, padding: Padding? = nil) -> Tensor {
    let scores = outer(activation(inner(x)))
    guard let padding else { return (scores.softmax(axis: 1) * x).sum(axis: 1) }
    // A finite stand-in for −∞ keeps the softmax of a sequence without tokens finite; clearing its
    // values then makes it 0.
    let hidden = .!padding.isReal.unsqueeze(2)
    let weights = scores.filled(where: hidden, with: -1e30).softmax(axis: 1)
    return (weights * padding.clearing(x)).sum(axis: 1)
  }
}
