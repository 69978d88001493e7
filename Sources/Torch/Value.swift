import CTorch

/// An argument or a result of an operator that is called by name.
///
/// Literals stand for themselves: `2`, `0.5`, `true`, `"none"`, `[1, 2]`, `nil`.
public enum Value {
  case none
  case tensor(Tensor)
  case int(Int)
  case double(Double)
  case bool(Bool)
  case string(String)
  case device(Device)
  case generator(Generator)
  case ints([Int])
  case doubles([Double])
  case bools([Bool])
  /// A list of tensors, in which nil is Python's None.
  case tensors([Tensor?])

  /// An element type, which libtorch passes as its code.
  public static func dtype(_ dtype: DType) -> Value { .int(Int(dtype.rawValue)) }

  /// The value, or none.
  public static func optional(_ tensor: Tensor?) -> Value { tensor.map(Value.tensor) ?? .none }

  /// The value, or none.
  public static func optional(_ dtype: DType?) -> Value { dtype.map(Value.dtype) ?? .none }

  /// The value, or none.
  public static func optional(_ number: Double?) -> Value { number.map(Value.double) ?? .none }

  /// The value, or none.
  public static func optional(_ integer: Int?) -> Value { integer.map(Value.int) ?? .none }

  /// The value, or none: libtorch's default generator.
  public static func optional(_ generator: Generator?) -> Value {
    generator.map(Value.generator) ?? .none
  }
}

extension Value: ExpressibleByIntegerLiteral, ExpressibleByFloatLiteral, ExpressibleByNilLiteral,
  ExpressibleByBooleanLiteral, ExpressibleByStringLiteral, ExpressibleByArrayLiteral
{
  /// An integer.
  public init(integerLiteral value: Int) { self = .int(value) }
  /// A real number.
  public init(floatLiteral value: Double) { self = .double(value) }
  /// None.
  public init(nilLiteral: ()) { self = .none }
  /// A boolean.
  public init(booleanLiteral value: Bool) { self = .bool(value) }
  /// A text.
  public init(stringLiteral value: String) { self = .string(value) }
  /// A list of integers.
  public init(arrayLiteral elements: Int...) { self = .ints(elements) }
}

extension Value: CustomStringConvertible {
  /// The value as it appears in messages: tensors by their type and shape.
  public var description: String {
    switch self {
    case .none: "nil"
    case .tensor(let tensor): Value.outline(tensor)
    case .int(let integer): "\(integer)"
    case .double(let number): "\(number)"
    case .bool(let flag): "\(flag)"
    case .string(let text): "\"\(text)\""
    case .device(let device): "\(device)"
    case .generator: "generator"
    case .ints(let list): "\(list)"
    case .doubles(let list): "\(list)"
    case .bools(let list): "\(list)"
    case .tensors(let list):
      "[" + list.map { $0.map(Value.outline) ?? "nil" }.joined(separator: ", ") + "]"
    }
  }

  private static func outline(_ tensor: Tensor) -> String {
    let place = tensor.device == .cpu ? "" : " \(tensor.device)"
    return "\(tensor.dtype)\(tensor.shape)\(place)"
  }
}

// MARK: - Crossing the C header

extension Value {
  /// Takes over a result, with what it owns.
  init(owning raw: ct_value) {
    defer { ct_free(raw.pointer) }
    switch UInt32(raw.tag) {
    case CT_TENSOR.rawValue: self = raw.tensor.map { .tensor(Tensor(owning: $0)) } ?? .none
    case CT_INT.rawValue: self = .int(Int(raw.integer))
    case CT_DOUBLE.rawValue: self = .double(raw.real)
    case CT_BOOL.rawValue: self = .bool(raw.integer != 0)
    case CT_TENSORS.rawValue:
      let handles = UnsafeBufferPointer(
        start: raw.pointer?.assumingMemoryBound(to: ct_tensor?.self), count: raw.count)
      self = .tensors(handles.map { $0.map(Tensor.init(owning:)) })
    default: self = .none
    }
  }
}

/// The C form of a call's arguments. Everything they point to lives as long as this object.
final class ArgumentList {
  private(set) var values: [ct_value] = []
  private let owner: [Value]
  private var memory: [UnsafeMutableRawPointer] = []

  init(_ arguments: [Value], named: KeyValuePairs<String, Value>) {
    owner = arguments + named.map(\.value)
    values.reserveCapacity(owner.count)
    for value in arguments { values.append(raw(value)) }
    for (name, value) in named {
      var argument = raw(value)
      argument.name = UnsafePointer(copy(name))
      values.append(argument)
    }
  }

  deinit {
    for pointer in memory { pointer.deallocate() }
  }

  private func raw(_ value: Value) -> ct_value {
    var result = ct_value()
    switch value {
    case .none: result.tag = Int32(CT_NONE.rawValue)
    case .tensor(let tensor): result.set(CT_TENSOR) { $0.tensor = tensor.handle }
    case .int(let integer): result.set(CT_INT) { $0.integer = Int64(integer) }
    case .double(let number): result.set(CT_DOUBLE) { $0.real = number }
    case .bool(let flag): result.set(CT_BOOL) { $0.integer = flag ? 1 : 0 }
    case .string(let text): result.set(CT_STRING) { $0.pointer = UnsafeRawPointer(copy(text)) }
    case .device(let device): result.set(CT_DEVICE) { $0.device = device.raw }
    case .generator(let generator):
      result.set(CT_GENERATOR) { $0.pointer = UnsafeRawPointer(generator.handle) }
    case .ints(let list): setList(&result, CT_INTS, list.map(Int64.init))
    case .doubles(let list): setList(&result, CT_DOUBLES, list)
    case .bools(let list): setList(&result, CT_BOOLS, list)
    case .tensors(let list): setList(&result, CT_TENSORS, list.map { $0?.handle })
    }
    return result
  }

  private func setList<T>(_ value: inout ct_value, _ tag: ct_tag, _ list: [T]) {
    let copy = UnsafeMutablePointer<T>.allocate(capacity: max(list.count, 1))
    copy.initialize(from: list, count: list.count)
    memory.append(UnsafeMutableRawPointer(copy))
    value.set(tag) {
      $0.pointer = UnsafeRawPointer(copy)
      $0.count = list.count
    }
  }

  private func copy(_ text: String) -> UnsafeMutablePointer<CChar> {
    let bytes = text.utf8CString
    let copy = UnsafeMutablePointer<CChar>.allocate(capacity: bytes.count)
    bytes.withUnsafeBufferPointer { source in
      if let start = source.baseAddress { copy.initialize(from: start, count: source.count) }
    }
    memory.append(UnsafeMutableRawPointer(copy))
    return copy
  }
}

extension ct_value {
  fileprivate mutating func set(_ tag: ct_tag, _ change: (inout ct_value) -> Void) {
    self.tag = Int32(tag.rawValue)
    change(&self)
  }
}
