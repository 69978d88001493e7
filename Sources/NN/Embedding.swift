import Torch

/// One vector a token. Its table can also serve as the output layer (a tied head).
///
/// Shapes: tokens [...] of integers, table [V, width], result [..., width].
public final class Embedding: Module {
  /// The table.
  @Weight("weight", decays: false) public private(set) var weight: Tensor

  /// Creates a normally distributed table.
  public init(
    vocabularySize: Int, width: Int, deviation: Double, initializer: Initializer
  ) {
    _weight.wrappedValue = initializer.normal([vocabularySize, width], deviation: deviation)
  }

  /// The vectors of tokens.
  public func callAsFunction(_ tokens: Tensor) -> Tensor { weight.embedding(tokens) }

  /// The scores of all tokens: x·Wᵀ, [..., width] to [..., V], in the element type of x.
  public func scores(_ x: Tensor) -> Tensor { x.linear(weight.to(x.dtype)) }
}
