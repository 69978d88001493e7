import AttentionCore
import Folding

/// Everything that one call of multi-mask attention is given, in arrays: what its reference reads.
///
/// Arrays are contiguous `[B, H, N, D]`.
public struct MultiMaskProblem<Scalar: ReferenceScalar>: Sendable {
  /// The sizes.
  public var shape: AttentionShape
  /// Masks, scores, scale, dropout.
  public var scheme: MultiMaskScheme
  /// q.
  public var queries: [Scalar]
  /// k.
  public var keys: [Scalar]
  /// v.
  public var values: [Scalar]
  /// s, the source2token logits.
  public var sourceLogits: [Scalar]

  /// Collects a problem.
  ///
  /// - Precondition: every array has B·H·N·D elements and the masks fit.
  public init(
    shape: AttentionShape, scheme: MultiMaskScheme, queries: [Scalar], keys: [Scalar],
    values: [Scalar], sourceLogits: [Scalar]
  ) {
    self.shape = shape
    self.scheme = scheme
    self.queries = queries
    self.keys = keys
    self.values = values
    self.sourceLogits = sourceLogits
    let (b, h, n, d) = (shape.batch, shape.heads, shape.tokens, shape.width)
    require(
      [queries, keys, values, sourceLogits].allSatisfy { $0.count == b * h * n * d },
      "Expected q, k, v and s of [\(b), \(h), \(n), \(d)], got \(queries.count), \(keys.count), "
        + "\(values.count) and \(sourceLogits.count) elements.")
    if let objection = scheme.objection(shape) { fatalError(objection) }
  }
}

/// The output of multi-mask attention and what normalized it.
public struct MultiMaskResult<Scalar: Sendable>: Sendable {
  /// `[B, H, N, D]`.
  public var output: [Scalar]
  /// L_il = ln Σ_j E_t[i,j]·E_s[j,l], `[B, H, N, D]`; −∞ where a query sees no key.
  public var logDenominator: [Scalar]

  /// Collects a result.
  public init(output: [Scalar], logDenominator: [Scalar]) {
    self.output = output
    self.logDenominator = logDenominator
  }
}

/// The gradients of multi-mask attention, each `[B, H, N, D]`.
public struct MultiMaskGradients<Scalar: Sendable>: Sendable {
  /// dq.
  public var queries: [Scalar]
  /// dk.
  public var keys: [Scalar]
  /// dv.
  public var values: [Scalar]
  /// ds.
  public var sourceLogits: [Scalar]
}
