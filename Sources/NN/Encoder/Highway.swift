import Torch

/// y = g ⊙ act(x·W₁ᵀ + b₁) + (1 − g) ⊙ x,   g = sigmoid(x·W₂ᵀ + b₂)
///
/// Shapes: x and y [..., width], W₁ and W₂ [width, width].
///
/// Source: Srivastava, Greff, Schmidhuber, "Highway Networks" (2015), equation 3.
public final class Highway: Module {
  @Child("transform") private var transform: Affine
  @Child("gate") private var gate: Affine
  private let activation: Activation

  /// Creates a layer.
  public init(_ width: Int, activation: Activation, initializer: Initializer) {
    _transform.wrappedValue = Affine(width, width, initializer: initializer)
    _gate.wrappedValue = Affine(width, width, initializer: initializer)
    self.activation = activation
  }

  /// Applies the layer.
  public func callAsFunction(_ x: Tensor) -> Tensor {
    x + gate(x).sigmoid() * (activation(transform(x)) - x)
  }
}
