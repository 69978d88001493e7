import Foundation
import TestSupport
import Testing
import Text

@Suite("Reading a corpus")
struct CorpusTests {
  @Test("Files come in byte order, recursively, each ended by byte 0")
  func order() throws {
    let folder = try TemporaryFolder()
    try folder.write("b.swift", "second")
    try folder.write("a/z.swift", "first")
    try folder.write("B.swift", "zeroth")
    let corpus = try Corpus(readingFrom: folder.url.path, split: .files(share: 1e-9))
    #expect(corpus.documents.map(\.path) == ["B.swift", "a/z.swift", "b.swift"])
    #expect(corpus.training == Array("zeroth\0first\0second\0".utf8))
    #expect(corpus.validation.isEmpty)
  }

  @Test("Other extensions, binaries, duplicates, empty and hidden files, and links are left out")
  func filters() throws {
    let folder = try TemporaryFolder()
    try folder.write("keep.swift", "let a = 1")
    try folder.write("copy/keep.swift", "let a = 1")
    try folder.write("picture.swift", [0x50, 0, 0x51])
    try folder.write("nothing.swift", "")
    try folder.write("notes.txt", "text")
    try folder.write(".hidden/secret.swift", "let b = 2")
    try FileManager.default.createSymbolicLink(
      at: folder.url.appendingPathComponent("loop"), withDestinationURL: folder.url)
    let corpus = try Corpus(
      readingFrom: folder.url.path, extensions: ["SWIFT"], split: .files(share: 1e-9))
    #expect(corpus.documents.map(\.path) == ["copy/keep.swift"])
    #expect(corpus.skipped.otherExtensions == 1)
    #expect(corpus.skipped.binary == 1)
    #expect(corpus.skipped.duplicates == 1)
    #expect(corpus.skipped.empty == 1)
  }

  @Test("The split by file is disjoint, complete, near its share, and stable when files are added")
  func fileSplit() throws {
    let folder = try TemporaryFolder()
    for i in 0..<400 { try folder.write("file\(i).md", "document \(i)") }
    let before = try Corpus(readingFrom: folder.url.path, split: .files(share: 0.2))
    let held = before.documents.filter(\.isValidation)
    #expect((40...120).contains(held.count))
    #expect(
      before.training.count + before.validation.count
        == before.documents.map { $0.bytes + 1 }.reduce(0, +))
    try folder.write("another.md", "one more")
    let after = try Corpus(readingFrom: folder.url.path, split: .files(share: 0.2))
    #expect(Set(held).isSubset(of: after.documents.filter(\.isValidation)))
    #expect(
      Set(before.documents).subtracting(held).isSubset(
        of: after.documents.filter { !$0.isValidation }))
  }

  @Test("A link to the folder, and extensions with dots, name the same text")
  func spelling() throws {
    let folder = try TemporaryFolder()
    try folder.write("text/a.swift", "let a = 1")
    let link = folder.path("link")
    try FileManager.default.createSymbolicLink(
      atPath: link, withDestinationPath: folder.path("text"))
    let corpus = try Corpus(
      readingFrom: link, extensions: [".Swift"], split: .files(share: 1e-9))
    #expect(corpus.documents.map(\.path) == ["a.swift"])
  }

  @Test("A single file is split at its tail")
  func tailSplit() throws {
    let folder = try TemporaryFolder()
    try folder.write("book.txt", String(repeating: "0123456789", count: 10))
    let corpus = try Corpus(readingFrom: folder.url.appendingPathComponent("book.txt").path)
    #expect(corpus.training.count == 91)
    #expect(corpus.validation == Array("123456789\0".utf8))
  }

  @Test("Nothing at the path, nothing to read, no text of the extension: typed errors")
  func errors() throws {
    let folder = try TemporaryFolder()
    #expect(throws: CorpusError.missing(path: "/no/such/folder")) {
      try Corpus(readingFrom: "/no/such/folder")
    }
    #expect(
      throws: CorpusError.empty(path: folder.url.path, extensions: [], skipped: .init())
    ) { try Corpus(readingFrom: folder.url.path) }
    try folder.write("image.bin", [0, 1, 2])
    var skipped = Corpus.Skipped()
    skipped.binary = 1
    let error = CorpusError.empty(path: folder.url.path, extensions: ["bin"], skipped: skipped)
    #expect(throws: error) { try Corpus(readingFrom: folder.url.path, extensions: ["bin"]) }
    #expect(error.description.contains(".bin"))
    #expect(error.description.contains("1 binary"))
  }

  @Test("A text shorter than a context is refused by name")
  func tooShort() throws {
    let corpus = Corpus(
      training: Array(repeating: 1, count: 100), validation: Array(repeating: 1, count: 10))
    #expect(throws: CorpusError.tooShort(part: "training", bytes: 100, needed: 101)) {
      try corpus.requireContext(training: 100, validation: 5)
    }
    #expect(throws: CorpusError.tooShort(part: "validation", bytes: 10, needed: 11)) {
      try corpus.requireContext(training: 99, validation: 10)
    }
    try corpus.requireContext(training: 99, validation: 9)
    #expect(throws: CorpusError.self) {
      try BatchSampler(text: corpus.training, context: 100, batchSize: 1, seed: 0)
    }
  }
}
