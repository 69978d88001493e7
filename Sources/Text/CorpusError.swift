/// Why a corpus could not be read or used. Each description says what was expected, what was
/// found and what to do.
public enum CorpusError: Error, Equatable, CustomStringConvertible {
  /// There is nothing at the path.
  case missing(path: String)
  /// The file or folder exists and cannot be read.
  case unreadable(path: String, reason: String)
  /// No text is left after filtering; `skipped` counts what was found and left out.
  case empty(path: String, extensions: [String], skipped: Corpus.Skipped)
  /// A part of the corpus is shorter than one context.
  case tooShort(part: String, bytes: Int, needed: Int)

  /// The sentence to print.
  public var description: String {
    switch self {
    case .missing(let path):
      return "Expected a text file or a folder at \(path), found nothing; check the path."
    case .unreadable(let path, let reason):
      return "Expected to read \(path), but \(reason); check its permissions."
    case .empty(let path, let extensions, let skipped):
      let wanted =
        extensions.isEmpty
        ? "text files"
        : "text files ending in " + extensions.map { "." + $0 }.joined(separator: ", ")
      return "Expected \(wanted) in \(path), found none (\(skipped)); "
        + "name another folder or other extensions."
    case .tooShort(let part, let bytes, let needed):
      return "Expected at least \(needed) bytes of \(part) text for one context, found \(bytes); "
        + "use a shorter context, a larger corpus or another validation share."
    }
  }
}
