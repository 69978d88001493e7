import Folding
import Torch

/// y = x·Wᵀ + b.
///
/// Shapes: x [..., inputs], W [outputs, inputs], b [outputs], y [..., outputs].
public final class Affine: Module {
  /// W.
  @Weight("weight") public private(set) var weight: Tensor
  /// b, zero at first.
  @Weight("bias", decays: false) public private(set) var bias: Tensor

  /// Creates a layer with Glorot-distributed weights.
  public init(_ inputs: Int, _ outputs: Int, initializer: Initializer) {
    _weight.wrappedValue = initializer.glorot([outputs, inputs])
    _bias.wrappedValue = initializer.constant([outputs], 0)
  }

  /// Applies the layer.
  public func callAsFunction(_ x: Tensor) -> Tensor { x.linear(weight, bias: bias) }
}

/// An affine map of its own for every head: y_c = x_c·W_cᵀ + b_c.
///
/// Shapes: x [B, N, H, inputs], W [H, outputs, inputs], b [H, outputs], y [B, N, H, outputs].
public final class HeadwiseAffine: Module {
  /// W.
  @Weight("weight") public private(set) var weight: Tensor
  /// b, zero at first; nil for a linear map.
  @OptionalWeight("bias", decays: false) public private(set) var bias: Tensor?

  /// Creates a layer with Glorot-distributed weights.
  public init(
    heads: Int, _ inputs: Int, _ outputs: Int, hasBias: Bool = true, initializer: Initializer
  ) {
    _weight.wrappedValue = initializer.glorot([heads, outputs, inputs])
    _bias.wrappedValue = hasBias ? initializer.constant([heads, outputs], 0) : nil
  }

  /// Applies the layer as one batched product over the heads.
  public func callAsFunction(_ x: Tensor) -> Tensor {
    let (batch, tokens, heads) = (x.size(0), x.size(1), x.size(2))
    let rows = x.permute([2, 0, 1, 3]).reshape([heads, batch * tokens, x.size(3)])
    var y = rows.bmm(weight.transpose(1, 2))
    if let bias { y = y + bias.unsqueeze(1) }
    return y.unflatten(1, [batch, tokens]).permute([1, 2, 0, 3])
  }
}

extension Initializer {
  /// Normal values of variance 2/(inputs + outputs), for weights [..., outputs, inputs].
  ///
  /// Source: Glorot, Bengio, "Understanding the difficulty of training deep feedforward neural
  /// networks" (2010), equation 12.
  public func glorot(_ shape: [Int]) -> Tensor {
    require(shape.count >= 2, "Glorot's variance needs [..., outputs, inputs], got \(shape).")
    let fans = shape[shape.count - 1] + shape[shape.count - 2]
    return normal(shape, deviation: (2 / Double(fans)).squareRoot())
  }
}
