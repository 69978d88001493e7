// MARK: - Elementwise functions

extension Tensor {
  /// This tensor to the power of `exponent`.
  public func pow(_ exponent: some ScalarOperand) -> Tensor {
    ATen.tensor("aten::pow.Tensor_Scalar", [.tensor(self), exponent.operand])
  }

  /// The remainder of the division by `divisor`, of the divisor's sign.
  public func remainder(_ divisor: some ScalarOperand) -> Tensor {
    with("aten::remainder", divisor)
  }

  /// The quotient by `divisor`, rounded down.
  public func floorDivide(_ divisor: some ScalarOperand) -> Tensor {
    with("aten::floor_divide", divisor)
  }

  /// √x.
  public func sqrt() -> Tensor { unary("aten::sqrt") }
  /// 1/√x.
  public func rsqrt() -> Tensor { unary("aten::rsqrt") }
  /// x².
  public func square() -> Tensor { unary("aten::square") }
  /// |x|.
  public func abs() -> Tensor { unary("aten::abs") }
  /// eˣ.
  public func exp() -> Tensor { unary("aten::exp") }
  /// ln x.
  public func log() -> Tensor { unary("aten::log") }
  /// sin x, x in radians.
  public func sin() -> Tensor { unary("aten::sin") }
  /// cos x, x in radians.
  public func cos() -> Tensor { unary("aten::cos") }
  /// The hyperbolic tangent.
  public func tanh() -> Tensor { unary("aten::tanh") }
  /// 1 / (1 + e⁻ˣ).
  public func sigmoid() -> Tensor { unary("aten::sigmoid") }
  /// ln (1 + eˣ).
  public func softplus() -> Tensor { unary("aten::softplus") }
  /// max(x, 0).
  public func relu() -> Tensor { unary("aten::relu") }
  /// x · sigmoid(x).
  public func silu() -> Tensor { unary("aten::silu") }
  /// x for x > 0, eˣ − 1 elsewhere.
  public func elu() -> Tensor { unary("aten::elu") }
  /// The largest integer not above x.
  public func floor() -> Tensor { unary("aten::floor") }
  /// The nearest integer, of two the even one.
  public func round() -> Tensor { unary("aten::round") }
  /// True where an element is not a number.
  public func isNaN() -> Tensor { unary("aten::isnan") }
  /// True where an element is neither infinite nor not a number.
  public func isFinite() -> Tensor { unary("aten::isfinite") }

  /// x · Φ(x) with Φ the normal distribution's integral; with its tanh form if `approximate`.
  public func gelu(approximate: Bool = false) -> Tensor {
    ATen.tensor(
      "aten::gelu", [.tensor(self)],
      named: ["approximate": approximate ? "tanh" : "none"])
  }

  /// Every element moved into the bounds that are given.
  public func clamp(min: (any ScalarOperand)? = nil, max: (any ScalarOperand)? = nil) -> Tensor {
    ATen.tensor(
      "aten::clamp", [.tensor(self), min?.operand ?? .none, max?.operand ?? .none])
  }

  /// The larger of both, elementwise.
  public func maximum(_ other: Tensor) -> Tensor { with("aten::maximum", other) }

  /// The smaller of both, elementwise.
  public func minimum(_ other: Tensor) -> Tensor { with("aten::minimum", other) }

  /// Elements of `a` where `condition` is true, of `b` elsewhere.
  public static func select(_ condition: Tensor, _ a: Tensor, _ b: Tensor) -> Tensor {
    ATen.tensor("aten::where.self", [.tensor(condition), .tensor(a), .tensor(b)])
  }

  /// This tensor with `value` where `mask` is true.
  public func filled(where mask: Tensor, with value: some ScalarOperand) -> Tensor {
    ATen.tensor("aten::masked_fill.Scalar", [.tensor(self), .tensor(mask), value.operand])
  }

  /// Whether every element is within atol + rtol·|other| of its counterpart.
  public func isClose(
    to other: Tensor, rtol: Double = 1e-5, atol: Double = 1e-8, equalNaN: Bool = false
  ) -> Bool {
    let found = ATen.values(
      "aten::allclose",
      [.tensor(self), .tensor(other), .double(rtol), .double(atol), .bool(equalNaN)])
    if case .bool(let close)? = found.first { return close }
    return false
  }

  /// Whether both have the same shape and the same elements.
  public func isEqual(to other: Tensor) -> Bool {
    let found = ATen.values("aten::equal", [.tensor(self), .tensor(other)])
    if case .bool(let equal)? = found.first { return equal }
    return false
  }
}
