import Foundation
import Testing
import Torch

@Suite("Wrappers against known values")
struct WrapperTests {
  static let numbers = [-2.5, -1, -0.25, 0, 0.5, 1, 3]
  static let positive = [0.125, 0.5, 1, 2, 10]

  private static func each(
    _ name: String, of inputs: [Double] = numbers,
    _ function: @escaping @Sendable (Double) -> Double,
    _ wrapper: @escaping @Sendable (Tensor) -> Tensor
  ) -> Case {
    Case(name, inputs.map(function)) { wrapper(vector(inputs)) }
  }

  static let elementwiseCases: [Case] = [
    each("negation", { -$0 }, { -$0 }),
    each("pow", of: positive, { pow($0, 1.5) }, { $0.pow(1.5) }),
    each("remainder", { $0 - 2 * ($0 / 2).rounded(.down) }, { $0.remainder(2) }),
    each("floorDivide", { ($0 / 2).rounded(.down) }, { $0.floorDivide(2) }),
    each("sqrt", of: positive, { sqrt($0) }, { $0.sqrt() }),
    each("rsqrt", of: positive, { 1 / sqrt($0) }, { $0.rsqrt() }),
    each("square", { $0 * $0 }, { $0.square() }),
    each("abs", { abs($0) }, { $0.abs() }),
    each("exp", { exp($0) }, { $0.exp() }),
    each("log", of: positive, { log($0) }, { $0.log() }),
    each("sin", { sin($0) }, { $0.sin() }),
    each("cos", { cos($0) }, { $0.cos() }),
    each("tanh", { tanh($0) }, { $0.tanh() }),
    each("sigmoid", { 1 / (1 + exp(-$0)) }, { $0.sigmoid() }),
    each("softplus", { log1p(exp($0)) }, { $0.softplus() }),
    each("relu", { max($0, 0) }, { $0.relu() }),
    each("silu", { $0 / (1 + exp(-$0)) }, { $0.silu() }),
    each("elu", { $0 > 0 ? $0 : expm1($0) }, { $0.elu() }),
    each("gelu", { $0 * erfc(-$0 / sqrt(2.0)) / 2 }, { $0.gelu() }),
    each(
      "gelu with tanh",
      { $0 / 2 * (1 + tanh(sqrt(2 / Double.pi) * ($0 + 0.044715 * $0 * $0 * $0))) },
      { $0.gelu(approximate: true) }),
    each("floor", { $0.rounded(.down) }, { $0.floor() }),
    each("round", { $0.rounded(.toNearestOrEven) }, { $0.round() }),
    each("clamp", { min(max($0, -1), 0.5) }, { $0.clamp(min: -1, max: 0.5) }),
    each("clamp from below", { max($0, -1) }, { $0.clamp(min: -1) }),
    each("filled", { $0 > 0 ? 9 : $0 }, { $0.filled(where: $0 .> 0, with: 9) }),
    each("select", { max($0, -$0) }, { Tensor.select($0 .> 0, $0, -$0) }),
    each("maximum", { max($0, -$0) }, { $0.maximum(-$0) }),
    each("minimum", { min($0, -$0) }, { $0.minimum(-$0) }),
    Case("isNaN", [0, 1, 0]) { vector([1, .nan, .infinity]).isNaN() },
    Case("isFinite", [1, 0, 0]) { vector([1, .nan, .infinity]).isFinite() },
  ]

  @Test(arguments: elementwiseCases)
  func elementwise(_ example: Case) {
    example.check()
  }

  static let operatorsCases: [Case] = [
    each("x + y", { $0 + 2 }, { $0 + vector([2]) }),
    each("x - y", { $0 - 2 }, { $0 - vector([2]) }),
    each("x * y", { $0 * 2 }, { $0 * vector([2]) }),
    each("x / y", { $0 / 2 }, { $0 / vector([2]) }),
    each("x + 2", { $0 + 2 }, { $0 + 2 }),
    each("x - 2", { $0 - 2 }, { $0 - 2 }),
    each("x * 0.5", { $0 * 0.5 }, { $0 * 0.5 }),
    each("x / 2", { $0 / 2 }, { $0 / 2 }),
    each("2 + x", { 2 + $0 }, { 2 + $0 }),
    each("2 - x", { 2 - $0 }, { 2 - $0 }),
    each("2 * x", { 2 * $0 }, { 2 * $0 }),
    each("2 / x", of: positive, { 2 / $0 }, { 2 / $0 }),
    each("x .< 0.5", { $0 < 0.5 ? 1 : 0 }, { $0 .< 0.5 }),
    each("x .<= 0.5", { $0 <= 0.5 ? 1 : 0 }, { $0 .<= 0.5 }),
    each("x .> 0.5", { $0 > 0.5 ? 1 : 0 }, { $0 .> 0.5 }),
    each("x .>= 0.5", { $0 >= 0.5 ? 1 : 0 }, { $0 .>= 0.5 }),
    each("x .== 0.5", { $0 == 0.5 ? 1 : 0 }, { $0 .== 0.5 }),
    each("x .!= 0.5", { $0 != 0.5 ? 1 : 0 }, { $0 .!= 0.5 }),
    each("x .< y", { $0 < 0.5 ? 1 : 0 }, { $0 .< vector([0.5]) }),
    each("x .<= y", { $0 <= 0.5 ? 1 : 0 }, { $0 .<= vector([0.5]) }),
    each("x .> y", { $0 > 0.5 ? 1 : 0 }, { $0 .> vector([0.5]) }),
    each("x .>= y", { $0 >= 0.5 ? 1 : 0 }, { $0 .>= vector([0.5]) }),
    each("x .== y", { $0 == 0.5 ? 1 : 0 }, { $0 .== vector([0.5]) }),
    each("x .!= y", { $0 != 0.5 ? 1 : 0 }, { $0 .!= vector([0.5]) }),
    each(".&", { $0 > -1 && $0 < 1 ? 1 : 0 }, { ($0 .> -1) .& ($0 .< 1) }),
    each(".|", { $0 < -1 || $0 > 1 ? 1 : 0 }, { ($0 .< -1) .| ($0 .> 1) }),
    each(".!", { $0 < -1 ? 0 : 1 }, { .!($0 .< -1) }),
  ]

  @Test(arguments: operatorsCases)
  func operators(_ example: Case) {
    example.check()
  }

  @Test func `arithmetic with integer literals keeps integers`() {
    let x = Tensor([1, 2])
    #expect((x + 1).dtype == .int64)
    #expect((2 * x).dtype == .int64)
    #expect((x * 0.5).dtype == .float32)
  }

  @Test func `comparisons of whole tensors`() {
    let x = vector([1, 2])
    #expect(x.isEqual(to: vector([1, 2])))
    #expect(!x.isEqual(to: vector([1, 3])))
    #expect(x.isClose(to: x + 1e-7))
    #expect(!x.isClose(to: x + 1e-3))
    #expect(vector([.nan]).isClose(to: vector([.nan]), equalNaN: true))
  }

  static let changes: [Case] = [
    change("fill", { $0.fill(3) }, { _ in 3 }),
    change("zero", { $0.zero() }, { _ in 0 }),
    change("copy", { $0.copy(from: vector([4])) }, { _ in 4 }),
    change("addInPlace", { $0.addInPlace(vector([4]), scale: 0.5) }, { $0 + 2 }),
    change("addInPlace of a number", { $0.addInPlace(2) }, { $0 + 2 }),
    change("multiplyInPlace", { $0.multiplyInPlace(vector([4])) }, { $0 * 4 }),
    change("multiplyInPlace by a number", { $0.multiplyInPlace(0.5) }, { $0 / 2 }),
    change(
      "addProductInPlace", { $0.addProductInPlace(vector([2]), vector([3]), scale: 0.5) },
      { $0 + 3 }),
    change(
      "addQuotientInPlace", { $0.addQuotientInPlace(vector([6]), vector([3]), scale: 0.5) },
      { $0 + 1 }),
    change(
      "interpolateInPlace", { $0.interpolateInPlace(to: vector([1]), weight: 0.25) },
      { $0 + 0.25 * (1 - $0) }),
    change("fillUniform", { $0.fillUniform(2, 2) }, { _ in 2 }),
    change("fillNormal", { $0.fillNormal(mean: 2, standardDeviation: 0) }, { _ in 2 }),
    change("Foreach.multiplyInPlace", { Foreach.multiplyInPlace([$0], 2) }, { $0 * 2 }),
    change("Foreach.addInPlace", { Foreach.addInPlace([$0], [$0.cloned()], scale: 2) }, { $0 * 3 }),
  ]

  private static func change(
    _ name: String, _ action: @escaping @Sendable (Tensor) -> Void,
    _ function: @escaping @Sendable (Double) -> Double
  ) -> Case {
    each(name, function) { x in
      let before = x.dataPointer
      action(x)
      #expect(x.dataPointer == before, "changed in place")
      return x
    }
  }

  @Test(arguments: changes)
  func inPlace(_ example: Case) {
    example.check()
  }

  @Test func `a fused step of AdamW is the algorithm's`() {
    let (p, g) = (1.0, 0.5)
    let options = Foreach.AdamWOptions(learningRate: 0.1, weightDecay: 0.2)
    let parameter = vector([p])
    let (average, square) = (vector([0.25]), vector([0.04]))
    Foreach.adamWInPlace(
      [parameter], gradients: [vector([g])], averages: [average], squareAverages: [square],
      steps: [Tensor(scalar: Float(3))], options: options)
    let m = 0.9 * 0.25 + 0.1 * g
    let v = 0.999 * 0.04 + 0.001 * g * g
    expectEqual(average, [m])
    expectEqual(square, [v])
    let step = (m / (1 - pow(0.9, 3))) / (sqrt(v / (1 - pow(0.999, 3))) + 1e-8)
    expectEqual(parameter, [p * (1 - 0.1 * 0.2) - 0.1 * step])
    #expect(Foreach.norms([vector([3, 4])]).map { $0.item() } == [5])
  }
}
