import Torch

/// A layer through which the tokens of a sequence learn of one another.
///
/// Shapes: [B, N, inputs] to [B, N, outputs]. Outputs of real tokens do not depend on padding; those
/// of padding mean nothing.
public protocol SequenceLayer: Module {
  /// Applies the layer.
  ///
  /// - Parameters:
  ///   - padding: which tokens are real; nil if all are.
  ///   - dropout: where a training step's random zeros come from; nil drops nothing.
  func callAsFunction(_ x: Tensor, padding: Padding?, dropout: Generator?) -> Tensor
}

/// y = act(x·W₁ᵀ + b₁)·W₂ᵀ + b₂, token by token.
public final class FeedForward: Module {
  @Child("inner") private var inner: Affine
  @Child("outer") private var outer: Affine
  private let activation: Activation
  private let dropoutRate: Double

  /// Creates a layer; `dropout` is the probability of zeros among the inner features.
  public init(
    _ width: Int, inner innerWidth: Int, activation: Activation, dropout: Double,
    initializer: Initializer
  ) {
    _inner.wrappedValue = Affine(width, innerWidth, initializer: initializer)
    _outer.wrappedValue = Affine(innerWidth, width, initializer: initializer)
    self.activation = activation
    dropoutRate = dropout
  }

  /// Applies the layer.
  public func callAsFunction(_ x: Tensor, dropout: Generator?) -> Tensor {
    outer(activation(inner(x)).dropped(dropoutRate, by: dropout))
  }
}

/// A post-norm block, the feed-forward part first:
///
///     x ← LN(x + drop(FFN(x)))
///     x ← LN(x + drop(mixer(x)))
///
/// Source: the stacked encoder in the code of Shen et al., "Tensorized Self-Attention" (2019).
public final class EncoderBlock<Mixer: SequenceLayer>: SequenceLayer {
  @Child("feed_forward") private var feedForward: FeedForward
  @Child("feed_forward_norm") private var feedForwardNorm: LayerNorm
  @Child("mixer") private var mixer: Mixer
  @Child("mixer_norm") private var mixerNorm: LayerNorm
  private let residualDropout: Double

  /// Creates a block around a mixer from and to the width of the residual stream.
  public init(_ sizes: EncoderSizes, mixer: Mixer, initializer: Initializer) {
    _feedForward.wrappedValue = FeedForward(
      sizes.width, inner: sizes.innerWidth, activation: sizes.activation,
      dropout: sizes.innerDropout, initializer: initializer)
    _feedForwardNorm.wrappedValue = LayerNorm(sizes.width, initializer: initializer)
    _mixer.wrappedValue = mixer
    _mixerNorm.wrappedValue = LayerNorm(sizes.width, initializer: initializer)
    residualDropout = sizes.residualDropout
  }

  /// Applies the block.
  public func callAsFunction(_ x: Tensor, padding: Padding?, dropout: Generator?) -> Tensor {
    let fed = feedForward(x, dropout: dropout).dropped(residualDropout, by: dropout)
    let y = feedForwardNorm(x + fed)
    let mixed = mixer(y, padding: padding, dropout: dropout).dropped(residualDropout, by: dropout)
    return mixerNorm(y + mixed)
  }
}

/// The sizes that all blocks of a stack share.
public struct EncoderSizes: Sendable, Hashable {
  /// The width of the residual stream.
  public var width: Int
  /// The width inside the feed-forward part.
  public var innerWidth: Int
  /// The function inside the feed-forward part.
  public var activation: Activation
  /// The probability of zeros on what a part adds to the residual stream.
  public var residualDropout: Double
  /// The probability of zeros inside the feed-forward part.
  public var innerDropout: Double

  /// Creates sizes.
  public init(
    width: Int, innerWidth: Int, activation: Activation = .relu, residualDropout: Double = 0,
    innerDropout: Double = 0
  ) {
    self.width = width
    self.innerWidth = innerWidth
    self.activation = activation
    self.residualDropout = residualDropout
    self.innerDropout = innerDropout
  }
}

/// Blocks one after another.
public final class EncoderStack<Mixer: SequenceLayer>: SequenceLayer {
  @Children("blocks") private var blocks: [EncoderBlock<Mixer>]

  /// Creates a stack; every block's mixer is made by `mixer`.
  public init(
    blocks count: Int, _ sizes: EncoderSizes, initializer: Initializer, mixer: () -> Mixer
  ) {
    _blocks.wrappedValue = (0..<count).map { _ in
      EncoderBlock(sizes, mixer: mixer(), initializer: initializer)
    }
  }

  /// Applies the stack.
  public func callAsFunction(_ x: Tensor, padding: Padding?, dropout: Generator?) -> Tensor {
    blocks.reduce(x) { $1($0, padding: padding, dropout: dropout) }
  }
}
