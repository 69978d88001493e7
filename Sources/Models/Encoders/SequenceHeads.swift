import NN
import Torch

/// act(x·W₁ᵀ + b₁)·W₂ᵀ + b₂: scores of classes from one vector a sequence, or a token.
///
/// Shapes: x [..., inputs] to [..., classes].
public final class ClassificationHead: Module {
  @Child("inner") private var inner: Affine
  @Child("outer") private var outer: Affine
  private let activation: Activation
  private let dropoutRate: Double

  /// Creates a head; `dropout` is the probability of zeros before each map.
  public init(
    inputs: Int, width: Int, classes: Int, activation: Activation, dropout: Double,
    initializer: Initializer
  ) {
    _inner.wrappedValue = Affine(inputs, width, initializer: initializer)
    _outer.wrappedValue = Affine(width, classes, initializer: initializer)
    self.activation = activation
    dropoutRate = dropout
  }

  /// Applies the head.
  public func callAsFunction(_ x: Tensor, dropout: Generator?) -> Tensor {
    let inner = activation(inner(x.dropped(dropoutRate, by: dropout)))
    return outer(inner.dropped(dropoutRate, by: dropout))
  }
}

/// Scores of how two sequences relate, from a vector of each:
///
///     f = [u; v; u − v; u ⊙ v]        dense, highway, dense
///
/// Shapes: u and v [B, inputs] to [B, classes].
///
/// Source: the inference head in the code of Shen et al., "Tensorized Self-Attention" (2019).
public final class PairHead: Module {
  @Child("inner") private var inner: Affine
  @Child("highway") private var highway: Highway
  @Child("outer") private var outer: Affine
  private let activation: Activation
  private let dropoutRate: Double

  /// Creates a head; `dropout` is the probability of zeros before each dense map.
  public init(
    inputs: Int, width: Int, classes: Int, activation: Activation, dropout: Double,
    initializer: Initializer
  ) {
    _inner.wrappedValue = Affine(4 * inputs, width, initializer: initializer)
    _highway.wrappedValue = Highway(width, activation: activation, initializer: initializer)
    _outer.wrappedValue = Affine(width, classes, initializer: initializer)
    self.activation = activation
    dropoutRate = dropout
  }

  /// Applies the head.
  public func callAsFunction(_ u: Tensor, _ v: Tensor, dropout: Generator?) -> Tensor {
    let features = Tensor.cat([u, v, u - v, u * v], axis: -1)
    let inner = activation(inner(features.dropped(dropoutRate, by: dropout)))
    return outer(highway(inner).dropped(dropoutRate, by: dropout))
  }
}
