/// What multi-mask attention reads and writes forward, in memory, f32. All rows have H heads.
public struct MultiMaskForwardRows {
  /// q.
  public var queries: Rows<Float>
  /// k.
  public var keys: Rows<Float>
  /// v.
  public var values: Rows<Float>
  /// s, before φ_s.
  public var sourceLogits: Rows<Float>
  /// O.
  public var output: MutableRows<Float>
  /// What the backward pass wants, or nil.
  public var saved: MultiMaskSaved?

  /// Collects the rows.
  public init(
    queries: Rows<Float>, keys: Rows<Float>, values: Rows<Float>, sourceLogits: Rows<Float>,
    output: MutableRows<Float>, saved: MultiMaskSaved? = nil
  ) {
    self.queries = queries
    self.keys = keys
    self.values = values
    self.sourceLogits = sourceLogits
    self.output = output
    self.saved = saved
  }
}

/// Memory for what multi-mask attention keeps for its backward pass, which the caller owns. Only the
/// kernels know what is in it.
public struct MultiMaskSaved {
  /// One a query and feature, contiguous `[B, H, N, D]`.
  public var normalizers: UnsafeMutablePointer<Float>
  /// One a query, contiguous `[B, H, N]`.
  public var references: UnsafeMutablePointer<Float>

  /// Names the memory.
  public init(
    normalizers: UnsafeMutablePointer<Float>, references: UnsafeMutablePointer<Float>
  ) {
    self.normalizers = normalizers
    self.references = references
  }
}

/// What multi-mask attention reads and writes backward.
public struct MultiMaskBackwardRows {
  /// The inputs and the output of the forward pass, and what it saved.
  public var forward: MultiMaskForwardRows
  /// What the forward pass saved.
  public var saved: MultiMaskSaved
  /// dO.
  public var outputGradient: Rows<Float>
  /// dq, added to.
  public var queriesGradient: MutableRows<Float>
  /// dk, written.
  public var keysGradient: MutableRows<Float>
  /// dv, written.
  public var valuesGradient: MutableRows<Float>
  /// ds, written.
  public var sourceLogitsGradient: MutableRows<Float>

  /// Collects the rows.
  public init(
    forward: MultiMaskForwardRows, saved: MultiMaskSaved, outputGradient: Rows<Float>,
    queriesGradient: MutableRows<Float>, keysGradient: MutableRows<Float>,
    valuesGradient: MutableRows<Float>, sourceLogitsGradient: MutableRows<Float>
  ) {
    self.forward = forward
    self.saved = saved
    self.outputGradient = outputGradient
    self.queriesGradient = queriesGradient
    self.keysGradient = keysGradient
    self.valuesGradient = valuesGradient
    self.sourceLogitsGradient = sourceLogitsGradient
  }
}

/// The sizes and the scheme of a call of multi-mask attention.
public struct MultiMaskArguments: Sendable {
  /// The sizes.
  public let shape: AttentionShape
  /// Masks, scores, scale, dropout.
  public let scheme: MultiMaskScheme

  /// Collects the arguments.
  public init(shape: AttentionShape, scheme: MultiMaskScheme) {
    self.shape = shape
    self.scheme = scheme
  }
}
