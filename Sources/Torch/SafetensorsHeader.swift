#if canImport(FoundationEssentials)
  import FoundationEssentials
#else
  import Foundation
#endif

/// The JSON header of a safetensors file: what tensors there are and where their bytes lie.
///
/// The file is N as 8 bytes, little end first; the header, N bytes of JSON; the tensors' bytes.
/// The header maps every name to its dtype, shape and [begin, end) in the bytes that follow it, and
/// `__metadata__` to a map of texts. Format: huggingface/safetensors, README, "Format".
struct SafetensorsHeader {
  /// Texts that go with the tensors.
  var metadata: [String: String] = [:]
  /// The tensors in the order of their bytes, which they cover without gaps.
  var entries: [SafetensorsFile.Entry] = []

  /// The most that a header may take, as in the format's own reader.
  static let maximumByteCount = 100_000_000

  fileprivate static let metadataKey = "__metadata__"

  /// Bytes of all tensors.
  var dataByteCount: Int { entries.last?.byteRange.upperBound ?? 0 }
}

/// What is wrong with a header, to be completed by the file's path.
struct HeaderFault: Error {
  let reason: String
}

// MARK: - Reading

extension SafetensorsHeader {
  /// Reads a header and checks it against the number of bytes that follow it in the file.
  init(json: [UInt8], dataByteCount: Int) throws(HeaderFault) {
    // A decoder would also take UTF-16, whose text has zero bytes.
    guard json.first == UInt8(ascii: "{"), !json.contains(0) else {
      throw HeaderFault(reason: "its header is no UTF-8 text that starts with '{'")
    }
    let file: FileObject
    do {
      file = try JSONDecoder().decode(FileObject.self, from: Data(json))
    } catch {
      throw HeaderFault(reason: "its header is no valid JSON of the format (\(Self.place(error)))")
    }
    // A decoder keeps one of several equal keys and skips unknown ones; the count tells.
    let expected = file.tensors.count * 4 + (file.metadata.map { $0.count + 1 } ?? 0)
    guard Self.memberCount(json) == expected else {
      throw HeaderFault(reason: "its header repeats a name or has unknown fields")
    }
    metadata = file.metadata ?? [:]
    for (name, tensor) in file.tensors {
      entries.append(try Self.entry(name, tensor))
    }
    entries.sort {
      ($0.byteRange.lowerBound, $0.byteRange.upperBound, $0.name)
        < ($1.byteRange.lowerBound, $1.byteRange.upperBound, $1.name)
    }
    try checkCoverage(of: dataByteCount)
  }

  private static func entry(
    _ name: String, _ tensor: TensorObject
  ) throws(HeaderFault) -> SafetensorsFile.Entry {
    guard let dtype = DType(safetensorsName: tensor.dtype) else {
      throw HeaderFault(reason: "tensor '\(name)' has the unsupported type '\(tensor.dtype)'")
    }
    var byteCount = dtype.byteCount
    for extent in tensor.shape {
      let (product, overflow) = byteCount.multipliedReportingOverflow(by: extent)
      guard extent >= 0, !overflow else {
        throw HeaderFault(reason: "tensor '\(name)' has the impossible shape \(tensor.shape)")
      }
      byteCount = product
    }
    let offsets = tensor.offsets
    guard offsets.count == 2, offsets[0] >= 0, offsets[0] <= offsets[1],
      offsets[1] - offsets[0] == byteCount
    else {
      throw HeaderFault(
        reason: "tensor '\(name)', \(dtype)\(tensor.shape), needs \(byteCount) bytes "
          + "but has the offsets \(offsets)")
    }
    return SafetensorsFile.Entry(
      name: name, dtype: dtype, shape: tensor.shape, byteRange: offsets[0]..<offsets[1])
  }

  /// The ranges follow each other without gap or overlap, and end where the file ends.
  private func checkCoverage(of dataByteCount: Int) throws(HeaderFault) {
    var end = 0
    for entry in entries {
      guard entry.byteRange.lowerBound == end else {
        throw HeaderFault(
          reason: "tensor '\(entry.name)' starts at byte \(entry.byteRange.lowerBound) of the data "
            + "where \(end) was expected")
      }
      end = entry.byteRange.upperBound
    }
    guard end == dataByteCount else {
      throw HeaderFault(
        reason: "its header describes \(end) bytes of tensors but \(dataByteCount) follow it")
    }
  }

  /// The members of all objects of a valid JSON text: its colons outside of strings.
  private static func memberCount(_ json: [UInt8]) -> Int {
    var (count, inString, escaped) = (0, false, false)
    for byte in json {
      if escaped {
        escaped = false
      } else if inString {
        escaped = byte == UInt8(ascii: "\\")
        inString = byte != UInt8(ascii: "\"")
      } else if byte == UInt8(ascii: "\"") {
        inString = true
      } else if byte == UInt8(ascii: ":") {
        count += 1
      }
    }
    return count
  }

  private static func place(_ error: any Error) -> String {
    guard let error = error as? DecodingError else { return "\(error)" }
    switch error {
    case .typeMismatch(_, let context), .valueNotFound(_, let context),
      .keyNotFound(_, let context), .dataCorrupted(let context):
      let path = context.codingPath.map(\.stringValue).joined(separator: ".")
      return path.isEmpty ? context.debugDescription : "\(path): \(context.debugDescription)"
    @unknown default: return "\(error)"
    }
  }
}

// MARK: - Writing

extension SafetensorsHeader {
  /// A header for tensors that are stored one after another: wide elements first, then by name,
  /// so that each lies at a multiple of its element's size.
  init(tensors: [String: Tensor], metadata: [String: String]) {
    self.metadata = metadata
    let order = tensors.map { (name: $0.key, dtype: $0.value.dtype, shape: $0.value.shape) }
      .sorted { ($1.dtype.byteCount, $0.name) < ($0.dtype.byteCount, $1.name) }
    for tensor in order {
      let begin = dataByteCount
      let byteCount = tensor.shape.reduce(tensor.dtype.byteCount, *)
      entries.append(
        SafetensorsFile.Entry(
          name: tensor.name, dtype: tensor.dtype, shape: tensor.shape,
          byteRange: begin..<begin + byteCount))
    }
  }

  /// The length and the JSON, padded with spaces so that the data starts at a multiple of 8.
  func encoded() throws -> [UInt8] {
    let tensors = entries.map { entry in
      let range = [entry.byteRange.lowerBound, entry.byteRange.upperBound]
      let object = TensorObject(
        dtype: entry.dtype.safetensorsName, shape: entry.shape, offsets: range)
      return (entry.name, object)
    }
    let encoder = JSONEncoder()
    encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
    var json = [UInt8](
      try encoder.encode(
        FileObject(
          metadata: metadata.isEmpty ? nil : metadata,
          tensors: Dictionary(uniqueKeysWithValues: tensors))))
    while json.count % 8 != 0 { json.append(UInt8(ascii: " ")) }
    return withUnsafeBytes(of: UInt64(json.count).littleEndian) { Array($0) } + json
  }
}

// MARK: - The JSON's shape

private struct TensorObject: Codable {
  var dtype: String
  var shape: [Int]
  var offsets: [Int]

  enum CodingKeys: String, CodingKey {
    case dtype, shape
    case offsets = "data_offsets"
  }
}

private struct FileObject: Codable {
  var metadata: [String: String]?
  var tensors: [String: TensorObject]

  struct Name: CodingKey {
    let stringValue: String
    var intValue: Int? { nil }
    init(stringValue: String) { self.stringValue = stringValue }
    init?(intValue: Int) { nil }
  }

  init(metadata: [String: String]?, tensors: [String: TensorObject]) {
    self.metadata = metadata
    self.tensors = tensors
  }

  init(from decoder: any Decoder) throws {
    let container = try decoder.container(keyedBy: Name.self)
    tensors = [:]
    for key in container.allKeys {
      if key.stringValue == SafetensorsHeader.metadataKey {
        metadata = try container.decode([String: String].self, forKey: key)
      } else {
        tensors[key.stringValue] = try container.decode(TensorObject.self, forKey: key)
      }
    }
  }

  func encode(to encoder: any Encoder) throws {
    var container = encoder.container(keyedBy: Name.self)
    try container.encodeIfPresent(
      metadata, forKey: Name(stringValue: SafetensorsHeader.metadataKey))
    for (name, tensor) in tensors {
      try container.encode(tensor, forKey: Name(stringValue: name))
    }
  }
}

extension DType {
  private static let safetensorsNames: [DType: String] = [
    .float64: "F64", .float32: "F32", .float16: "F16", .bfloat16: "BF16", .int64: "I64",
    .int32: "I32", .int16: "I16", .int8: "I8", .uint8: "U8", .bool: "BOOL",
  ]

  fileprivate var safetensorsName: String { Self.safetensorsNames[self] ?? description }

  fileprivate init?(safetensorsName name: String) {
    guard let found = Self.safetensorsNames.first(where: { $0.value == name }) else { return nil }
    self = found.key
  }
}
