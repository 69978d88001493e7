import Foundation

/// SNLI and MultiNLI: sentence pairs, a JSON object a line.
///
/// Of an object's fields it uses `gold_label`, `sentence1` and `sentence2`, and, unless told otherwise,
/// `sentence1_binary_parse` and `sentence2_binary_parse`, whose leaves are the words that the
/// collection's authors found. Pairs whose annotators did not agree (gold label `-`) are left out and
/// counted.
public struct InferenceFormat: DatasetFormat {
  /// The labels.
  public static let labels = ["entailment", "contradiction", "neutral"]

  /// Whether words come from the binary parses where a line has both.
  public var usesParses: Bool
  /// How sentences without a parse become words.
  public var splitter: WordSplitter

  /// Creates the format.
  public init(usesParses: Bool = true, splitter: WordSplitter = WordSplitter()) {
    self.usesParses = usesParses
    self.splitter = splitter
  }

  private struct Pair: Decodable {
    let goldLabel: String
    let sentence1: String
    let sentence2: String
    let parse1: String?
    let parse2: String?

    enum CodingKeys: String, CodingKey {
      case sentence1, sentence2
      case goldLabel = "gold_label"
      case parse1 = "sentence1_binary_parse"
      case parse2 = "sentence2_binary_parse"
    }
  }

  /// Reads a `.jsonl` file.
  public func read(_ path: String) throws -> WordDataset {
    let decoder = JSONDecoder()
    var examples: [LabeledExample<String>] = []
    var unlabeled = 0
    try LineReader.forEachLine(of: path, encoding: .utf8) { line in
      if line.isBlank { return }
      let pair = try decode(line, decoder)
      guard pair.goldLabel != "-" else {
        unlabeled += 1
        return
      }
      let label = try line.index(of: pair.goldLabel, in: Self.labels)
      let sentences = try words(of: pair, line)
      examples.append(LabeledExample(sentences: sentences, targets: [label]))
    }
    return try dataset(
      .pair, labels: Self.labels, examples,
      skipped: unlabeled == 0 ? [:] : ["without a gold label": unlabeled], path: path)
  }

  private func decode(_ line: TextLine, _ decoder: JSONDecoder) throws -> Pair {
    do {
      return try decoder.decode(Pair.self, from: Data(line.text.utf8))
    } catch DecodingError.keyNotFound(let key, _) {
      throw line.error(
        .syntax, expected: "the field \(key.stringValue)", found: "a JSON object without it",
        remedy: "use the jsonl file as it was published")
    } catch DecodingError.typeMismatch(_, let context) where !context.codingPath.isEmpty {
      throw line.error(
        .syntax, expected: "text in the field \(context.codingPath[0].stringValue)",
        found: "another type")
    } catch DecodingError.valueNotFound(_, let context) where !context.codingPath.isEmpty {
      throw line.error(
        .syntax, expected: "text in the field \(context.codingPath[0].stringValue)", found: "null")
    } catch {
      throw line.error(
        .syntax, expected: "a JSON object", found: quoted(line.text),
        remedy: "use the jsonl file, not the txt file, and check that it is complete")
    }
  }

  private func words(of pair: Pair, _ line: TextLine) throws -> [[String]] {
    guard usesParses, let first = pair.parse1, let second = pair.parse2 else {
      return [
        try line.words(pair.sentence1, splitter, of: "sentence1"),
        try line.words(pair.sentence2, splitter, of: "sentence2"),
      ]
    }
    return try [(first, "sentence1_binary_parse"), (second, "sentence2_binary_parse")].map {
      let leaves = $0.split(whereSeparator: \.isWhitespace).filter { $0 != "(" && $0 != ")" }
      guard !leaves.isEmpty else {
        throw line.error(.empty, expected: "words in \($1)", found: quoted($0))
      }
      return leaves.map(splitter.normalized)
    }
  }
}
