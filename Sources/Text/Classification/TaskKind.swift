/// What a labeled example asks for.
public enum TaskKind: String, Sendable, Hashable, Codable, CaseIterable {
  /// One label for a sentence.
  case classification
  /// One label for two sentences, such as entailment.
  case pair
  /// One label for every token of a sentence.
  case tagging

  /// The number of sentences in an example.
  public var sentences: Int { self == .pair ? 2 : 1 }
}
