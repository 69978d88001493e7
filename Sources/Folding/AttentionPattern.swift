/// Which keys a query sees in a pass along mode k. All of them lie on the query's stride-`s_k` line.
public enum Support: String, Sendable, Hashable, Codable, CaseIterable {
  /// Every token whose other coordinates equal the query's: the bidirectional form of the paper,
  /// for encoders and time series.
  case block
  /// The same tokens up to the query itself: Algorithm 1 of the paper with lower-triangular masks.
  /// It leaks nothing and reaches only tokens that are earlier in every coordinate.
  case blockCausal = "block-causal"
  /// `t − j·s_k` for `0 ≤ j < n_k`: strided sliding windows. Leaks nothing, reaches every distance
  /// below `n_1·…·n_m` by exactly one path, and needs no divisibility: the default.
  case slidingCausal = "sliding-causal"

  /// Whether a token never sees a later one.
  public var isCausal: Bool { self != .block }
}

/// How the softmaxes of the passes combine.
public enum Normalization: String, Sendable, Hashable, Codable, CaseIterable {
  /// Each pass is a softmax of its own.
  case perMode = "per-mode"
  /// Every pass after the lowest takes the log-sum-exp of the pass below as its diagonal logit, so
  /// that a row is one softmax over near keys and far summaries. Needs ``ChainOrder/lowToHigh``.
  case joint

  /// Says why passes in this order cannot be normalized so, or nil if they can.
  public func objection(order: ChainOrder) -> String? {
    guard self == .joint, order == .highToLow else { return nil }
    return "Joint normalization carries the log-sum-exp upwards and needs the order low-to-high, "
      + "got \(order.rawValue)."
  }
}

/// The order in which the passes run.
public enum ChainOrder: String, Sendable, Hashable, Codable, CaseIterable {
  /// k = m, …, 1: higher modes read summaries of the lower ones. The default.
  case lowToHigh = "low-to-high"
  /// k = 1, …, m: the order in which Algorithm 1 of the paper is written.
  case highToLow = "high-to-low"
}

/// What a fold is attended with: everything about the operator that is not a tensor.
public struct AttentionPattern: Sendable, Hashable, Codable {
  /// The fold (n_1, …, n_m).
  public var fold: Fold
  /// Which keys a query sees along a mode.
  public var support: Support
  /// One softmax a pass, or one over the whole row.
  public var normalization: Normalization
  /// The order of the passes.
  public var order: ChainOrder
  /// The rotary positions.
  public var rotary: Rotary

  /// Creates a pattern.
  ///
  /// - Precondition: ``Normalization/joint`` is not combined with ``ChainOrder/highToLow``: the
  ///   carried log-sum-exp comes from the pass *below*.
  public init(
    fold: Fold, support: Support = .slidingCausal, normalization: Normalization = .joint,
    order: ChainOrder = .lowToHigh, rotary: Rotary = .none
  ) {
    if let objection = normalization.objection(order: order) { fatalError(objection) }
    self.fold = fold
    self.support = support
    self.normalization = normalization
    self.order = order
    self.rotary = rotary
  }

  /// The modes in the order in which their passes run.
  public var chain: [Mode] { order == .lowToHigh ? fold.modes.reversed() : fold.modes }

  /// Says why the pattern cannot attend `tokens` tokens, or nil if it can.
  ///
  /// Block supports need a place for every token; sliding ones take any length.
  public func objection(tokens: Int) -> String? {
    guard support != .slidingCausal, tokens > fold.capacity else { return nil }
    let top = (tokens + fold.strides[0] - 1) / fold.strides[0]
    let larger = Fold([top] + fold.sizes.dropFirst())
    return "The fold \(fold) holds \(fold.capacity) tokens and support \(support.rawValue) needs a "
      + "place for all \(tokens); use a larger top mode (\(larger)) or sliding-causal."
  }
}

extension AttentionPattern {
  private enum CodingKeys: String, CodingKey {
    case fold, support, normalization, order, rotary
  }

  /// Decodes a pattern.
  ///
  /// - Throws: `DecodingError` for joint normalization from high to low, besides what is malformed.
  public init(from decoder: any Decoder) throws {
    let container = try decoder.container(keyedBy: CodingKeys.self)
    let normalization = try container.decode(Normalization.self, forKey: .normalization)
    let order = try container.decode(ChainOrder.self, forKey: .order)
    if let objection = normalization.objection(order: order) {
      throw DecodingError.dataCorruptedError(
        forKey: .order, in: container, debugDescription: objection)
    }
    self.init(
      fold: try container.decode(Fold.self, forKey: .fold),
      support: try container.decode(Support.self, forKey: .support), normalization: normalization,
      order: order, rotary: try container.decode(Rotary.self, forKey: .rotary))
  }
}
