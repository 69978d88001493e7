import Folding

/// What a pass reads besides its rows: everything about mode k that the kernels need.
public struct PassArguments {
  /// The sizes of the problem.
  public let shape: AttentionShape
  /// The mode k.
  public let mode: Mode
  /// The support.
  public let support: Support
  /// The factor on the logits.
  public let scale: Float
  /// The angles of the rotary embedding, nil for none.
  public let angles: RotaryAngles?
  /// β_k, one for each query head; nil for none.
  public let beta: UnsafePointer<Float>?
  /// The mode bias: for block supports `[H or 1, n_k, n_k]` by coordinates (query, key), for the
  /// sliding one `[H or 1, n_k]` by distance.
  public let bias: UnsafePointer<Float>?
  /// The distance between the heads of the bias; 0 if all share one.
  public let biasHeadStride: Int

  /// Collects the arguments of a pass.
  public init(
    shape: AttentionShape, mode: Mode, support: Support, scale: Float, angles: RotaryAngles?,
    beta: UnsafePointer<Float>? = nil, bias: UnsafePointer<Float>? = nil, biasHeadStride: Int = 0
  ) {
    self.shape = shape
    self.mode = mode
    self.support = support
    self.scale = scale
    self.angles = angles
    self.beta = beta
    self.bias = bias
    self.biasHeadStride = biasHeadStride
  }

  /// The lines of the pass.
  public var fibers: Fibers {
    Fibers(mode: mode, support: support, tokens: shape.tokens, queries: shape.queries)
  }
}

/// The rows of a forward pass: `u'(t) = Σ softmax(z) u(t')`.
///
/// Queries and output start at the first wanted query, the others at token 0. Log-sum-exps are
/// natural and lie in `[B, H, N]` with the given stride between (batch, head) pairs.
public struct ForwardRows {
  /// q, H heads.
  public var queries: Rows<Float>
  /// k, G heads.
  public var keys: Rows<Float>
  /// u, H heads, or G in the first pass.
  public var values: Rows<Float>
  /// Whether `values` have G heads.
  public var valuesAreGrouped: Bool
  /// ℓ of the pass below in joint normalization, from the first wanted query on.
  public var carried: UnsafePointer<Float>?
  /// u', H heads.
  public var output: MutableRows<Float>
  /// ℓ', from the first wanted query on.
  public var logSumExp: UnsafeMutablePointer<Float>
  /// The distance between the log-sum-exps of two heads.
  public var logSumExpStride: Int

  /// Collects the rows of a pass.
  public init(
    queries: Rows<Float>, keys: Rows<Float>, values: Rows<Float>, valuesAreGrouped: Bool,
    carried: UnsafePointer<Float>?, output: MutableRows<Float>,
    logSumExp: UnsafeMutablePointer<Float>, logSumExpStride: Int
  ) {
    self.queries = queries
    self.keys = keys
    self.values = values
    self.valuesAreGrouped = valuesAreGrouped
    self.carried = carried
    self.output = output
    self.logSumExp = logSumExp
    self.logSumExpStride = logSumExpStride
  }
}

/// The rows of a backward pass. All sequences are whole: queries cover 0 ..< N.
///
/// Log-sum-exps and their gradients are contiguous `[B, H, N]`. Gradients of queries,
/// keys, β and bias are added to what is there, the others are written.
public struct BackwardRows {
  /// q, H heads.
  public var queries: Rows<Float>
  /// k, G heads.
  public var keys: Rows<Float>
  /// u, H heads, or G in the first pass.
  public var values: Rows<Float>
  /// Whether `values` and their gradient have G heads.
  public var valuesAreGrouped: Bool
  /// ℓ of the pass below in joint normalization.
  public var carried: UnsafePointer<Float>?
  /// u' as the forward pass returned it.
  public var output: Rows<Float>
  /// ℓ' as the forward pass returned it.
  public var logSumExp: UnsafePointer<Float>
  /// du'.
  public var outputGradient: Rows<Float>
  /// dℓ', or nil for zero.
  public var logSumExpGradient: UnsafePointer<Float>?
  /// dq, added to.
  public var queriesGradient: MutableRows<Float>
  /// dk, added to.
  public var keysGradient: MutableRows<Float>
  /// du, written.
  public var valuesGradient: MutableRows<Float>
  /// dℓ, written, in joint normalization.
  public var carriedGradient: UnsafeMutablePointer<Float>?
  /// dβ_k, one for each query head, added to.
  public var betaGradient: UnsafeMutablePointer<Float>?
  /// The gradient of the mode bias in its own shape, added to.
  public var biasGradient: UnsafeMutablePointer<Float>?

  /// Collects the rows of a pass.
  public init(
    queries: Rows<Float>, keys: Rows<Float>, values: Rows<Float>, valuesAreGrouped: Bool,
    carried: UnsafePointer<Float>?, output: Rows<Float>, logSumExp: UnsafePointer<Float>,
    outputGradient: Rows<Float>, logSumExpGradient: UnsafePointer<Float>?,
    queriesGradient: MutableRows<Float>, keysGradient: MutableRows<Float>,
    valuesGradient: MutableRows<Float>, carriedGradient: UnsafeMutablePointer<Float>?,
    betaGradient: UnsafeMutablePointer<Float>?, biasGradient: UnsafeMutablePointer<Float>?
  ) {
    self.queries = queries
    self.keys = keys
    self.values = values
    self.valuesAreGrouped = valuesAreGrouped
    self.carried = carried
    self.output = output
    self.logSumExp = logSumExp
    self.outputGradient = outputGradient
    self.logSumExpGradient = logSumExpGradient
    self.queriesGradient = queriesGradient
    self.keysGradient = keysGradient
    self.valuesGradient = valuesGradient
    self.carriedGradient = carriedGradient
    self.betaGradient = betaGradient
    self.biasGradient = biasGradient
  }
}
