import Foundation

/// How the bytes of a file are text.
enum LineEncoding {
  /// UTF-8; anything else is an error.
  case utf8
  /// UTF-8, or Latin-1 in lines that are no UTF-8: how collections from before 2010 were written.
  case utf8OrLatin1
}

/// A line of a file, and the errors that name it.
struct TextLine {
  let path: String
  /// From 1 on.
  let number: Int
  let text: String

  /// An error at this line.
  func error(
    _ reason: DatasetError.Reason, expected: String, found: String,
    remedy: String = "correct or remove the line"
  ) -> DatasetError {
    DatasetError(
      reason, path: path, line: number, expected: expected, found: found, remedy: remedy)
  }
}

/// Reads files line by line: memory holds one line, whatever the size of the file.
enum LineReader {
  /// Calls `body` with every line, without its line break (`\n` or `\r\n`).
  ///
  /// - Throws: ``DatasetError`` of the reasons `missing` and `unreadable`, and what `body` throws.
  static func forEachLine(
    of path: String, _ body: (_ number: Int, _ bytes: UnsafeBufferPointer<UInt8>) throws -> Void
  ) throws {
    let file = try open(path)
    defer { fclose(file) }
    var storage: UnsafeMutablePointer<CChar>?
    var capacity = 0
    defer { free(storage) }
    var number = 0
    while true {
      let read = getline(&storage, &capacity, file)
      guard read > 0, let storage else { break }
      number += 1
      try storage.withMemoryRebound(to: UInt8.self, capacity: read) { start in
        var bytes = UnsafeBufferPointer(start: start, count: read)[...]
        if bytes.last == UInt8(ascii: "\n") { bytes.removeLast() }
        if bytes.last == UInt8(ascii: "\r") { bytes.removeLast() }
        if number == 1 && bytes.starts(with: [0xEF, 0xBB, 0xBF]) { bytes.removeFirst(3) }
        try body(number, UnsafeBufferPointer(rebasing: bytes))
      }
    }
    guard ferror(file) == 0 else { throw unreadable(path) }
  }

  /// Calls `body` with every line as text.
  ///
  /// - Throws: ``DatasetError``, and what `body` throws.
  static func forEachLine(
    of path: String, encoding: LineEncoding, _ body: (TextLine) throws -> Void
  ) throws {
    try forEachLine(of: path) { number, bytes in
      try body(
        TextLine(
          path: path, number: number,
          text: try text(bytes, encoding: encoding, path: path, line: number)))
    }
  }

  /// The text of a line.
  static func text(
    _ bytes: UnsafeBufferPointer<UInt8>, encoding: LineEncoding, path: String, line: Int
  ) throws -> String {
    if let text = String(validating: bytes, as: UTF8.self) { return text }
    if encoding == .utf8OrLatin1 {
      return String(String.UnicodeScalarView(bytes.lazy.map { Unicode.Scalar($0) }))
    }
    let place = validPrefix(bytes)
    throw DatasetError(
      .encoding, path: path, line: line, expected: "text in UTF-8",
      found: String(format: "the byte 0x%02X after %d bytes", bytes[place], place),
      remedy: "convert the file with iconv, or unpack it if it is compressed")
  }

  /// The number of bytes before the first one that is no UTF-8.
  private static func validPrefix(_ bytes: UnsafeBufferPointer<UInt8>) -> Int {
    var parser = UTF8.ForwardParser()
    var iterator = bytes.makeIterator()
    var count = 0
    while case .valid(let scalar) = parser.parseScalar(from: &iterator) { count += scalar.count }
    return min(count, bytes.count - 1)
  }

  private static func open(_ path: String) throws -> UnsafeMutablePointer<FILE> {
    var isFolder: ObjCBool = false
    guard FileManager.default.fileExists(atPath: path, isDirectory: &isFolder) else {
      throw DatasetError(
        .missing, path: path, expected: "a file", found: "nothing", remedy: "check the path")
    }
    guard !isFolder.boolValue else {
      throw DatasetError(
        .unreadable, path: path, expected: "a file", found: "a folder",
        remedy: "name the file in it")
    }
    guard let file = fopen(path, "r") else { throw unreadable(path) }
    return file
  }

  private static func unreadable(_ path: String) -> DatasetError {
    DatasetError(
      .unreadable, path: path, expected: "to read the file",
      found: String(cString: strerror(errno)),
      remedy: "check its permissions")
  }
}
