import AttentionCore
import Folding

/// Everything that one call of the operator is given, in arrays: what the reference reads.
///
/// Arrays are contiguous: queries `[B, H, Q, D]` (Q wanted queries), keys and values `[B, G, N, D]`.
public struct AttentionProblem<Scalar: ReferenceScalar>: Sendable {
  /// The sizes.
  public var shape: AttentionShape
  /// Fold, support, normalization, order, positions.
  public var pattern: AttentionPattern
  /// The factor on the logits; 1/√d unless given.
  public var scale: Scalar
  /// q.
  public var queries: [Scalar]
  /// k.
  public var keys: [Scalar]
  /// v.
  public var values: [Scalar]
  /// β, `[m, H]`; the row of the lowest mode is ignored.
  public var beta: [Scalar]?
  /// The bias of mode k at index k − 1: `[H or 1, n_k, n_k]` for block supports, `[H or 1, n_k]` for
  /// the sliding one. Missing entries are no bias.
  public var biases: [[Scalar]?]

  /// Collects a problem.
  ///
  /// - Precondition: every array has the size that the shape and the pattern ask for, and the fold
  ///   holds the tokens if the support needs it.
  public init(
    shape: AttentionShape, pattern: AttentionPattern, scale: Scalar? = nil, queries: [Scalar],
    keys: [Scalar], values: [Scalar], beta: [Scalar]? = nil, biases: [[Scalar]?] = []
  ) {
    self.shape = shape
    self.pattern = pattern
    self.scale = scale ?? Scalar(shape.defaultScale)
    self.queries = queries
    self.keys = keys
    self.values = values
    self.beta = beta
    self.biases = biases
    validate()
  }

  private func validate() {
    let (b, h, g, d) = (shape.batch, shape.heads, shape.keyHeads, shape.width)
    require(
      queries.count == b * h * shape.queries.count * d
        && keys.count == b * g * shape.tokens * d && values.count == keys.count,
      "Expected q [\(b), \(h), \(shape.queries.count), \(d)] and k, v "
        + "[\(b), \(g), \(shape.tokens), \(d)], got \(queries.count), \(keys.count) and "
        + "\(values.count) elements.")
    let order = pattern.fold.order
    require(
      beta.map { $0.count == order * h } ?? true,
      "Expected beta [\(order), \(h)], got \(beta?.count ?? 0) elements.")
    require(
      biases.count <= order, "The fold has \(order) modes, got \(biases.count) mode biases.")
    for (bias, mode) in zip(biases, pattern.fold.modes) {
      let count = pattern.biasCount(mode)
      require(
        bias.map { $0.count == count || $0.count == h * count } ?? true,
        "The bias of mode \(mode.index) needs 1 or \(h) times \(count) elements, got "
          + "\(bias?.count ?? 0).")
    }
    if let objection = pattern.objection(tokens: shape.tokens) { fatalError(objection) }
  }

  /// β of a mode and head; 0 in the lowest mode.
  func beta(_ mode: Mode, head: Int) -> Scalar {
    mode.isLowest ? 0 : beta?[(mode.index - 1) * shape.heads + head] ?? 0
  }

  /// Where the bias of a query and key of one mode is, or nil if there is none.
  func biasIndex(_ mode: Mode, head: Int, query: Int, key: Int) -> Int? {
    guard biases.indices.contains(mode.index - 1), let bias = biases[mode.index - 1] else {
      return nil
    }
    let count = pattern.biasCount(mode)
    let start = bias.count == count ? 0 : head * count
    if pattern.support == .slidingCausal { return start + (query - key) / mode.stride }
    let fold = pattern.fold
    return start + fold.coordinate(of: query, mode: mode.index) * mode.size
      + fold.coordinate(of: key, mode: mode.index)
  }
}

extension AttentionPattern {
  /// The number of values of a mode's bias for one head.
  public func biasCount(_ mode: Mode) -> Int {
    support == .slidingCausal ? mode.size : mode.size * mode.size
  }
}

/// What the operator returns, and what its backward needs.
public struct AttentionResult<Scalar: Sendable>: Sendable {
  /// `[B, H, Q, D]`.
  public var output: [Scalar]
  /// ℓ of the last pass, `[B, H, Q]`.
  public var logSumExp: [Scalar]
  /// The running values before each pass after the first, and ℓ after each pass.
  package var inputs: [[Scalar]]
  package var logSumExps: [[Scalar]]
}

/// The gradients of the operator.
public struct AttentionGradients<Scalar: Sendable>: Sendable {
  /// dq, `[B, H, N, D]`.
  public var queries: [Scalar]
  /// dk, `[B, G, N, D]`.
  public var keys: [Scalar]
  /// dv, `[B, G, N, D]`.
  public var values: [Scalar]
  /// dβ, `[m, H]`, zero in the row of the lowest mode.
  public var beta: [Scalar]
  /// The gradients of the mode biases, in their shapes.
  public var biases: [[Scalar]?]
}
