import Torch

/// y = (x − mean x) / √(variance x + ε) · w + b over the last axis.
///
/// Source: Ba, Kiros, Hinton, "Layer Normalization" (2016).
public final class LayerNorm: Module {
  /// w, one at first.
  @Weight("weight", decays: false) public private(set) var weight: Tensor
  /// b, zero at first.
  @Weight("bias", decays: false) public private(set) var bias: Tensor
  private let epsilon: Double

  /// Creates a norm.
  public init(_ width: Int, epsilon: Double = 1e-5, initializer: Initializer) {
    _weight.wrappedValue = initializer.constant([width], 1)
    _bias.wrappedValue = initializer.constant([width], 0)
    self.epsilon = epsilon
  }

  /// Applies the norm.
  public func callAsFunction(_ x: Tensor) -> Tensor {
    x.layerNorm([weight.count], weight: weight, bias: bias, epsilon: epsilon)
  }
}
