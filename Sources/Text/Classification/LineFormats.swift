import Foundation
import Folding

/// A label, a space or tab, and a sentence a line, in UTF-8 or Latin-1: CR, MPQA and SUBJ are spread
/// so, with the labels 0 and 1.
public struct LabeledLinesFormat: DatasetFormat {
  /// The labels; nil takes those of the file, in order.
  public var labels: [String]?
  /// How sentences become words.
  public var splitter: WordSplitter

  /// Creates the format.
  public init(labels: [String]? = ["0", "1"], splitter: WordSplitter = .whitespace) {
    self.labels = labels
    self.splitter = splitter
  }

  /// Reads a file of lines.
  public func read(_ path: String) throws -> WordDataset {
    var rows: [(label: String, words: [String])] = []
    try LineReader.forEachLine(of: path, encoding: .utf8OrLatin1) { line in
      if line.isBlank { return }
      let text = line.text.drop(while: \.isWhitespace)
      let label = text.prefix { !$0.isWhitespace }
      if let labels { _ = try line.index(of: label, in: labels) }
      let words = try line.words(
        text[label.endIndex...], splitter, of: "the text after the label \(quoted(label))")
      rows.append((String(label), words))
    }
    return try classification(
      rows, labels: labels ?? Set(rows.map(\.label)).sorted(), path: path)
  }
}

/// A folder with a file for each label and a sentence a line, in UTF-8 or Latin-1, as the sentence
/// polarity data have it.
public struct FilePerLabelFormat: DatasetFormat {
  /// The label and the file's name in the folder, label by label.
  public let files: [(label: String, name: String)]
  /// How sentences become words.
  public var splitter: WordSplitter

  /// Creates the format.
  ///
  /// - Precondition: at least two labels, all different.
  public init(_ files: KeyValuePairs<String, String>, splitter: WordSplitter = .whitespace) {
    require(
      files.count >= 2 && Set(files.map(\.key)).count == files.count,
      "Expected a file for each of at least two labels, got \(files).")
    self.files = files.map { (label: $0.key, name: $0.value) }
    self.splitter = splitter
  }

  /// Customer reviews: `custrev.neg` and `custrev.pos`.
  public static let customerReviews = FilePerLabelFormat([
    "negative": "custrev.neg", "positive": "custrev.pos",
  ])
  /// MPQA opinion polarity: `mpqa.neg` and `mpqa.pos`.
  public static let opinionPolarity = FilePerLabelFormat([
    "negative": "mpqa.neg", "positive": "mpqa.pos",
  ])
  /// Subjectivity: `subj.objective` and `subj.subjective`.
  public static let subjectivity = FilePerLabelFormat([
    "objective": "subj.objective", "subjective": "subj.subjective",
  ])
  /// Movie reviews: `rt-polarity.neg` and `rt-polarity.pos`.
  public static let movieReviews = FilePerLabelFormat([
    "negative": "rt-polarity.neg", "positive": "rt-polarity.pos",
  ])

  /// Reads the files in a folder.
  public func read(_ path: String) throws -> WordDataset {
    var rows: [(label: String, words: [String])] = []
    for (label, name) in files {
      let before = rows.count
      let file = URL(fileURLWithPath: path).appendingPathComponent(name).path
      try LineReader.forEachLine(of: file, encoding: .utf8OrLatin1) { line in
        if line.isBlank { return }
        rows.append((label, try line.words(line.text, splitter, of: "the line")))
      }
      guard rows.count > before else {
        throw DatasetError(
          .empty, path: file, expected: "a sentence a line", found: "none",
          remedy: "check that the file is complete")
      }
    }
    return try classification(rows, labels: files.map(\.label), path: path)
  }
}
