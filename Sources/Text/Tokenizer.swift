/// What turns text into token ids and back.
public protocol Tokenizer: Sendable {
  /// The number of different tokens: ids are in `0 ..< vocabularySize`.
  var vocabularySize: Int { get }

  /// The token ids of a text.
  func encode(_ text: String) -> [Int]

  /// The bytes that a token stands for, in UTF-8 (possibly a part of a character).
  ///
  /// - Precondition: `0 ≤ token < vocabularySize`.
  func bytes(of token: Int) -> [UInt8]
}

extension Tokenizer {
  /// The text of a sequence of tokens; bytes that are no UTF-8 become U+FFFD.
  public func decode(_ tokens: some Sequence<Int>) -> String {
    String(decoding: tokens.flatMap(bytes(of:)), as: UTF8.self)
  }
}

/// The byte vocabulary: token i is the byte i, and a text is its UTF-8 form.
///
/// Byte 0, which no text file holds, separates the documents of a ``Corpus``.
public struct ByteTokenizer: Tokenizer {
  /// The token that ends a document.
  public static let endOfDocument: UInt8 = 0

  /// Creates the tokenizer; it has no state.
  public init() {}

  /// 256.
  public var vocabularySize: Int { 256 }

  /// The bytes of the text's UTF-8 form.
  public func encode(_ text: String) -> [Int] { text.utf8.map(Int.init) }

  /// The byte itself.
  public func bytes(of token: Int) -> [UInt8] {
    precondition(
      (0..<256).contains(token), "A byte token is in 0..<256, got \(token).")
    return [UInt8(token)]
  }
}

/// Collects bytes as they are generated and hands out whole characters, so that a terminal never
/// sees a part of one.
public struct UTF8Stream: Sendable {
  private var pending: [UInt8] = []

  /// Creates an empty stream.
  public init() {}

  /// Appends bytes and returns the text that is complete by now. Bytes that cannot begin or
  /// continue a UTF-8 sequence come out as U+FFFD at once.
  public mutating func append(_ bytes: some Sequence<UInt8>) -> String {
    pending.append(contentsOf: bytes)
    let complete = pending.count - unfinishedSuffix
    defer { pending.removeFirst(complete) }
    return String(decoding: pending[..<complete], as: UTF8.self)
  }

  /// Returns what is left, with an unfinished character as U+FFFD.
  public mutating func finish() -> String {
    defer { pending.removeAll() }
    return String(decoding: pending, as: UTF8.self)
  }

  /// The number of bytes at the end that begin a character without ending it: 0 to 3.
  private var unfinishedSuffix: Int {
    for back in 1...4 where back <= pending.count {
      let byte = pending[pending.count - back]
      if byte & 0b1100_0000 == 0b1000_0000 { continue }
      let length = byte < 0xC0 ? 1 : byte < 0xE0 ? 2 : byte < 0xF0 ? 3 : byte < 0xF8 ? 4 : 1
      return length > back ? back : 0
    }
    return 0
  }
}
