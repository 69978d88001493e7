/// Why a file of labeled text, word vectors or a vocabulary could not be used. The sentence names file
/// and line, what was expected, what was found and what to do.
public struct DatasetError: Error, Hashable, CustomStringConvertible {
  /// What kind of trouble it is.
  public enum Reason: Sendable, Hashable {
    /// There is nothing at the path.
    case missing
    /// The file exists and cannot be read.
    case unreadable
    /// The file cannot be written.
    case unwritable
    /// Bytes that are no text.
    case encoding
    /// A line that is not of its format.
    case syntax
    /// A line with too few or too many columns.
    case columns
    /// A label that the format does not know.
    case label
    /// A file or a sentence without content.
    case empty
  }

  /// What kind of trouble it is.
  public let reason: Reason
  /// The file.
  public let path: String
  /// The line, from 1 on; nil if the file as a whole is meant.
  public let line: Int?
  /// What should have been there.
  public let expected: String
  /// What was there.
  public let found: String
  /// What to do.
  public let remedy: String

  /// Creates an error.
  public init(
    _ reason: Reason, path: String, line: Int? = nil, expected: String, found: String,
    remedy: String
  ) {
    self.reason = reason
    self.path = path
    self.line = line
    self.expected = expected
    self.found = found
    self.remedy = remedy
  }

  /// The sentence to print.
  public var description: String {
    let place = line.map { "\(path):\($0)" } ?? path
    return "\(place): expected \(expected), found \(found); \(remedy)."
  }
}

/// Text in quotation marks, cut to what fits a sentence.
func quoted(_ text: some StringProtocol) -> String {
  text.isEmpty ? "nothing" : text.count > 60 ? "\"\(text.prefix(57))...\"" : "\"\(text)\""
}
