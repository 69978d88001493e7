import Foundation
import TestSupport
import Testing
import Text

@Suite("Vocabularies")
struct VocabularyTests {
  static let dataset = WordDataset(
    kind: .pair, labels: ["x"],
    examples: [
      LabeledExample(["b", "a", "b"], ["c", "é"], label: 0),
      LabeledExample(["b", "<pad>"], ["<unk>", "a"], label: 0),
    ])

  @Test("Words by descending count; padding 0, unknown 1")
  func order() {
    let vocabulary = Vocabulary(of: Self.dataset)
    #expect(vocabulary.words == ["<pad>", "<unk>", "b", "a", "c", "é"])
    #expect(vocabulary.counts == [0, 2, 3, 2, 1, 1])
    #expect(vocabulary.encode(["b", "zebra", "é", "<unk>", "<pad>"]) == [2, 1, 5, 1, 1])
    #expect(vocabulary["a"] == 3 && vocabulary.id(of: "zebra") == nil)
    #expect(vocabulary.encode(Self.dataset).examples[0].sentences == [[2, 3, 2], [4, 5]])
  }

  @Test("Rare words and words beyond the size are unknown")
  func limits() {
    let frequent = Vocabulary(of: Self.dataset, minimumCount: 2)
    #expect(frequent.words == ["<pad>", "<unk>", "b", "a"] && frequent.counts == [0, 4, 3, 2])
    let small = Vocabulary(of: Self.dataset, maximumSize: 3)
    #expect(small.words == ["<pad>", "<unk>", "b"] && small.count == 3)
    #expect(small.unknownShare(of: Self.dataset) == 5.0 / 9)
  }

  @Test("What is saved is read back, and nothing else is left in the folder")
  func roundTrip() throws {
    let folder = try TemporaryFolder()
    let vocabulary = Vocabulary(of: Self.dataset)
    try vocabulary.save(to: folder.path("words.txt"))
    #expect(try Vocabulary(readingFrom: folder.path("words.txt")) == vocabulary)
    #expect(try FileManager.default.contentsOfDirectory(atPath: folder.path) == ["words.txt"])
    let error = #expect(throws: DatasetError.self) {
      try vocabulary.save(to: folder.path("no/such/folder"))
    }
    #expect(error?.reason == .unwritable)
  }

  @Test(
    "Malformed vocabularies name the line",
    arguments: [
      ("<pad>\t0\n<unk>\t1\nword\n", 3, "a word, a tab and a count"),
      ("<pad>\t0\n<unk>\t1\nword\t-1\n", 3, "a word, a tab and a count"),
      ("<pad>\t0\nword\t1\n", 2, "expected <unk>"),
      ("<pad>\t0\n<unk>\t1\na\t1\nb\t1\na\t1\n", 5, "\"a\" of line 3 again"),
      ("<pad>\t0\n", nil, "1 lines"), ("", nil, "0 lines"),
    ] as [(String, Int?, String)])
  func malformed(text: String, line: Int?, says: String) throws {
    let folder = try TemporaryFolder()
    try folder.write("words.txt", text)
    let error = try #require(throws: DatasetError.self) {
      try Vocabulary(readingFrom: folder.path("words.txt"))
    }
    #expect(error.line == line)
    #expect(error.description.contains(says), "\(error)")
  }
}

@Suite("Word vectors")
struct WordVectorsTests {
  static let vocabulary = Vocabulary(counts: ["a": 3, "b": 2, "c": 1])

  private func read(_ text: String, width: Int? = nil) throws -> WordVectors {
    let folder = try TemporaryFolder()
    try folder.write("vectors.txt", text)
    return try WordVectors(
      readingFrom: folder.path("vectors.txt"), vocabulary: Self.vocabulary, width: width)
  }

  @Test(
    "Words of the vocabulary are kept, with a header or without, the first of duplicates",
    arguments: ["", "5 3\n"])
  func values(header: String) throws {
    let vectors = try read(
      header + "a 1 -2.5 3e-1\nzebra 1 1 1\nb 4 5 6 \r\na 9 9 9\n. . at 0 0 0\n")
    #expect(vectors.width == 3 && vectors.lines == 5)
    #expect(vectors.found == 2 && vectors.duplicates == 1)
    #expect(vectors.vector(2) == [1, -2.5, 0.3] && vectors.vector(3) == [4, 5, 6])
    #expect(vectors.vector(4) == nil)
  }

  @Test("A table holds zeros for padding and seeded numbers for words without a vector")
  func table() throws {
    let vectors = try read("b 4 5\n")
    let table = vectors.table(limit: 0.1, seed: 7)
    #expect(table.count == 10)
    #expect(table[0..<2] == [0, 0] && table[6..<8] == [4, 5])
    let drawn = table[2..<6] + table[8...]
    #expect(drawn.allSatisfy { abs($0) <= 0.1 && $0 != 0 } && Set(drawn).count == 6)
    #expect(vectors.table(limit: 0.1, seed: 7) == table)
    #expect(vectors.table(limit: 0.1, seed: 8) != table)
  }

  @Test(
    "Malformed vectors name the line",
    arguments: [
      ("a 1 2 3\nzebra 1 2\n", nil, 2, "a word and 3 numbers as in line 1, found 2"),
      ("a 1 2 3\nzebra 1 2 3 4\n", nil, 2, "found 4"),
      ("a 1 2 3\n", 2, 1, "a word and 2 numbers as was asked for"),
      ("2 3\nb 1 2 3\nzebra 1\n", nil, 3, "3 numbers as line 1 says, found 1"),
      ("2 3\nb 1 2 3\n", nil, nil, "2 vectors as line 1 says, found 1"),
      ("2 3\nb 1 2 3\n", 4, 1, "a header that says 3"),
      ("zebra x y\na 1 two\n", nil, 2, "2 finite numbers after \"a\", found \"two\""),
      ("a nan 1\n", nil, 1, "found \"nan\""),
      ("a 1  2\n", nil, 1, "found nothing"),
      ("zebra 1 2\n", nil, nil, "none in 1 lines"),
      ("a\n", nil, 1, "a word and its numbers"),
      ("", nil, nil, "none in 0 lines"),
    ] as [(String, Int?, Int?, String)])
  func malformed(text: String, width: Int?, line: Int?, says: String) throws {
    let error = try #require(throws: DatasetError.self) { try read(text, width: width) }
    #expect(error.line == line)
    #expect(error.description.contains(says), "\(error)")
  }

  @Test("Words that are no UTF-8 name the line")
  func encoding() throws {
    let folder = try TemporaryFolder()
    try folder.write("vectors.txt", Array("a 1 2\n".utf8) + [0xC3, 0x28] + Array(" 1 2\n".utf8))
    let error = try #require(throws: DatasetError.self) {
      try WordVectors(readingFrom: folder.path("vectors.txt"), vocabulary: Self.vocabulary)
    }
    #expect(error.reason == .encoding && error.line == 2)
  }

  @Test("Progress rises to the whole file")
  func progress() throws {
    let folder = try TemporaryFolder()
    let text = "a 1 2\n" + (1..<30_000).map { "w\($0) 1 2\n" }.joined()
    try folder.write("vectors.txt", text)
    var shares: [Double] = []
    _ = try WordVectors(readingFrom: folder.path("vectors.txt"), vocabulary: Self.vocabulary) {
      shares.append($0)
    }
    #expect(shares.count == 3 && shares == shares.sorted() && shares.last == 1)
  }
}
