/// Tensors in a file, by name, in the safetensors format.
///
/// Opening reads and checks the header only; a tensor's bytes are read when it is asked for, and
/// nothing beyond the file's end ever is. Every tensor's dtype, shape and place must agree with
/// each other and together cover the file exactly, else opening throws.
public final class SafetensorsFile {
  /// What the header says of a tensor.
  public struct Entry: Sendable, Hashable {
    /// The name.
    public let name: String
    /// The type of the elements.
    public let dtype: DType
    /// The extent of every axis.
    public let shape: [Int]
    /// Where the elements lie in the bytes after the header, in row-major order.
    public let byteRange: Range<Int>
  }

  /// The path that was opened.
  public let path: String
  /// Texts that were stored with the tensors.
  public let metadata: [String: String]
  /// The tensors by name.
  public let entries: [String: Entry]

  private let file: FileDescriptor
  private let dataOffset: Int

  /// Opens a file and checks its header.
  ///
  /// - Throws: ``SafetensorsError``.
  public init(_ path: String) throws {
    self.path = path
    file = try FileDescriptor(reading: path)
    let byteCount = try file.byteCount()
    let lengthBytes = try file.read(0..<min(8, byteCount))
    guard byteCount >= 8 else {
      throw SafetensorsError.malformed(
        path: path, reason: "it has \(byteCount) bytes, fewer than the header's length takes")
    }
    let length = lengthBytes.reversed().reduce(UInt64(0)) { $0 << 8 | UInt64($1) }
    guard length <= UInt64(min(byteCount - 8, SafetensorsHeader.maximumByteCount)) else {
      throw SafetensorsError.malformed(
        path: path, reason: "its header claims \(length) bytes in a file of \(byteCount)")
    }
    dataOffset = 8 + Int(length)
    do {
      let header = try SafetensorsHeader(
        json: try file.read(8..<dataOffset), dataByteCount: byteCount - dataOffset)
      metadata = header.metadata
      entries = Dictionary(uniqueKeysWithValues: header.entries.map { ($0.name, $0) })
    } catch let fault as HeaderFault {
      throw SafetensorsError.malformed(path: path, reason: fault.reason)
    }
  }

  /// The names in alphabetical order.
  public var names: [String] { entries.keys.sorted() }

  /// Reads one tensor.
  ///
  /// - Throws: ``SafetensorsError`` if there is none of this name, or it cannot be read any more.
  public func tensor(_ name: String, device: Device = .cpu) throws -> Tensor {
    guard let entry = entries[name] else {
      throw SafetensorsError.missing(path: path, name: name)
    }
    let tensor = Tensor.empty(entry.shape, dtype: entry.dtype)
    try tensor.withUnsafeMutableBytes { bytes in
      try file.read(into: bytes, at: dataOffset + entry.byteRange.lowerBound)
      // libtorch's kernels take a boolean for a byte that is 0 or 1.
      if entry.dtype == .bool && bytes.contains(where: { $0 > 1 }) {
        throw SafetensorsError.malformed(
          path: path, reason: "the booleans of tensor '\(name)' are not all 0 or 1")
      }
    }
    return tensor.to(device)
  }

  /// Reads all tensors.
  ///
  /// - Throws: ``SafetensorsError`` if one cannot be read any more.
  public func tensors(device: Device = .cpu) throws -> [String: Tensor] {
    var result: [String: Tensor] = [:]
    for name in entries.keys {
      result[name] = try tensor(name, device: device)
    }
    return result
  }

  /// Writes tensors to a file that appears complete or not at all.
  ///
  /// The bytes go to `path.partial` first and reach the disk before that takes the place of
  /// `path`, so a failure leaves what was there before.
  ///
  /// - Parameters:
  ///   - tensors: by name, of any device and strides; `__metadata__` is no name.
  ///   - metadata: texts to store with them.
  ///   - path: where to.
  /// - Throws: ``SafetensorsError/unwritable(path:reason:)``.
  public static func write(
    _ tensors: [String: Tensor], metadata: [String: String] = [:], to path: String
  ) throws {
    if tensors["__metadata__"] != nil {
      throw SafetensorsError.unwritable(path: path, reason: "'__metadata__' is no tensor's name")
    }
    let header = SafetensorsHeader(tensors: tensors, metadata: metadata)
    try FileDescriptor.replace(path) { file in
      try header.encoded().withUnsafeBytes { try file.write($0) }
      for entry in header.entries {
        guard let tensor = tensors[entry.name] else { continue }
        try withNoGrad { tensor.to(.cpu).contiguous() }.withUnsafeBytes { try file.write($0) }
      }
    }
  }
}
