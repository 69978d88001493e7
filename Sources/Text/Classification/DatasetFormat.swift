/// A public file format of labeled text.
///
/// Files are read line by line. A line that is not of the format, a label that the format does not know
/// and bytes that are no text end the reading with a ``DatasetError`` that names file and line;
/// `Documentation/Datasets.md` shows lines of each format.
public protocol DatasetFormat: Sendable {
  /// Reads a dataset.
  ///
  /// - Parameter path: a file, or a folder where the format says so.
  /// - Throws: ``DatasetError``.
  func read(_ path: String) throws -> WordDataset
}

extension DatasetFormat {
  /// Reads three files of the same format; labels that only some have are shared.
  ///
  /// - Throws: ``DatasetError``.
  public func read(training: String, validation: String, test: String) throws
    -> DatasetSplits<String>
  {
    DatasetSplits(
      training: try read(training), validation: try read(validation), test: try read(test))
  }

  /// A dataset of what was read.
  ///
  /// - Throws: ``DatasetError`` of the reason `empty` if there is no example.
  func dataset(
    _ kind: TaskKind, labels: [String], _ examples: [LabeledExample<String>],
    skipped: [String: Int] = [:], path: String
  ) throws -> WordDataset {
    guard !examples.isEmpty else {
      let left = skipped.sorted { $0.key < $1.key }.map { ", \($0.value) \($0.key)" }.joined()
      throw DatasetError(
        .empty, path: path, expected: "at least one example", found: "none\(left)",
        remedy: "check that the file is complete and of this format")
    }
    return WordDataset(kind: kind, labels: labels, examples: examples, skipped: skipped)
  }
}

extension TextLine {
  /// The index of a label.
  ///
  /// - Throws: ``DatasetError`` of the reason `label`.
  func index(of label: some StringProtocol, in labels: [String]) throws -> Int {
    guard let index = labels.firstIndex(where: { $0 == label }) else {
      throw error(
        .label, expected: "a label of " + labels.joined(separator: ", "), found: quoted(label),
        remedy: "correct the label, remove the line or choose another format")
    }
    return index
  }

  /// The words of a part of the line, at least one.
  ///
  /// - Throws: ``DatasetError`` of the reason `empty`.
  func words(_ text: some StringProtocol, _ splitter: WordSplitter, of part: String) throws
    -> [String]
  {
    let words = splitter.words(in: text)
    guard !words.isEmpty else {
      throw error(.empty, expected: "words in \(part)", found: "none")
    }
    return words
  }

  /// Whether the line has nothing but whitespace.
  var isBlank: Bool { text.allSatisfy(\.isWhitespace) }
}
