/// Windows for evaluation: blocks of the longest context, spread evenly over a text, each cut into
/// windows of the context at hand. Windows of all lengths cover exactly the same tokens, so losses at
/// different lengths compare like with like.
public struct EvaluationWindows: Sendable {
  /// The text.
  public let text: [UInt8]
  /// The length of a block.
  public let longestContext: Int
  /// Where the blocks begin.
  public let blocks: [Int]

  /// The number of tokens that are covered.
  public var tokens: Int { blocks.count * longestContext }

  /// Covers at most `tokens` tokens, rounded down to a multiple of the longest context.
  ///
  /// - Throws: ``CorpusError/tooShort(part:bytes:needed:)`` if not one longest context fits.
  public init(text: [UInt8], tokens: Int, longestContext: Int) throws {
    let room = text.count - 1 - longestContext
    let count = min(tokens, text.count - 1) / longestContext
    guard count > 0 else {
      throw CorpusError.tooShort(
        part: "validation", bytes: min(tokens, text.count), needed: longestContext + 1)
    }
    self.text = text
    self.longestContext = longestContext
    // As far apart as they can be; at least one block apart, since count · longestContext fits.
    blocks = (0..<count).map { count == 1 ? 0 : $0 * room / (count - 1) }
  }

  /// The batches of windows of `context` tokens, at most `batchTokens` tokens (and at least one
  /// window) each.
  ///
  /// - Precondition: `context` divides ``longestContext``.
  public func batches(context: Int, batchTokens: Int) -> [Batch] {
    precondition(
      context >= 1 && longestContext % context == 0,
      "Context \(context) does not divide the longest context, \(longestContext).")
    let starts = blocks.flatMap { stride(from: $0, to: $0 + longestContext, by: context) }
    let rows = max(1, batchTokens / context)
    return stride(from: 0, to: starts.count, by: rows).map {
      Batch(text: text, starts: Array(starts[$0..<min($0 + rows, starts.count)]), context: context)
    }
  }
}
