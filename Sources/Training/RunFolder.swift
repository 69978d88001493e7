import Foundation

/// A run's folder, whose `config.json` says what the run is.
enum RunFolder {
  /// Writes the configuration into a new folder, or compares it with the one there.
  ///
  /// - Parameters:
  ///   - defaults: what a file that leaves keys out means.
  ///   - freeKeys: paths of keys that may differ.
  /// - Throws: ``CheckpointError/otherConfiguration(folder:differences:)``, ``ConfigurationError``.
  static func claim<Configuration: Codable>(
    _ folder: String, for configuration: Configuration, over defaults: Configuration,
    freeKeys: Set<String>
  ) throws {
    let path = folder + "/config.json"
    if FileManager.default.fileExists(atPath: path) {
      let old = try ConfigurationFile.read(path, over: defaults)
      let differences = try differences(values(of: configuration), values(of: old), freeKeys)
      guard differences.isEmpty else {
        throw CheckpointError.otherConfiguration(folder: folder, differences: differences)
      }
    }
    try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
    let encoder = JSONEncoder()
    encoder.outputFormatting = [.prettyPrinted, .sortedKeys, .withoutEscapingSlashes]
    try encoder.encode(configuration).write(to: URL(fileURLWithPath: path), options: .atomic)
  }

  private static func differences(
    _ mine: [String: String], _ theirs: [String: String], _ freeKeys: Set<String>
  ) -> [String] {
    Set(mine.keys).union(theirs.keys).subtracting(freeKeys).sorted().compactMap { key in
      mine[key] == theirs[key]
        ? nil : "\(key) is \(theirs[key] ?? "unset") there and \(mine[key] ?? "unset") here"
    }
  }

  /// Every value as text under its path of keys.
  private static func values(of configuration: some Encodable) throws -> [String: String] {
    var values: [String: String] = [:]
    func add(_ value: Any, _ path: String) {
      if let object = value as? [String: Any] {
        for (key, inner) in object { add(inner, path.isEmpty ? key : path + "." + key) }
      } else {
        values[path] = "\(value)"
      }
    }
    add(try JSONSerialization.jsonObject(with: JSONEncoder().encode(configuration)), "")
    return values
  }
}
