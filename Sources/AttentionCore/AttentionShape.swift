import Folding

/// The sizes of an attention problem.
public struct AttentionShape: Sendable, Hashable {
  /// B, the number of sequences.
  public var batch: Int
  /// H, the number of query heads.
  public var heads: Int
  /// G, the number of key/value heads; H is a multiple of it.
  public var keyHeads: Int
  /// N, the number of tokens in keys and values.
  public var tokens: Int
  /// D, the head width.
  public var width: Int
  /// The number of real tokens of each sequence; nil if all N are. Tokens beyond are padding: no key
  /// of any query, output 0, log-sum-exp −∞.
  public var lengths: [Int]?
  /// The tokens whose queries are given: 0 ..< N for a whole sequence, the new tokens for a decode
  /// step. Row 0 of the queries and the output is the first of them.
  public var queries: Range<Int>

  /// Describes a problem.
  ///
  /// - Precondition: all sizes are at least 1 (N at least 0), H is a multiple of G, lengths are one a
  ///   sequence and within 0...N, and queries lie within the tokens.
  public init(
    batch: Int, heads: Int, keyHeads: Int? = nil, tokens: Int, width: Int, lengths: [Int]? = nil,
    queries: Range<Int>? = nil
  ) {
    self.batch = batch
    self.heads = heads
    self.keyHeads = keyHeads ?? heads
    self.tokens = tokens
    self.width = width
    self.lengths = lengths
    self.queries = queries ?? 0..<tokens
    validate()
  }

  private func validate() {
    require(
      batch >= 0 && heads >= 1 && keyHeads >= 1 && tokens >= 0 && width >= 1,
      "Attention needs positive sizes, got B \(batch), H \(heads), G \(keyHeads), N \(tokens), "
        + "D \(width).")
    require(
      heads % keyHeads == 0,
      "The \(heads) query heads must be a multiple of the \(keyHeads) key/value heads.")
    require(
      self.queries.lowerBound >= 0 && self.queries.upperBound <= tokens,
      "The queries \(self.queries) do not lie within the \(tokens) tokens.")
    if let lengths {
      require(
        lengths.count == batch && lengths.allSatisfy { (0...tokens).contains($0) },
        "Expected \(batch) lengths between 0 and \(tokens), got \(lengths).")
    }
  }

  /// The number of query heads that share a key/value head.
  public var group: Int { heads / keyHeads }

  /// The number of real tokens of a sequence.
  public func length(_ sequence: Int) -> Int { lengths?[sequence] ?? tokens }

  /// The scale 1/√d that logits get unless another is given.
  public var defaultScale: Double { 1 / Double(width).squareRoot() }
}
