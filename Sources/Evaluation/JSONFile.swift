import Foundation

/// Reading and writing reports as JSON.
public enum JSONFile {
  /// Writes a value with sorted keys, under a temporary name that is then changed.
  public static func write(_ value: some Encodable, to path: String) throws {
    let encoder = JSONEncoder()
    encoder.outputFormatting = [.prettyPrinted, .sortedKeys, .withoutEscapingSlashes]
    try encoder.encode(value).write(to: URL(fileURLWithPath: path), options: .atomic)
  }

  /// Reads a value, nil if there is none or it is no such value.
  public static func read<Value: Decodable>(_ type: Value.Type, from path: String) -> Value? {
    guard let data = FileManager.default.contents(atPath: path) else { return nil }
    return try? JSONDecoder().decode(type, from: data)
  }
}
