import CTorch

/// The type of a tensor's elements, by libtorch's code for it.
public enum DType: Int32, CaseIterable, Sendable, Codable {
  case uint8 = 0
  case int8 = 1
  case int16 = 2
  case int32 = 3
  case int64 = 4
  case float16 = 5
  case float32 = 6
  case float64 = 7
  case bool = 11
  case bfloat16 = 15

  /// Bytes an element takes.
  public var byteCount: Int { ct_dtype_size(rawValue) }

  /// Whether this is one of the floating-point types, those that carry gradients.
  public var isFloatingPoint: Bool {
    switch self {
    case .float16, .float32, .float64, .bfloat16: true
    default: false
    }
  }
}

extension DType: CustomStringConvertible {
  /// libtorch's name of the type.
  public var description: String {
    switch self {
    case .uint8: "uint8"
    case .int8: "int8"
    case .int16: "int16"
    case .int32: "int32"
    case .int64: "int64"
    case .float16: "float16"
    case .float32: "float32"
    case .float64: "float64"
    case .bool: "bool"
    case .bfloat16: "bfloat16"
    }
  }

  /// The type that `name` means: `float32` or the short `f32`, and so on for the others.
  ///
  /// - Throws: ``TorchError`` for any other name.
  public init(parsing name: String) throws {
    let short: [String: DType] = [
      "u8": .uint8, "i8": .int8, "i16": .int16, "i32": .int32, "i64": .int64,
      "f16": .float16, "bf16": .bfloat16, "f32": .float32, "f64": .float64,
    ]
    guard let found = short[name] ?? DType.allCases.first(where: { $0.description == name }) else {
      let names = DType.allCases.map(\.description).joined(separator: ", ")
      throw TorchError("'\(name)' is not an element type; expected one of \(names).")
    }
    self = found
  }
}

/// A Swift type whose values can be copied into a tensor and out of it.
public protocol TensorElement: BitwiseCopyable, Sendable {
  /// The tensor's element type with the same bits.
  static var dtype: DType { get }
}

extension UInt8: TensorElement {
  /// ``DType/uint8``.
  public static var dtype: DType { .uint8 }
}
extension Int8: TensorElement {
  /// ``DType/int8``.
  public static var dtype: DType { .int8 }
}
extension Int16: TensorElement {
  /// ``DType/int16``.
  public static var dtype: DType { .int16 }
}
extension Int32: TensorElement {
  /// ``DType/int32``.
  public static var dtype: DType { .int32 }
}
extension Int64: TensorElement {
  /// ``DType/int64``.
  public static var dtype: DType { .int64 }
}
extension Int: TensorElement {
  /// ``DType/int64``.
  public static var dtype: DType { .int64 }
}
extension Float: TensorElement {
  /// ``DType/float32``.
  public static var dtype: DType { .float32 }
}
extension Double: TensorElement {
  /// ``DType/float64``.
  public static var dtype: DType { .float64 }
}
extension Bool: TensorElement {
  /// ``DType/bool``.
  public static var dtype: DType { .bool }
}
#if !(os(macOS) && arch(x86_64))
  extension Float16: TensorElement {
    /// ``DType/float16``.
    public static var dtype: DType { .float16 }
  }
#endif
