/// Why a safetensors file could not be read or written.
public enum SafetensorsError: Error, Equatable, CustomStringConvertible {
  /// The file cannot be opened or read.
  case unreadable(path: String, reason: String)
  /// The file's content breaks the format, or uses a part of it that is not supported.
  case malformed(path: String, reason: String)
  /// The file holds no tensor of this name.
  case missing(path: String, name: String)
  /// The file cannot be written. A file that was there before is unchanged.
  case unwritable(path: String, reason: String)

  /// The sentence to print.
  public var description: String {
    switch self {
    case .unreadable(let path, let reason):
      "Expected to read a safetensors file at \(path), but \(reason); check the path."
    case .malformed(let path, let reason):
      "Expected a safetensors file at \(path), but \(reason); "
        + "the file is damaged or no safetensors file: fetch or write it anew."
    case .missing(let path, let name):
      "Expected a tensor named '\(name)' in \(path), but there is none; "
        + "check which model the file belongs to."
    case .unwritable(let path, let reason):
      "Could not write \(path): \(reason). What was there before is unchanged; "
        + "free some space or choose another folder."
    }
  }
}
