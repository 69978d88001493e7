import Torch

/// y = x / √(mean(x²) + ε) · w over the last axis, in the element type of x.
///
/// Source: Zhang, Sennrich, "Root Mean Square Layer Normalization" (2019).
public final class RMSNorm: Module {
  /// w.
  @Weight("weight", decays: false) public private(set) var weight: Tensor
  private let epsilon: Double

  /// Creates a norm of all ones.
  public init(_ width: Int, epsilon: Double, initializer: Initializer) {
    _weight.wrappedValue = initializer.constant([width], 1)
    self.epsilon = epsilon
  }

  /// Applies the norm.
  public func callAsFunction(_ x: Tensor) -> Tensor {
    x.rmsNorm([weight.count], weight: weight.to(x.dtype), epsilon: epsilon)
  }
}
