import Folding

/// Which keys the queries of one head may see: M of multi-mask tensorized self-attention.
///
/// With rows as queries and columns as keys, of four tokens:
///
///     forward(strict)  forward   backward(strict)  diagonalDisabled  window(left: 1, right: 0)
///        0 0 0 0       1 0 0 0       0 1 1 1           0 1 1 1            1 0 0 0
///        1 0 0 0       1 1 0 0       0 0 1 1           1 0 1 1            1 1 0 0
///        1 1 0 0       1 1 1 0       0 0 0 1           1 1 0 1            0 1 1 0
///        1 1 1 0       1 1 1 1       0 0 0 0           1 1 1 0            0 0 1 1
public enum PositionalMask: Sendable, Hashable {
  /// Every key.
  case full
  /// The keys before the query; with itself unless strict.
  case forward(strict: Bool = true)
  /// The keys after the query; with itself unless strict.
  case backward(strict: Bool = true)
  /// Every key but the query's own.
  case diagonalDisabled
  /// The keys at most `left` tokens before the query and `right` after it, with itself.
  case window(left: Int, right: Int)
  /// The keys that a matrix names.
  case custom(TokenMask)

  /// The masks of the published models: the first half of the heads looks back, the other ahead.
  ///
  /// - Precondition: the number of heads is even.
  public static func directional(heads: Int, strict: Bool = true) -> [PositionalMask] {
    require(heads % 2 == 0, "Two directions need an even number of heads, got \(heads).")
    return (0..<heads).map { $0 < heads / 2 ? .forward(strict: strict) : .backward(strict: strict) }
  }

  /// Whether the mask fits a sequence; a sentence that says why not, or nil.
  public func objection(tokens: Int) -> String? {
    switch self {
    case .window(let left, let right) where left < 0 || right < 0:
      "A window reaches at least 0 tokens to each side, got \(left) and \(right)."
    case .custom(let mask) where mask.tokens != tokens:
      "The custom mask is for \(mask.tokens) tokens, the sequence has \(tokens)."
    default: nil
    }
  }

  /// Whether a query sees a key.
  public func shows(key: Int, to query: Int) -> Bool {
    switch self {
    case .diagonalDisabled: key != query
    case .custom(let mask): mask.shows(key: key, to: query)
    default: keys(of: query, count: .max).contains(key)
    }
  }

  /// The keys from the first to the last that a query sees, among `count` tokens. Only
  /// ``diagonalDisabled`` and ``custom(_:)`` hide any of them.
  public func keys(of query: Int, count: Int) -> Range<Int> {
    let range: Range<Int>
    switch self {
    case .full, .diagonalDisabled: return 0..<count
    case .forward(let strict): range = 0..<(strict ? query : query + 1)
    case .backward(let strict): range = (strict ? query + 1 : query)..<max(count, query + 1)
    case .window(let left, let right):
      range = query - min(left, query)..<(right < count - query ? query + right + 1 : count)
    case .custom(let mask): range = mask.keyRanges[query]
    }
    return range.clamped(to: 0..<count)
  }

  /// The queries from the first to the last that see a key, among `count` tokens.
  public func observers(of key: Int, count: Int) -> Range<Int> {
    switch self {
    case .full, .diagonalDisabled: 0..<count
    case .forward(let strict): PositionalMask.backward(strict: strict).keys(of: key, count: count)
    case .backward(let strict): PositionalMask.forward(strict: strict).keys(of: key, count: count)
    case .window(let left, let right):
      PositionalMask.window(left: right, right: left).keys(of: key, count: count)
    case .custom(let mask): mask.observerRanges[key].clamped(to: 0..<count)
    }
  }
}

/// A mask of any shape over N tokens: N² bytes, the only ones that attention under it holds.
public struct TokenMask: Sendable, Hashable {
  /// N.
  public let tokens: Int
  /// `[N, N]`, queries by keys; 1 where the query sees the key, 0 elsewhere.
  public let bytes: [UInt8]
  /// For every query, from the first key that it sees to the last.
  let keyRanges: [Range<Int>]
  /// For every key, from the first query that sees it to the last.
  let observerRanges: [Range<Int>]

  /// Asks for every pair whether the query sees the key.
  public init(tokens: Int, shows: (_ query: Int, _ key: Int) -> Bool) {
    var bytes = [UInt8](repeating: 0, count: tokens * tokens)
    for query in 0..<tokens {
      for key in 0..<tokens where shows(query, key) { bytes[query * tokens + key] = 1 }
    }
    self.init(tokens: tokens, bytes: bytes)
  }

  /// Reads rows of queries.
  ///
  /// - Precondition: there are as many rows as columns.
  public init(_ rows: [[Bool]]) {
    require(
      rows.allSatisfy { $0.count == rows.count },
      "A mask has as many columns as rows, got rows of \(Set(rows.map(\.count)).sorted()) for "
        + "\(rows.count) tokens.")
    self.init(tokens: rows.count) { rows[$0][$1] }
  }

  private init(tokens: Int, bytes: [UInt8]) {
    self.tokens = tokens
    self.bytes = bytes
    func range(_ visible: (Int) -> Bool) -> Range<Int> {
      guard let first = (0..<tokens).first(where: visible) else { return 0..<0 }
      return first..<((0..<tokens).last(where: visible) ?? first) + 1
    }
    keyRanges = (0..<tokens).map { query in range { bytes[query * tokens + $0] != 0 } }
    observerRanges = (0..<tokens).map { key in range { bytes[$0 * tokens + key] != 0 } }
  }

  /// Whether a query sees a key.
  public func shows(key: Int, to query: Int) -> Bool { bytes[query * tokens + key] != 0 }
}
