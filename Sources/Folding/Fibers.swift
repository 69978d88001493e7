/// A line of tokens along one mode: `start, start + stride, …`.
public struct Fiber: Sendable, Hashable {
  /// The first token of the line.
  public let start: Int
  /// The mode's stride `s_k`.
  public let stride: Int
  /// The number of tokens on the line.
  public let count: Int
  /// The places on the line (0 ..< count) that lie in the range of tokens asked for.
  public let queries: Range<Int>

  /// The token at a place of the line.
  public func token(at place: Int) -> Int { start + place * stride }
}

/// The lines along which a pass of one mode attends.
///
/// With the block supports a line holds the at most `n_k` tokens whose other coordinates agree; with
/// the sliding support it is a whole residue class `t mod s_k`, along which a window of `n_k` places
/// slides. Either way every key of a query lies on the query's own line, at places that
/// ``keys(of:count:)`` gives.
public struct Fibers: Sendable {
  /// The mode k.
  public let mode: Mode
  /// The support.
  public let support: Support
  /// The number N of tokens.
  public let tokens: Int
  /// The queries wanted: a range of tokens, 0 ..< N for a whole sequence.
  public let queries: Range<Int>

  private let period: Int
  private let firstGroup: Int
  private let lastGroup: Int
  private let linesInFirst: Int

  /// Creates the lines of a mode over `tokens` tokens that hold at least one of `queries`.
  public init(mode: Mode, support: Support, tokens: Int, queries: Range<Int>? = nil) {
    let queries = queries ?? 0..<tokens
    require(
      queries.lowerBound >= 0 && queries.upperBound <= tokens,
      "The queries \(queries) do not lie within the \(tokens) tokens.")
    self.mode = mode
    self.support = support
    self.tokens = tokens
    self.queries = queries
    // The sliding support has a single group: the whole sequence. So has the top mode, whose
    // coordinate is not reduced.
    period =
      support == .slidingCausal || mode.index == 1
      ? max(tokens, 1) : mode.size * mode.stride
    firstGroup = queries.lowerBound / period
    lastGroup = queries.isEmpty ? firstGroup : (queries.upperBound - 1) / period
    let end = min(queries.upperBound, (firstGroup + 1) * period)
    linesInFirst = max(0, min(mode.stride, end - queries.lowerBound))
  }

  /// The number of lines.
  public var count: Int {
    guard !queries.isEmpty else { return 0 }
    guard lastGroup > firstGroup else { return linesInFirst }
    let inLast = min(mode.stride, queries.upperBound - lastGroup * period)
    return linesInFirst + (lastGroup - firstGroup - 1) * mode.stride + inLast
  }

  /// The line with a number from 0 to count − 1. Neighboring numbers are neighboring tokens.
  public subscript(index: Int) -> Fiber {
    var group = firstGroup
    var token = queries.lowerBound + index
    if index >= linesInFirst {
      group += 1 + (index - linesInFirst) / mode.stride
      token = group * period + (index - linesInFirst) % mode.stride
    }
    let origin = group * period
    let start = origin + (token - origin) % mode.stride
    let end = min(tokens, origin + period)
    let count = (end - start + mode.stride - 1) / mode.stride
    let upper = min(end, queries.upperBound)
    return Fiber(
      start: start, stride: mode.stride, count: count,
      queries: (token - start) / mode.stride..<(upper - start + mode.stride - 1) / mode.stride)
  }

  /// The most tokens that a line holds.
  public var longest: Int {
    min((tokens + mode.stride - 1) / mode.stride, period / mode.stride + 1)
  }

  /// The places that the query at `place` sees on a line of `count` tokens.
  public func keys(of place: Int, count: Int) -> Range<Int> {
    switch support {
    case .block: return 0..<count
    case .blockCausal: return 0..<place + 1
    case .slidingCausal: return max(0, place - mode.size + 1)..<place + 1
    }
  }

  /// The places of the queries that see the key at `place` on a line of `count` tokens.
  public func observers(of place: Int, count: Int) -> Range<Int> {
    switch support {
    case .block: return 0..<count
    case .blockCausal: return place..<count
    case .slidingCausal: return place..<min(count, place + mode.size)
    }
  }
}
