/// TREC question classification: `COARSE:fine` and a question a line, in Latin-1 or UTF-8, such as
/// `NUM:date When did Hawaii become a state ?`.
public struct QuestionFormat: DatasetFormat {
  /// The coarse labels.
  public static let labels = ["ABBR", "DESC", "ENTY", "HUM", "LOC", "NUM"]

  /// Whether labels are fine, such as `NUM:date` (those of the file, in order), or coarse.
  public var isFine: Bool
  /// How questions become words; they have them separated.
  public var splitter: WordSplitter

  /// Creates the format.
  public init(isFine: Bool = false, splitter: WordSplitter = .whitespace) {
    self.isFine = isFine
    self.splitter = splitter
  }

  /// Reads a file of questions.
  public func read(_ path: String) throws -> WordDataset {
    var rows: [(label: String, words: [String])] = []
    try LineReader.forEachLine(of: path, encoding: .utf8OrLatin1) { line in
      if line.isBlank { return }
      let label = line.text.prefix { !$0.isWhitespace }
      let parts = label.split(separator: ":", omittingEmptySubsequences: false)
      guard parts.count == 2, !parts[1].isEmpty else {
        throw line.error(
          .syntax, expected: "COARSE:fine and a question", found: quoted(line.text))
      }
      let coarse = Self.labels[try line.index(of: parts[0], in: Self.labels)]
      let words = try line.words(line.text[label.endIndex...], splitter, of: "the question")
      rows.append((isFine ? String(label) : coarse, words))
    }
    return try classification(
      rows, labels: isFine ? Set(rows.map(\.label)).sorted() : Self.labels, path: path)
  }
}

extension DatasetFormat {
  /// A dataset of labels, all in `labels`, and sentences.
  func classification(
    _ rows: [(label: String, words: [String])], labels: [String], path: String
  ) throws -> WordDataset {
    let places = Dictionary(uniqueKeysWithValues: labels.enumerated().map { ($1, $0) })
    return try dataset(
      .classification, labels: labels,
      rows.map { LabeledExample($0.words, label: places[$0.label] ?? 0) }, path: path)
  }
}
