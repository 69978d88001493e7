import Foundation

/// Reading and writing reports as JSON.
public enum JSONFile {
  /// Writes a value with sorted keys, under a temporary name that is then changed.
  public static func write(_ value: some Encodable, to path: String) throws {
    try encoded(value).write(to: URL(fileURLWithPath: path), options: .atomic)
  }

  /// A value as text with sorted keys.
  public static func text(_ value: some Encodable) throws -> String {
    String(decoding: try encoded(value), as: UTF8.self)
  }

  private static func encoded(_ value: some Encodable) throws -> Data {
    let encoder = JSONEncoder()
    encoder.outputFormatting = [.prettyPrinted, .sortedKeys, .withoutEscapingSlashes]
    return try encoder.encode(value)
  }

  /// Reads a value, nil if there is none or it is no such value.
  public static func read<Value: Decodable>(_ type: Value.Type, from path: String) -> Value? {
    guard let data = FileManager.default.contents(atPath: path) else { return nil }
    return try? JSONDecoder().decode(type, from: data)
  }
}
