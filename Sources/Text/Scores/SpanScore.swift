import Folding

/// Scores of spans in BIO tags, as the CoNLL shared tasks count them: a predicted span is right if an
/// actual one has the same first and last token and the same type.
///
/// A span of type X begins at `B-X`, and at an `I-X` that no span of type X comes before; it
/// goes on through `I-X`.
public struct SpanScore: Sendable, Hashable, Codable {
  /// A span of a type.
  public struct Span: Sendable, Hashable {
    /// The type, such as `A0`.
    public let type: String
    /// The tokens.
    public let tokens: Range<Int>

    /// Creates a span.
    public init(type: String, tokens: Range<Int>) {
      self.type = type
      self.tokens = tokens
    }
  }

  /// The names of the tags.
  public let labels: [String]
  /// Types that do not count.
  public let excluded: Set<String>
  /// The matches of each type.
  public private(set) var types: [String: Matches] = [:]

  /// A score without spans.
  ///
  /// - Parameters:
  ///   - labels: the tags: `O`, and `B-X` and `I-X` of each type X.
  ///   - excluding: types that do not count; CoNLL-2005 leaves out the predicate itself, `V`.
  public init(labels: [String], excluding: Set<String> = []) {
    require(
      labels.allSatisfy { $0 == "O" || $0.hasPrefix("B-") || $0.hasPrefix("I-") },
      "Expected the tags O, B-X and I-X, got \(labels).")
    self.labels = labels
    excluded = excluding
  }

  /// Counts the spans of one sentence. Tokens whose actual tag is ``LabeledBatch/ignoredTarget`` are
  /// left out on both sides.
  ///
  /// - Precondition: as many actual as predicted tags, all of them indices into ``labels``.
  public mutating func add(actual: some Collection<Int>, predicted: some Collection<Int>) {
    require(
      actual.count == predicted.count,
      "Expected a prediction for each of \(actual.count) tags, got \(predicted.count).")
    let pairs = zip(actual, predicted).filter { $0.0 != LabeledBatch.ignoredTarget }
    let truth = Set(spans(pairs.map(\.0)))
    let guesses = Set(spans(pairs.map(\.1)))
    for span in truth { types[span.type, default: Matches()].actual += 1 }
    for span in guesses { types[span.type, default: Matches()].predicted += 1 }
    for span in truth.intersection(guesses) { types[span.type, default: Matches()].correct += 1 }
  }

  /// The matches of all types together: its `f1` is the score that the shared tasks report.
  public var overall: Matches {
    types.values.reduce(into: Matches()) {
      $0.correct += $1.correct
      $0.predicted += $1.predicted
      $0.actual += $1.actual
    }
  }

  /// The spans of tags, those of excluded types left out.
  public func spans(_ tags: [Int]) -> [Span] {
    var spans: [Span] = []
    var open: (type: Substring, start: Int)?
    for (place, tag) in (tags.map { labels[$0] } + ["O"]).enumerated() {
      let type: Substring? = tag == "O" ? nil : tag.dropFirst(2)
      if let span = open, tag.hasPrefix("B-") || type != span.type {
        spans.append(Span(type: String(span.type), tokens: span.start..<place))
        open = nil
      }
      if open == nil, let type { open = (type, place) }
    }
    return spans.filter { !excluded.contains($0.type) }
  }
}
