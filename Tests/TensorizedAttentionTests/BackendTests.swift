import AttentionCore
import Folding
import Testing
import Torch

import TensorizedAttention

/// Numbers around 0 from a seed of their own: libtorch's generator is shared by concurrent tests.
struct Numbers {
  private var state: UInt64

  init(seed: UInt64) { state = seed }

  /// Uniform in −1.7 ..< 1.7, which has variance 1; exact in f32.
  mutating func next() -> Double {
    state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
    return Double(Float(Int32(truncatingIfNeeded: state >> 32)) / Float(Int32.max) * 1.7)
  }

  mutating func tensor(_ shape: [Int], _ dtype: DType) -> Tensor {
    Tensor((0..<shape.reduce(1, *)).map { _ in next() }, shape: shape, dtype: dtype)
  }
}

/// One call of the operator on random tensors, with all gradients.
struct Trial: Sendable, CustomTestStringConvertible {
  var fold: [Int]
  var support: Support
  var normalization = Normalization.perMode
  var order = ChainOrder.lowToHigh
  var rotary = Rotary.none
  var heads = 4
  var keyHeads = 2
  var tokens: Int
  var width: Int
  var lengths: [Int]?
  var layout = Layout.headsFirst
  var extras = true
  /// Whether the extras hold mode biases besides β.
  var biases = true

  var testDescription: String {
    "\(Fold(fold)) \(support.rawValue) \(normalization.rawValue) \(order.rawValue) "
      + "\(rotary.positions.rawValue) N\(tokens) D\(width) H\(heads)/\(keyHeads) "
      + "\(layout.rawValue)\(lengths.map { " lengths \($0)" } ?? "")"
  }

  var pattern: AttentionPattern {
    AttentionPattern(
      fold: Fold(fold), support: support, normalization: normalization, order: order,
      rotary: rotary)
  }

  /// Output, log-sum-exp and the gradients of every input, in f64 arrays.
  ///
  /// - Parameter rounded: the type to which the inputs are rounded before they become `dtype`.
  func run(_ backend: Backend, dtype: DType, device: Device = .cpu, rounded: DType? = nil)
    -> [(name: String, values: [Double])]
  {
    let b = lengths?.count ?? 1
    let shape = { (h: Int) in
      layout == .headsFirst ? [b, h, tokens, width] : [b, tokens, h, width]
    }
    var numbers = Numbers(seed: 7)
    let make = { (shape: [Int]) -> Tensor in
      let values = numbers.tensor(shape, rounded ?? dtype).to(dtype: dtype, device: device)
      values.requiresGrad = true
      return values
    }
    let (q, k, v) = (make(shape(heads)), make(shape(keyHeads)), make(shape(keyHeads)))
    let beta = extras ? make([fold.count, heads]) : nil
    let biases = pattern.fold.modes.map { mode -> Tensor? in
      guard extras, self.biases else { return nil }
      return make(
        [mode.index % 2 == 0 ? heads : 1]
          + (support == .slidingCausal ? [mode.size] : [mode.size, mode.size]))
    }
    let (output, lse) = tensorizedAttention(
      queries: q, keys: k, values: v, pattern: pattern, beta: beta, modeBiases: biases,
      lengths: lengths, layout: layout, backend: backend)
    let finite = Tensor.select(lse.isFinite(), lse, lse.zerosLike())
    let weights = numbers.tensor(output.shape, rounded ?? dtype).to(dtype: dtype, device: device)
    let lseWeights = numbers.tensor(lse.shape, rounded ?? dtype).to(dtype: dtype, device: device)
    ((output * weights).sum() + (finite * lseWeights).sum()).backward()
    var results: [(String, [Double])] = [
      ("output", output.array(Double.self)), ("lse", finite.array(Double.self)),
      ("dq", gradient(q)), ("dk", gradient(k)), ("dv", gradient(v)),
    ]
    if let beta { results.append(("dbeta", gradient(beta))) }
    for (index, bias) in biases.enumerated() {
      if let bias { results.append(("dbias\(index + 1)", gradient(bias))) }
    }
    return results
  }

  private func gradient(_ tensor: Tensor) -> [Double] {
    (tensor.grad ?? tensor.zerosLike()).array(Double.self)
  }
}

/// Expects two runs to agree: |x − y| ≤ c·ε·‖y‖_∞·√n, n the number of terms that a value sums.
func expectAgreement(
  _ found: [(name: String, values: [Double])], _ expected: [(name: String, values: [Double])],
  epsilon: Double, terms: Double, sourceLocation: SourceLocation = #_sourceLocation
) {
  for (x, y) in zip(found, expected) {
    let size = max(y.values.map { abs($0) }.max() ?? 0, 1)
    let bound = 16 * epsilon * size * terms.squareRoot()
    var worst = (index: 0, error: 0.0)
    for i in y.values.indices {
      let error = abs(x.values[i] - y.values[i])
      if !(error <= worst.error) { worst = (i, error) }
    }
    #expect(
      worst.error <= bound && x.values.count == y.values.count,
      """
      \(y.name): worst element \(worst.index): expected \(y.values[worst.index]), found \
      \(x.values[worst.index]), error \(worst.error) exceeds \(bound)
      """, sourceLocation: sourceLocation)
  }
}

@Suite struct BackendTests {
  static let trials: [Trial] = {
    var trials: [Trial] = []
    for support in Support.allCases {
      for normalization in Normalization.allCases {
        for rotary in [Rotary.none, Rotary(.mode), Rotary(.sequence, base: 500)] {
          trials.append(
            Trial(
              fold: [5, 13], support: support, normalization: normalization, rotary: rotary,
              tokens: 63, width: 8))
          trials.append(
            Trial(
              fold: [3, 4, 7], support: support, normalization: normalization, rotary: rotary,
              heads: 3, keyHeads: 1, tokens: 65, width: 40, lengths: [65, 13, 0],
              layout: .tokensFirst))
        }
      }
      trials.append(
        Trial(fold: [2, 3, 2, 3], support: support, order: .highToLow, tokens: 31, width: 16))
      trials.append(Trial(fold: [4, 4], support: support, tokens: 1, width: 80))
      trials.append(
        Trial(fold: [9, 16], support: support, tokens: 131, width: 128, extras: false))
      trials.append(Trial(fold: [101], support: support, tokens: 101, width: 64))
    }
    trials.append(
      Trial(
        fold: [8, 125], support: .slidingCausal, normalization: .joint, rotary: Rotary(.mode),
        tokens: 1000, width: 64))
    trials.append(
      Trial(fold: [125, 8], support: .blockCausal, tokens: 1000, width: 64, extras: false))
    return trials
  }()

  @Test("cpu agrees with the f64 reference", arguments: trials)
  func cpu(trial: Trial) {
    expectAgreement(
      trial.run(.cpu, dtype: .float32), trial.run(.reference, dtype: .float64),
      epsilon: 6e-8, terms: Double(trial.width + trial.tokens * trial.heads))
  }

  @Test("composed agrees with the f64 reference", arguments: trials)
  func composed(trial: Trial) {
    expectAgreement(
      trial.run(.composed, dtype: .float64), trial.run(.reference, dtype: .float64),
      epsilon: 1.2e-16, terms: 100 * Double(trial.width + trial.tokens * trial.heads))
  }
}
