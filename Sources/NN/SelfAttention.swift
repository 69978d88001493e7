import Folding
import TensorizedAttention
import Torch

/// Causal self-attention with grouped queries, whose keys are chosen by an ``AttentionKind``:
///
///     o = concat_h attend(x·Wqᵀ, x·Wkᵀ, x·Wvᵀ) · Woᵀ
///
/// Shapes: x and o [B, N, width], Wq [H·D, width], Wk and Wv [G·D, width], Wo [width, H·D],
/// β [m − 1, H] for tensorized attention of order m ≥ 2 (the lowest mode has none).
///
/// Every kind has the same projections, so models that differ in kind differ by β alone.
public final class SelfAttention: Module {
  @Child("q_proj") private(set) var queryProjection: Linear
  @Child("k_proj") private(set) var keyProjection: Linear
  @Child("v_proj") private(set) var valueProjection: Linear
  @Child("o_proj") private(set) var outputProjection: Linear
  /// β of all modes but the lowest.
  @OptionalWeight("beta", decays: false) public private(set) var beta: Tensor?

  /// The kind of attention.
  public let kind: AttentionKind
  private let heads: Int
  private let groups: Int
  private let headWidth: Int
  private let mechanism: Mechanism

  /// How a layer attends, with what it needs for that.
  enum Mechanism {
    case full(FullAttention)
    case tensorized(AttentionPattern)
  }

  /// The sizes of an attention layer.
  public struct Shape: Sendable, Hashable {
    /// The width of the residual stream.
    public var width: Int
    /// H.
    public var heads: Int
    /// G, which divides H.
    public var groups: Int
    /// D, even.
    public var headWidth: Int
    /// The base of the rotary frequencies.
    public var rotaryBase: Double

    /// Creates sizes.
    public init(width: Int, heads: Int, groups: Int, headWidth: Int, rotaryBase: Double) {
      precondition(
        groups >= 1 && heads % groups == 0,
        "The \(heads) query heads must be a multiple of the \(groups) key/value heads.")
      self.width = width
      self.heads = heads
      self.groups = groups
      self.headWidth = headWidth
      self.rotaryBase = rotaryBase
    }
  }

  /// Creates a layer.
  ///
  /// - Parameters:
  ///   - deviation: the standard deviation of Wq, Wk, Wv.
  ///   - outputDeviation: that of Wo, smaller in deep residual stacks.
  public init(
    _ shape: Shape, kind: AttentionKind, deviation: Double, outputDeviation: Double,
    initializer: Initializer
  ) {
    let (width, inner) = (shape.width, shape.heads * shape.headWidth)
    let shared = shape.groups * shape.headWidth
    _queryProjection.wrappedValue = Linear(
      width, inner, deviation: deviation, initializer: initializer)
    _keyProjection.wrappedValue = Linear(
      width, shared, deviation: deviation, initializer: initializer)
    _valueProjection.wrappedValue = Linear(
      width, shared, deviation: deviation, initializer: initializer)
    _outputProjection.wrappedValue = Linear(
      inner, width, deviation: outputDeviation, initializer: initializer)
    self.kind = kind
    heads = shape.heads
    groups = shape.groups
    headWidth = shape.headWidth
    switch kind {
    case .full:
      mechanism = .full(FullAttention(headWidth: shape.headWidth, rotaryBase: shape.rotaryBase))
    case .window(let size):
      // A sliding causal fold of one mode is exactly a window.
      mechanism = .tensorized(
        AttentionPattern(fold: Fold([size]), rotary: Rotary(.mode, base: shape.rotaryBase)))
    case .tensorized(var pattern, let initialBeta):
      pattern.rotary.base = shape.rotaryBase
      mechanism = .tensorized(pattern)
      let order = pattern.fold.order
      _beta.wrappedValue =
        order > 1
        ? initialBeta.map { initializer.constant([order - 1, shape.heads], $0) } : nil
    }
  }

  /// Applies the layer to whole sequences, or, with a cache, to the tokens that follow those the
  /// cache holds; the cache then holds both.
  public func callAsFunction(_ x: Tensor, cache: (any AttentionCache)? = nil) -> Tensor {
    let (batch, tokens) = (x.size(0), x.size(1))
    let queries = queryProjection(x).reshape([batch, tokens, heads, headWidth])
    let keys = keyProjection(x).reshape([batch, tokens, groups, headWidth])
    let values = valueProjection(x).reshape([batch, tokens, groups, headWidth])
    let attended: Tensor
    if let cache {
      attended = cache.attend(queries: queries, keys: keys, values: values)
    } else {
      switch mechanism {
      case .full(let full):
        attended = full.attend(queries: queries, keys: keys, values: values)
      case .tensorized(let pattern):
        attended =
          tensorizedAttention(
            queries: queries, keys: keys, values: values, pattern: pattern,
            beta: betaOfAllModes?.to(queries.dtype), layout: .tokensFirst
          ).output
      }
    }
    return outputProjection(attended.reshape([batch, tokens, heads * headWidth]))
  }

  /// An empty cache for ``callAsFunction(_:cache:)``.
  public func makeCache() -> any AttentionCache {
    switch mechanism {
    case .full(let full): FullAttentionCache(full)
    case .tensorized(let pattern): FoldedAttentionCache(pattern: pattern, beta: betaOfAllModes)
    }
  }

  /// β with a row for the lowest mode, which the operator ignores: [m, H].
  private var betaOfAllModes: Tensor? {
    beta.map { Tensor.cat([$0, Tensor.zeros([1, heads], dtype: $0.dtype, device: $0.device)]) }
  }
}
