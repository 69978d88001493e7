import Folding
import Foundation

/// Words and their ids: 0 is padding, 1 stands for every unknown word, then come the words by
/// descending count, equal counts in the order of their UTF-8 bytes.
public struct Vocabulary: Sendable, Hashable {
  /// The id of padding.
  public static let padding = PaddedTokens.padding
  /// The id of unknown words.
  public static let unknown = 1
  /// How the two are written.
  static let specialWords = ["<pad>", "<unk>"]

  /// The words by id.
  public let words: [String]
  /// How often each was counted; unknown has the count of all words that were left out.
  public let counts: [Int]
  private let ids: [String: Int]

  /// Counts the words of datasets, usually the training part alone.
  ///
  /// - Parameters:
  ///   - minimumCount: words that are rarer become unknown.
  ///   - maximumSize: the greatest number of ids, with the two special ones; the most frequent words
  ///     stay. Nil sets no limit.
  public init(of datasets: WordDataset..., minimumCount: Int = 1, maximumSize: Int? = nil) {
    var counts: [String: Int] = [:]
    for dataset in datasets {
      for word in dataset.examples.lazy.flatMap(\.sentences).joined() {
        counts[word, default: 0] += 1
      }
    }
    self.init(counts: counts, minimumCount: minimumCount, maximumSize: maximumSize)
  }

  /// Takes words by their counts.
  ///
  /// - Precondition: no word is empty or holds whitespace.
  public init(counts: [String: Int], minimumCount: Int = 1, maximumSize: Int? = nil) {
    require(
      maximumSize ?? 2 >= 2, "A vocabulary has at least its 2 special ids, got \(maximumSize ?? 0)."
    )
    require(
      counts.keys.allSatisfy { !$0.isEmpty && !$0.contains(where: \.isWhitespace) },
      "The words of a vocabulary are not empty and hold no whitespace.")
    let ordered = counts.filter { !Self.specialWords.contains($0.key) }.sorted {
      $0.value != $1.value
        ? $0.value > $1.value : $0.key.utf8.lexicographicallyPrecedes($1.key.utf8)
    }
    let frequent = ordered.prefix { $0.value >= minimumCount }
    let kept = frequent.prefix(maximumSize.map { $0 - 2 } ?? frequent.count)
    let unknown = counts.values.reduce(0, +) - kept.map(\.value).reduce(0, +)
    self.init(
      words: Self.specialWords + kept.map(\.key), counts: [0, unknown] + kept.map(\.value))
  }

  private init(words: [String], counts: [Int]) {
    self.words = words
    self.counts = counts
    // Text that spells the padding word must not become padding.
    ids = Dictionary(uniqueKeysWithValues: words.enumerated().dropFirst().map { ($1, $0) })
  }

  /// The number of ids.
  public var count: Int { words.count }

  /// The id of a word, ``unknown`` if it has none.
  public subscript(word: String) -> Int { ids[word] ?? Self.unknown }

  /// The id of a word, nil if it has none.
  public func id(of word: String) -> Int? { ids[word] }

  /// The ids of words.
  public func encode(_ words: [String]) -> [Int] { words.map { self[$0] } }

  /// A dataset with ids for words.
  public func encode(_ dataset: WordDataset) -> TokenDataset { dataset.mapSentences(encode) }

  /// Splits with ids for words.
  public func encode(_ splits: DatasetSplits<String>) -> DatasetSplits<Int> {
    splits.mapSentences(encode)
  }

  /// The share of a dataset's words that are unknown.
  public func unknownShare(of dataset: WordDataset) -> Double {
    let words = dataset.examples.lazy.flatMap(\.sentences).joined()
    let (unknown, all) = words.reduce(into: (0, 0)) {
      $0.0 += ids[$1] == nil ? 1 : 0
      $0.1 += 1
    }
    return all == 0 ? 0 : Double(unknown) / Double(all)
  }
}

// MARK: - Files

extension Vocabulary {
  /// Writes the vocabulary as text: a word, a tab and its count a line; the id is the line's number, from
  /// 0 on. The file is complete or not there.
  ///
  /// - Throws: ``DatasetError`` of the reason `unwritable`.
  public func save(to path: String) throws {
    let text = zip(words, counts).map { "\($0)\t\($1)\n" }.joined()
    do {
      // Atomic: written under a temporary name that is then changed.
      try Data(text.utf8).write(to: URL(fileURLWithPath: path), options: .atomic)
    } catch {
      throw DatasetError(
        .unwritable, path: path, expected: "to write the vocabulary",
        found: error.localizedDescription, remedy: "check the folder and its free space")
    }
  }

  /// Reads what ``save(to:)`` wrote.
  ///
  /// - Throws: ``DatasetError``.
  public init(readingFrom path: String) throws {
    var words: [String] = []
    var counts: [Int] = []
    var lines: [String: Int] = [:]
    try LineReader.forEachLine(of: path, encoding: .utf8) { line in
      let parts = line.text.split(separator: "\t", omittingEmptySubsequences: false)
      guard parts.count == 2, !parts[0].isEmpty, !parts[0].contains(where: \.isWhitespace),
        let count = Int(parts[1]), count >= 0
      else {
        throw line.error(
          .syntax, expected: "a word, a tab and a count", found: quoted(line.text))
      }
      let word = String(parts[0])
      if words.count < 2, word != Self.specialWords[words.count] {
        throw line.error(
          .syntax, expected: Self.specialWords[words.count], found: quoted(word),
          remedy: "use a file that a vocabulary was saved to")
      }
      if let earlier = lines.updateValue(line.number, forKey: word) {
        throw line.error(
          .syntax, expected: "words that differ", found: "\(quoted(word)) of line \(earlier) again")
      }
      words.append(word)
      counts.append(count)
    }
    guard words.count >= 2 else {
      throw DatasetError(
        .empty, path: path, expected: "a vocabulary of at least \(Self.specialWords)",
        found: "\(words.count) lines", remedy: "use a file that a vocabulary was saved to")
    }
    self.init(words: words, counts: counts)
  }
}
