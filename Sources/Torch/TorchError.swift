import CTorch

/// A failure that libtorch reported, or that came from outside the program.
public struct TorchError: Error, CustomStringConvertible, Sendable {
  /// What failed, in a sentence.
  public let message: String

  /// An error that says `message`.
  public init(_ message: String) {
    self.message = message
  }

  /// The message.
  public var description: String { message }

  /// libtorch's last error on this thread, without its C++ backtrace.
  static func last() -> TorchError {
    let text = String(cString: ct_last_error())
    // Older releases append the trace to the message itself.
    let sentence = text.split(separator: "\nException raised from", maxSplits: 1).first
    return TorchError(sentence.map(String.init) ?? text)
  }
}

/// Throws libtorch's last error unless `status` is success.
func check(_ status: Int32) throws {
  if status != CT_OK { throw TorchError.last() }
}

/// Stops the program with a message, in release builds too, where `precondition` prints none.
func stop(_ message: String, file: StaticString = #fileID, line: UInt = #line) -> Never {
  fatalError(message, file: file, line: line)
}

/// The value of `body`, or a stop with its error: for what only a caller's mistake makes fail.
func expect<T>(_ operation: @autoclosure () -> String, _ body: () throws -> T) -> T {
  do {
    return try body()
  } catch {
    stop("\(operation()): \(error)")
  }
}
