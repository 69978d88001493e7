import Torch

/// y = x·Wᵀ, without a bias.
///
/// Shapes: x [..., inputs], W [outputs, inputs], y [..., outputs]. Computed in the element type of x, whatever
/// that of W is: weights can stay in float32 while activations are bfloat16.
public final class Linear: Module {
  /// W.
  @Weight("weight") public private(set) var weight: Tensor

  /// Creates a layer with normally distributed weights.
  public init(
    _ inputs: Int, _ outputs: Int, deviation: Double, initializer: Initializer
  ) {
    _weight.wrappedValue = initializer.normal([outputs, inputs], deviation: deviation)
  }

  /// Applies the layer.
  public func callAsFunction(_ x: Tensor) -> Tensor { x.linear(weight.to(x.dtype)) }
}
