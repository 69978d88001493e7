/// A number that stands beside a tensor in arithmetic.
public protocol ScalarOperand {
  /// The number as an argument.
  var operand: Value { get }
}

extension Int: ScalarOperand {
  /// The integer as an argument, which keeps an integer tensor's type.
  public var operand: Value { .int(self) }
}

extension Double: ScalarOperand {
  /// The number as an argument, which keeps a floating-point tensor's type.
  public var operand: Value { .double(self) }
}

extension Float: ScalarOperand {
  /// The number as an argument, which keeps a floating-point tensor's type.
  public var operand: Value { .double(Double(self)) }
}

// MARK: - Arithmetic. Shapes broadcast: axes align at the last, and extents of 1 repeat.

extension Tensor {
  /// The sum of the elements.
  public static func + (a: Tensor, b: Tensor) -> Tensor { a.with("aten::add.Tensor", b) }
  /// The sum of every element and a number.
  public static func + (a: Tensor, b: some ScalarOperand) -> Tensor { a.with("aten::add", b) }
  /// The difference of the elements.
  public static func - (a: Tensor, b: Tensor) -> Tensor { a.with("aten::sub.Tensor", b) }
  /// The difference of every element and a number.
  public static func - (a: Tensor, b: some ScalarOperand) -> Tensor { a.with("aten::sub", b) }
  /// The product of the elements.
  public static func * (a: Tensor, b: Tensor) -> Tensor { a.with("aten::mul.Tensor", b) }
  /// The product of every element and a number.
  public static func * (a: Tensor, b: some ScalarOperand) -> Tensor { a.with("aten::mul", b) }
  /// The quotient of the elements.
  public static func / (a: Tensor, b: Tensor) -> Tensor { a.with("aten::div.Tensor", b) }
  /// The quotient of every element and a number.
  public static func / (a: Tensor, b: some ScalarOperand) -> Tensor { a.with("aten::div", b) }
  /// The sum of a number and every element.
  public static func + (a: some ScalarOperand, b: Tensor) -> Tensor { b + a }
  /// The difference of a number and every element.
  public static func - (a: some ScalarOperand, b: Tensor) -> Tensor { b.with("aten::rsub", a) }
  /// The product of a number and every element.
  public static func * (a: some ScalarOperand, b: Tensor) -> Tensor { b * a }
  /// The quotient of a number and every element.
  public static func / (a: some ScalarOperand, b: Tensor) -> Tensor {
    b.unary("aten::reciprocal") * a
  }
  /// The elements with their signs changed.
  public static prefix func - (a: Tensor) -> Tensor { a.unary("aten::neg") }
}

// MARK: - Comparisons, which return booleans

extension Tensor {
  /// Where a's elements are below b's.
  public static func .< (a: Tensor, b: Tensor) -> Tensor { a.with("aten::lt.Tensor", b) }
  /// Where a's elements are below a number.
  public static func .< (a: Tensor, b: some ScalarOperand) -> Tensor { a.with("aten::lt", b) }
  /// Where a's elements are at most b's.
  public static func .<= (a: Tensor, b: Tensor) -> Tensor { a.with("aten::le.Tensor", b) }
  /// Where a's elements are at most a number.
  public static func .<= (a: Tensor, b: some ScalarOperand) -> Tensor { a.with("aten::le", b) }
  /// Where a's elements are above b's.
  public static func .> (a: Tensor, b: Tensor) -> Tensor { a.with("aten::gt.Tensor", b) }
  /// Where a's elements are above a number.
  public static func .> (a: Tensor, b: some ScalarOperand) -> Tensor { a.with("aten::gt", b) }
  /// Where a's elements are at least b's.
  public static func .>= (a: Tensor, b: Tensor) -> Tensor { a.with("aten::ge.Tensor", b) }
  /// Where a's elements are at least a number.
  public static func .>= (a: Tensor, b: some ScalarOperand) -> Tensor { a.with("aten::ge", b) }
  /// Where a's elements are equal to b's.
  public static func .== (a: Tensor, b: Tensor) -> Tensor { a.with("aten::eq.Tensor", b) }
  /// Where a's elements are equal to a number.
  public static func .== (a: Tensor, b: some ScalarOperand) -> Tensor { a.with("aten::eq", b) }
  /// Where a's elements are different from b's.
  public static func .!= (a: Tensor, b: Tensor) -> Tensor { a.with("aten::ne.Tensor", b) }
  /// Where a's elements are different from a number.
  public static func .!= (a: Tensor, b: some ScalarOperand) -> Tensor { a.with("aten::ne", b) }
  /// Where both are true.
  public static func .& (a: Tensor, b: Tensor) -> Tensor { a.with("aten::logical_and", b) }
  /// Where either is true.
  public static func .| (a: Tensor, b: Tensor) -> Tensor { a.with("aten::logical_or", b) }
  /// Where it is false.
  public static prefix func .! (a: Tensor) -> Tensor { a.unary("aten::logical_not") }
}

// MARK: - The forms of call

extension Tensor {
  func unary(_ name: String) -> Tensor { ATen.tensor(name, [.tensor(self)]) }

  func with(_ name: String, _ other: Tensor) -> Tensor {
    ATen.tensor(name, [.tensor(self), .tensor(other)])
  }

  func with(_ name: String, _ other: some ScalarOperand) -> Tensor {
    ATen.tensor(name + ".Scalar", [.tensor(self), other.operand])
  }
}
