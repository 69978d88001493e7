import Folding
import Foundation

/// Pretrained vectors of a vocabulary's words, from GloVe's or word2vec's text format: a word and its
/// numbers a line, separated by single spaces. A first line of two whole numbers, word2vec's header,
/// gives the number of vectors and their width.
///
/// Only the vectors of the vocabulary's words are kept, so a file of many gigabytes needs no more memory
/// than one of the vocabulary's size. Every line's width is checked; numbers are read for the words
/// that are kept.
public struct WordVectors: Sendable {
  /// The number of dimensions.
  public let width: Int
  /// The number of lines with vectors.
  public let lines: Int
  /// The number of lines whose word is the vocabulary's and had a vector already: the first one counts.
  public let duplicates: Int
  private let vectors: [Int: [Float]]
  private let vocabularySize: Int

  /// The number of words of the vocabulary that have a vector.
  public var found: Int { vectors.count }

  /// Reads the vectors of a vocabulary's words.
  ///
  /// - Parameters:
  ///   - width: the number of dimensions; nil takes the header's, or the first line's.
  ///   - progress: told now and then which share of the file has been read.
  /// - Throws: ``DatasetError``: a line of another width, a number that is none, text that is no
  ///   UTF-8, fewer or more vectors than the header says, or no word of the vocabulary.
  /// - Complexity: one read of the file.
  public init(
    readingFrom path: String, vocabulary: Vocabulary, width: Int? = nil,
    progress: (Double) -> Void = { _ in }
  ) throws {
    require(width ?? 1 >= 1, "Word vectors have at least 1 dimension, got \(width ?? 0).")
    let attributes = try? FileManager.default.attributesOfItem(atPath: path)
    let size = (attributes?[.size] as? Int) ?? 0
    var reader = VectorReader(path: path, vocabulary: vocabulary, width: width)
    var done = 0
    try LineReader.forEachLine(of: path) { number, bytes in
      try reader.read(bytes, number)
      done += bytes.count + 1
      if number % 10_000 == 0 { progress(min(1, Double(done) / Double(max(size, 1)))) }
    }
    try reader.finish()
    self.width = reader.width ?? 0
    lines = reader.lines
    duplicates = reader.duplicates
    vectors = reader.vectors
    vocabularySize = vocabulary.count
  }

  /// The vector of a word's id, nil if the file has none.
  public func vector(_ id: Int) -> [Float]? { vectors[id] }

  /// An embedding table, [V, width] in row-major order: zeros for padding, and for words without a
  /// vector numbers that are uniform in ±`limit` and depend on the seed and the id alone.
  public func table(limit: Float = 0.05, seed: UInt64) -> [Float] {
    (0..<vocabularySize).flatMap { id -> [Float] in
      if let vector = vectors[id] { return vector }
      guard id != Vocabulary.padding else { return Array(repeating: 0, count: width) }
      var random = SplitMix64(seed: seed, UInt64(id))
      return (0..<width).map { _ in limit * Float(2 * random.unit() - 1) }
    }
  }
}

private struct VectorReader {
  let path: String
  let vocabulary: Vocabulary
  private(set) var width: Int?
  private(set) var lines = 0
  private(set) var duplicates = 0
  private(set) var vectors: [Int: [Float]] = [:]
  private var announced: Int?
  /// Where the width comes from, for errors.
  private var source: String

  init(path: String, vocabulary: Vocabulary, width: Int?) {
    self.path = path
    self.vocabulary = vocabulary
    self.width = width
    source = "as was asked for"
  }

  mutating func read(_ line: UnsafeBufferPointer<UInt8>, _ number: Int) throws {
    var bytes = line[...]
    while let last = bytes.last, isSpace(last) { bytes.removeLast() }
    let fields = bytes.lazy.filter(isSpace).count + 1
    if number == 1, fields == 2, try readHeader(bytes) { return }
    if width == nil && fields >= 2 {
      width = fields - 1
      source = "as in line \(number)"
    }
    guard let width, fields > width else {
      throw error(number, found: "\(fields - 1)")
    }
    let numbers = start(ofLast: width, in: bytes)
    // A word may hold spaces, as in GloVe's 840B; numbers in its place are a vector of another width.
    if fields > width + 1, isNumber(bytes[start(ofLast: width + 1, in: bytes)..<(numbers - 1)]) {
      throw error(number, found: "\(fields - 1)")
    }
    lines += 1
    let word = try LineReader.text(
      UnsafeBufferPointer(rebasing: bytes[..<(numbers - 1)]), encoding: .utf8, path: path,
      line: number)
    guard let id = vocabulary.id(of: word) else { return }
    guard vectors[id] == nil else {
      duplicates += 1
      return
    }
    vectors[id] = try bytes[numbers...].split(
      omittingEmptySubsequences: false, whereSeparator: isSpace
    )
    .map { field in
      guard let value = parsed(field) else {
        throw DatasetError(
          .syntax, path: path, line: number,
          expected: "\(width) finite numbers after \(quoted(word))",
          found: quoted(String(decoding: field, as: UTF8.self)),
          remedy: "correct or remove the line")
      }
      return value
    }
  }

  func finish() throws {
    if let announced, announced != lines {
      throw DatasetError(
        .columns, path: path, expected: "\(announced) vectors as line 1 says", found: "\(lines)",
        remedy: "get the whole file again")
    }
    guard !vectors.isEmpty else {
      throw DatasetError(
        .empty, path: path,
        expected: "vectors of some of the vocabulary's \(vocabulary.count) words",
        found: "none in \(lines) lines",
        remedy: "check that words are written alike, as in lower case")
    }
  }

  /// Takes a line of two whole numbers as a header.
  private mutating func readHeader(_ bytes: Slice<UnsafeBufferPointer<UInt8>>) throws -> Bool {
    let numbers = bytes.split(whereSeparator: isSpace).map {
      Int(String(decoding: $0, as: UTF8.self))
    }
    guard numbers.count == 2, let count = numbers[0], let announcedWidth = numbers[1],
      announcedWidth >= 1
    else { return false }
    if let width, width != announcedWidth {
      throw DatasetError(
        .columns, path: path, line: 1, expected: "vectors of width \(width)",
        found: "a header that says \(announcedWidth)", remedy: "use another file or width")
    }
    announced = count
    width = announcedWidth
    source = "as line 1 says"
    return true
  }

  private func error(_ line: Int, found: String) -> DatasetError {
    DatasetError(
      .columns, path: path, line: line,
      expected: width.map { "a word and \($0) numbers \(source)" } ?? "a word and its numbers",
      found: found + " fields after the first",
      remedy: "get the file again if it was cut, or name its width")
  }

  /// Where the last `count` fields begin.
  private func start(ofLast count: Int, in bytes: Slice<UnsafeBufferPointer<UInt8>>) -> Int {
    var place = bytes.endIndex
    for _ in 0..<count {
      while place > bytes.startIndex, !isSpace(bytes[place - 1]) { place -= 1 }
      place -= 1
    }
    return place + 1
  }

  private func isNumber(_ bytes: Slice<UnsafeBufferPointer<UInt8>>) -> Bool { parsed(bytes) != nil }

  private func parsed(_ bytes: Slice<UnsafeBufferPointer<UInt8>>) -> Float? {
    Float(String(decoding: bytes, as: UTF8.self)).flatMap { $0.isFinite ? $0 : nil }
  }
}

private func isSpace(_ byte: UInt8) -> Bool { byte == 0x20 || byte == 0x09 }
