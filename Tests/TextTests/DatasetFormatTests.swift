import Foundation
import TestSupport
import Testing
import Text

/// What a malformed file gives: the reason, the line, and words of the sentence.
struct Malformed: CustomTestStringConvertible, Sendable {
  let format: any DatasetFormat
  let bytes: [UInt8]
  let reason: DatasetError.Reason
  let line: Int?
  let says: String

  init(
    _ format: any DatasetFormat, _ text: String, _ reason: DatasetError.Reason, line: Int?,
    says: String
  ) {
    self.init(format, Array(text.utf8), reason, line: line, says: says)
  }

  init(
    _ format: any DatasetFormat, _ bytes: [UInt8], _ reason: DatasetError.Reason, line: Int?,
    says: String
  ) {
    self.format = format
    self.bytes = bytes
    self.reason = reason
    self.line = line
    self.says = says
  }

  var testDescription: String { "\(type(of: format)): \(says)" }
}

@Suite("Formats of labeled text")
struct DatasetFormatTests {
  private func read(_ format: some DatasetFormat, _ text: String) throws -> WordDataset {
    let folder = try TemporaryFolder()
    try folder.write("data", text)
    return try format.read(folder.path("data"))
  }

  static let pairLine = """
    {"gold_label": "neutral", "sentence1": "A man isn't here.", "sentence2": "Nobody!"}
    """
  static let roles = """
    The DT - (A0* *
    boy NN - *) (A0*)
    wants VBZ want (V*) *
    to TO - (A1* *
    sleep VB sleep *) (V*)

    Yes UH -

    """

  @Test("SNLI and MultiNLI: words of the parses, or of the text, without undecided pairs")
  func inference() throws {
    let parsed = """
      {"gold_label": "entailment", "sentence1": "x", "sentence2": "y", "genre": "fiction",
       "sentence1_binary_parse": "( ( A man ) sleeps )", "sentence2_binary_parse": "( -LRB- . )"}
      """.replacing("\n", with: "")
    let undecided = Self.pairLine.replacing("neutral", with: "-")
    let text = [parsed, undecided, Self.pairLine, ""].joined(separator: "\r\n")
    let dataset = try read(InferenceFormat(), text)
    #expect(dataset.kind == .pair)
    #expect(dataset.labels == ["entailment", "contradiction", "neutral"])
    #expect(
      dataset.examples == [
        LabeledExample(["a", "man", "sleeps"], ["-lrb-", "."], label: 0),
        LabeledExample(["a", "man", "is", "n't", "here", "."], ["nobody", "!"], label: 2),
      ])
    #expect(dataset.skipped == ["without a gold label": 1])
    let plain = try read(InferenceFormat(usesParses: false), parsed)
    #expect(plain.examples == [LabeledExample(["x"], ["y"], label: 0)])
  }

  @Test("The treebank: roots or all nodes, five labels or two")
  func treebank() throws {
    let text = "(3 (2 A) (4 (3 true) (2 Delight\\/joy)))\n(2 (2 so) (1 -LRB-))\n"
    let roots = try read(TreebankFormat(), text)
    #expect(
      roots.examples == [
        LabeledExample(["a", "true", "delight/joy"], label: 3),
        LabeledExample(["so", "-lrb-"], label: 2),
      ])
    #expect(roots.labels.count == 5)
    let phrases = try read(TreebankFormat(includesPhrases: true), text)
    #expect(phrases.examples.map { $0.targets[0] } == [2, 3, 2, 4, 3, 2, 1, 2])
    #expect(phrases.examples[3].sentences == [["true", "delight/joy"]])
    let binary = try read(TreebankFormat(isBinary: true, includesPhrases: true), text)
    #expect(binary.labels == ["negative", "positive"])
    #expect(binary.examples.map { $0.targets[0] } == [1, 1, 1, 0])
    #expect(binary.skipped == ["neutral": 4])
  }

  @Test("A tree of any depth is read")
  func deepTree() throws {
    let depth = 20_000
    let text =
      String(repeating: "(3 (2 a) ", count: depth) + "(1 b)" + String(repeating: ")", count: depth)
    let dataset = try read(TreebankFormat(), text)
    #expect(dataset.examples[0].sentences[0].count == depth + 1)
  }

  @Test("TREC: coarse or fine labels, Latin-1 or UTF-8")
  func questions() throws {
    let folder = try TemporaryFolder()
    let latin1 = Array("NUM:date When was Caf".utf8) + [0xE9] + Array(" founded ?\n".utf8)
    try folder.write("trec", latin1 + Array("HUM:ind Who is Chloé ?\n".utf8))
    let coarse = try QuestionFormat().read(folder.path("trec"))
    #expect(coarse.labels == ["ABBR", "DESC", "ENTY", "HUM", "LOC", "NUM"])
    #expect(
      coarse.examples == [
        LabeledExample(["when", "was", "café", "founded", "?"], label: 5),
        LabeledExample(["who", "is", "chloé", "?"], label: 3),
      ])
    let fine = try QuestionFormat(isFine: true).read(folder.path("trec"))
    #expect(fine.labels == ["HUM:ind", "NUM:date"])
    #expect(fine.examples.map(\.targets) == [[1], [0]])
  }

  @Test("A label and a text a line, after a space or a tab")
  func labeledLines() throws {
    let dataset = try read(LabeledLinesFormat(), "1 Good , really .\n\n0\tbad\n")
    #expect(
      dataset.examples == [
        LabeledExample(["good", ",", "really", "."], label: 1), LabeledExample(["bad"], label: 0),
      ])
    let found = try read(LabeledLinesFormat(labels: nil), "pos a\nneg b\n")
    #expect(found.labels == ["neg", "pos"] && found.examples.map(\.targets) == [[1], [0]])
  }

  @Test("A file for each label")
  func filePerLabel() throws {
    let folder = try TemporaryFolder()
    try folder.write("rt-polarity.neg", "dull .\n")
    try folder.write("rt-polarity.pos", Array("na".utf8) + [0xEF] + Array("ve fun\nyes\n".utf8))
    let dataset = try FilePerLabelFormat.movieReviews.read(folder.path)
    #expect(dataset.labels == ["negative", "positive"])
    #expect(dataset.labelCounts == [1, 2])
    #expect(dataset.examples[1].sentences == [["naïve", "fun"]])
    let error = #expect(throws: DatasetError.self) {
      try FilePerLabelFormat.subjectivity.read(folder.path)
    }
    #expect(error?.reason == .missing)
    #expect(error?.path == folder.path("subj.objective"))
    try folder.write("mpqa.neg", "\n\n")
    let empty = #expect(throws: DatasetError.self) {
      try FilePerLabelFormat.opinionPolarity.read(folder.path)
    }
    #expect(empty?.reason == .empty)
  }

  @Test("CoNLL-2005: an example for each predicate, whose column is found", arguments: [nil, 2])
  func semanticRoles(column: Int?) throws {
    let dataset = try read(SemanticRoleFormat(predicateColumn: column), Self.roles)
    #expect(dataset.kind == .tagging)
    #expect(dataset.labels == ["O", "B-A0", "I-A0", "B-A1", "I-A1", "B-V", "I-V"])
    let words = ["the", "boy", "wants", "to", "sleep"]
    #expect(
      dataset.examples == [
        LabeledExample(sentences: [words], targets: [1, 2, 5, 3, 4], marker: 2),
        LabeledExample(sentences: [words], targets: [0, 1, 0, 0, 5], marker: 4),
      ])
    #expect(dataset.skipped == ["sentences without a predicate": 1])
  }

  @Test("The predicate's column is found among those of the published files")
  func publishedColumns() throws {
    let text = """
      He  PRP  (S1(S(NP*)  *  -   -     (A0*)
      set VBD  (VP*        *  01  set   (V*
      off RP   (PRT*))     *  -   -     *)
      """
    let dataset = try read(SemanticRoleFormat(), text)
    #expect(dataset.examples.map(\.marker) == [1])
    #expect(dataset.examples[0].targets == [1, 3, 4])
  }

  @Test("Three files share the labels that only some have")
  func splits() throws {
    let folder = try TemporaryFolder()
    for (name, role) in [("a", "A0"), ("b", "A0"), ("c", "AM-TMP")] {
      try folder.write(name, "x - (\(role)*)\ny y (V*)\n")
    }
    let splits = try SemanticRoleFormat().read(
      training: folder.path("a"), validation: folder.path("b"), test: folder.path("c"))
    let labels = ["O", "B-A0", "I-A0", "B-V", "I-V", "B-AM-TMP", "I-AM-TMP"]
    #expect(splits.training.labels == labels && splits.test.labels == labels)
    #expect(splits.test.examples[0].targets == [5, 3])
  }

  static let malformed: [Malformed] = [
    .init(InferenceFormat(), pairLine + "\n{\"gold_label\": 3", .syntax, line: 2, says: "JSON"),
    .init(InferenceFormat(), "\n{\"gold_label\": \"-\"}", .syntax, line: 2, says: "sentence1"),
    .init(
      InferenceFormat(), pairLine.replacing("\"Nobody!\"", with: "7"), .syntax, line: 1,
      says: "text in the field sentence2"),
    .init(
      InferenceFormat(), pairLine.replacing("\"Nobody!\"", with: "null"), .syntax, line: 1,
      says: "found null"),
    .init(
      InferenceFormat(), pairLine + "\n" + pairLine.replacing("neutral", with: "hidden"), .label,
      line: 2, says: "entailment, contradiction, neutral, found \"hidden\""),
    .init(
      InferenceFormat(), pairLine.replacing("Nobody!", with: "  "), .empty, line: 1,
      says: "words in sentence2"),
    .init(
      InferenceFormat(), pairLine.replacing("neutral", with: "-"), .empty, line: nil,
      says: "none, 1 without a gold label"),
    .init(InferenceFormat(), "", .empty, line: nil, says: "at least one example"),
    .init(InferenceFormat(), [0x1F, 0x8B, 8], .encoding, line: 1, says: "0x8B after 1 bytes"),
    .init(
      TreebankFormat(), "(3 a)\n(7 b)", .label, line: 2, says: "0 to 4 after each (, found \"7\""),
    .init(TreebankFormat(), "(3 a)\n\n(2 (1 b)", .syntax, line: 3, says: "1 open"),
    .init(TreebankFormat(), "(3 a) (2 b)", .syntax, line: 1, says: "one tree"),
    .init(TreebankFormat(), "(3 a))", .syntax, line: 1, says: "found \")\""),
    .init(TreebankFormat(), "plain text", .syntax, line: 1, says: "found \"plain text\""),
    .init(TreebankFormat(), "(3 (2 ) (1 a))", .syntax, line: 1, says: "a node labeled 2"),
    .init(TreebankFormat(isBinary: true), "(2 a)\n", .empty, line: nil, says: "1 neutral"),
    .init(QuestionFormat(), "NUM:x a ?\nNUM What ?\n", .syntax, line: 2, says: "COARSE:fine"),
    .init(QuestionFormat(), "NUM: a ?\n", .syntax, line: 1, says: "COARSE:fine"),
    .init(QuestionFormat(), "FOO:bar a ?\n", .label, line: 1, says: "found \"FOO\""),
    .init(QuestionFormat(), "NUM:x\n", .empty, line: 1, says: "words in the question"),
    .init(LabeledLinesFormat(), "1 a\n2 b\n", .label, line: 2, says: "0, 1, found \"2\""),
    .init(LabeledLinesFormat(), "1 a\n0 \n", .empty, line: 2, says: "after the label \"0\""),
    .init(LabeledLinesFormat(), "\n \n", .empty, line: nil, says: "at least one example"),
    .init(
      SemanticRoleFormat(), roles + "\na DT - -\nb -\n", .columns, line: 10,
      says: "4 columns as in the sentence's first line, found 2"),
    .init(
      SemanticRoleFormat(predicateColumn: 2), "a X -\n\nb X b\n", .columns, line: 3,
      says: "4 columns: 3 and one for each of 1 predicates, found 3"),
    .init(
      SemanticRoleFormat(predicateColumn: 3), "a X -\n", .columns, line: 1,
      says: "predicates in column 3"),
    .init(SemanticRoleFormat(), "a X\nb Y\n", .columns, line: 1, says: "0 such columns of 2"),
    .init(
      SemanticRoleFormat(predicateColumn: 1), "a - (A0*\nb b (V*)\n", .syntax, line: 2,
      says: "the end of the span A0 first"),
    .init(
      SemanticRoleFormat(predicateColumn: 1), "a - *)\nb b (V*)\n", .syntax, line: 1,
      says: "begins before it ends"),
    .init(
      SemanticRoleFormat(predicateColumn: 1), "b b (V*\na - *\n", .syntax, line: 2,
      says: "the end of the span V in column 2"),
    .init(
      SemanticRoleFormat(predicateColumn: 1), "b b (V*)\na - B-A0\n", .syntax, line: 2,
      says: "found \"B-A0\""),
    .init(
      SemanticRoleFormat(), [0x61, 0x0A, 0xFF], .encoding, line: 2, says: "0xFF after 0 bytes"),
  ]

  @Test("Malformed files: an error with the line", arguments: malformed)
  func errors(file: Malformed) throws {
    let folder = try TemporaryFolder()
    try folder.write("data", file.bytes)
    let path = folder.path("data")
    let error = try #require(throws: DatasetError.self) { try file.format.read(path) }
    #expect(error.reason == file.reason)
    #expect(error.line == file.line)
    let place = file.line.map { "\(path):\($0): expected" } ?? "\(path): expected"
    #expect(error.description.hasPrefix(place), "\(error)")
    #expect(error.description.contains(file.says), "\(error)")
    #expect(!error.remedy.isEmpty)
  }

  @Test("No file, or a folder in its place")
  func missing() throws {
    let folder = try TemporaryFolder()
    for (path, reason) in [
      (folder.path("none"), DatasetError.Reason.missing), (folder.path, .unreadable),
    ] {
      let error = #expect(throws: DatasetError.self) { try TreebankFormat().read(path) }
      #expect(error?.reason == reason && error?.path == path)
    }
  }

  @Test("Long and binary text does not flood an error")
  func shortErrors() throws {
    let folder = try TemporaryFolder()
    try folder.write("data", String(repeating: "x", count: 100_000))
    let error = #expect(throws: DatasetError.self) {
      try InferenceFormat().read(folder.path("data"))
    }
    #expect((error?.description.count ?? 0) < 400)
  }
}

@Suite("Words")
struct WordSplitterTests {
  @Test(
    "Text is cut into words",
    arguments: [
      ("Don't stop!", ["do", "n't", "stop", "!"]),
      ("It's well-known, isn’t it?", ["it", "'s", "well-known", ",", "is", "n’t", "it", "?"]),
      ("1,000.5 (USD)...", ["1,000.5", "(", "usd", ")", ".", ".", "."]),
      (
        "o'clock they'll\u{A0}we’ve 'quoted'",
        ["o'clock", "they", "'ll", "we", "’ve", "'", "quoted", "'"]
      ),
      ("Ünïcode 東京 a_b", ["ünïcode", "東京", "a_b"]),
      ("n't 's - --", ["n't", "'", "s", "-", "-", "-"]),
      (" \t\n", []),
    ])
  func words(text: String, words: [String]) {
    #expect(WordSplitter().words(in: text) == words)
  }

  @Test("Separated words stay as they are")
  func whitespace() {
    #expect(WordSplitter.whitespace.words(in: "Is n't  it\t?!") == ["is", "n't", "it", "?!"])
    let cased = WordSplitter(lowercases: false, splitsPunctuation: false)
    #expect(cased.words(in: "Is It") == ["Is", "It"])
  }
}
