import Foundation

/// What is wrong with a configuration.
public enum ConfigurationError: Error, Equatable, CustomStringConvertible {
  /// The file cannot be read.
  case unreadable(path: String, reason: String)
  /// The file is no JSON object, or a value has the wrong type.
  case malformed(path: String, reason: String)
  /// The file has keys that nothing reads, most likely misspelled.
  case unknownKeys(path: String, keys: [String], known: [String])
  /// A value lies outside its range.
  case outOfRange(key: String, expected: String, found: String)

  /// The sentence to print.
  public var description: String {
    switch self {
    case .unreadable(let path, let reason):
      return "Expected a configuration in JSON at \(path), but \(reason)."
    case .malformed(let path, let reason):
      return "Expected a configuration in JSON at \(path), found something else: \(reason)."
    case .unknownKeys(let path, let keys, let known):
      return "\(path) sets \(keys.joined(separator: ", ")), which nothing reads; "
        + "the keys there are \(known.joined(separator: ", "))."
    case .outOfRange(let key, let expected, let found):
      return "Expected \(key) to be \(expected), found \(found)."
    }
  }
}

/// Reads configurations that state only what differs from the defaults.
public enum ConfigurationFile {
  /// The defaults, overlaid with what the file states.
  ///
  /// - Throws: ``ConfigurationError``, also for keys that the type does not have.
  public static func read<Configuration: Codable>(
    _ path: String, over defaults: Configuration
  ) throws -> Configuration {
    let data: Data
    do {
      data = try Data(contentsOf: URL(fileURLWithPath: path))
    } catch {
      throw ConfigurationError.unreadable(path: path, reason: error.localizedDescription)
    }
    return try decode(data, over: defaults, path: path)
  }

  /// The same from bytes; `path` is what errors name.
  public static func decode<Configuration: Codable>(
    _ data: Data, over defaults: Configuration, path: String
  ) throws -> Configuration {
    guard let stated = try? JSONSerialization.jsonObject(with: data) as? [String: Any] else {
      throw ConfigurationError.malformed(path: path, reason: "it is no JSON object")
    }
    let base = try JSONSerialization.jsonObject(with: JSONEncoder().encode(defaults))
    guard let base = base as? [String: Any] else {
      throw ConfigurationError.malformed(path: path, reason: "the defaults are no JSON object")
    }
    let merged = try overlay(stated, on: base, prefix: "", path: path)
    do {
      return try JSONDecoder().decode(
        Configuration.self, from: JSONSerialization.data(withJSONObject: merged))
    } catch let error as DecodingError {
      throw ConfigurationError.malformed(path: path, reason: sentence(error))
    }
  }

  private static func overlay(
    _ stated: [String: Any], on base: [String: Any], prefix: String, path: String
  ) throws -> [String: Any] {
    let unknown = stated.keys.filter { base[$0] == nil }.sorted()
    guard unknown.isEmpty else {
      throw ConfigurationError.unknownKeys(
        path: path, keys: unknown.map { prefix + $0 }, known: base.keys.sorted())
    }
    var merged = base
    for (key, value) in stated {
      if let inner = value as? [String: Any], let old = base[key] as? [String: Any] {
        merged[key] = try overlay(inner, on: old, prefix: prefix + key + ".", path: path)
      } else {
        merged[key] = value
      }
    }
    return merged
  }

  private static func sentence(_ error: DecodingError) -> String {
    switch error {
    case .typeMismatch(_, let context), .valueNotFound(_, let context),
      .keyNotFound(_, let context), .dataCorrupted(let context):
      let key = context.codingPath.map(\.stringValue).joined(separator: ".")
      return (key.isEmpty ? "" : "\(key): ") + context.debugDescription
    @unknown default:
      return String(describing: error)
    }
  }
}
