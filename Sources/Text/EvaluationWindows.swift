/// Consecutive, disjoint windows of a text. For every context length that divides the token count,
/// the windows cover exactly the same tokens, so losses at different lengths compare like with like.
public struct EvaluationWindows: Sendable {
  /// The text.
  public let text: [UInt8]
  /// The number of tokens that are covered, from the beginning of the text.
  public let tokens: Int

  /// Covers at most `tokens` tokens, rounded down to a multiple of the longest context.
  ///
  /// - Throws: ``CorpusError/tooShort(part:bytes:needed:)`` if not one longest context fits.
  public init(text: [UInt8], tokens: Int, longestContext: Int) throws {
    let available = min(tokens, text.count - 1) / longestContext * longestContext
    guard available > 0 else {
      throw CorpusError.tooShort(
        part: "validation", bytes: min(tokens, text.count), needed: longestContext + 1)
    }
    self.text = text
    self.tokens = available
  }

  /// The batches of windows of `context` tokens, at most `batchTokens` tokens (and at least one
  /// window) each.
  ///
  /// - Precondition: `context` divides ``tokens``.
  public func batches(context: Int, batchTokens: Int) -> [Batch] {
    precondition(
      context >= 1 && tokens % context == 0,
      "Context \(context) does not divide the \(tokens) tokens that are evaluated.")
    let starts = Array(stride(from: 0, to: tokens, by: context))
    let rows = max(1, batchTokens / context)
    return stride(from: 0, to: starts.count, by: rows).map {
      Batch(text: text, starts: Array(starts[$0..<min($0 + rows, starts.count)]), context: context)
    }
  }
}
