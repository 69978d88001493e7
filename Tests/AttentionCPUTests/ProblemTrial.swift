import AttentionCPU
import AttentionCore
import Folding
import Testing

/// Numbers around 0 from a seed.
struct Numbers {
  private var state: UInt64

  init(seed: UInt64) { state = seed }

  /// Uniform in −1.7 ..< 1.7, which has variance 1; exact in f32.
  mutating func next() -> Double {
    state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
    return Double(Float(Int32(truncatingIfNeeded: state >> 32)) / Float(Int32.max) * 1.7)
  }

  mutating func array(_ count: Int) -> [Double] { (0..<count).map { _ in next() } }
}

/// A problem with random inputs, named by what makes it special.
struct ProblemTrial: Sendable, CustomTestStringConvertible {
  var fold: [Int]
  var support: Support
  var normalization = Normalization.perMode
  var order = ChainOrder.lowToHigh
  var rotary = Rotary.none
  var heads = 2
  var keyHeads = 1
  var tokens: Int
  var width: Int
  var lengths: [Int]?
  /// Whether there are β and mode biases.
  var extras = true

  var testDescription: String {
    "\(Fold(fold)) \(support.rawValue) \(normalization.rawValue) \(order.rawValue) "
      + "\(rotary.positions.rawValue)\(rotary.scaling.isEmpty ? "" : " scaled") N\(tokens) "
      + "D\(width) H\(heads)/\(keyHeads)\(lengths.map { " lengths \($0)" } ?? "")"
  }

  var pattern: AttentionPattern {
    AttentionPattern(
      fold: Fold(fold), support: support, normalization: normalization, order: order,
      rotary: rotary)
  }

  var shape: AttentionShape {
    AttentionShape(
      batch: lengths?.count ?? 1, heads: heads, keyHeads: keyHeads, tokens: tokens, width: width,
      lengths: lengths)
  }

  func problem() -> AttentionProblem<Double> {
    var numbers = Numbers(seed: 11)
    let (b, n, d) = (shape.batch, tokens, width)
    let biases = pattern.fold.modes.map { mode -> [Double]? in
      guard extras else { return nil }
      return numbers.array((mode.index % 2 == 0 ? heads : 1) * pattern.biasCount(mode))
    }
    return AttentionProblem(
      shape: shape, pattern: pattern, queries: numbers.array(b * heads * n * d),
      keys: numbers.array(b * keyHeads * n * d), values: numbers.array(b * keyHeads * n * d),
      beta: extras ? numbers.array(fold.count * heads) : nil, biases: biases)
  }
}

extension AttentionProblem<Double> {
  /// The same problem in f32, which holds its inputs exactly.
  var single: AttentionProblem<Float> {
    AttentionProblem<Float>(
      shape: shape, pattern: pattern, scale: Float(scale), queries: queries.map(Float.init),
      keys: keys.map(Float.init), values: values.map(Float.init), beta: beta?.map(Float.init),
      biases: biases.map { $0?.map(Float.init) })
  }

  /// The largest |scale·⟨q_t, k_t'⟩| that these inputs can have: scale·max ‖q‖·max ‖k‖.
  var largestLogit: Double {
    let longest = { (rows: [Double]) in
      stride(from: 0, to: rows.count, by: shape.width).map { start in
        rows[start..<start + shape.width].reduce(0) { $0 + $1 * $1 }.squareRoot()
      }.max() ?? 0
    }
    return abs(scale) * longest(queries) * longest(keys)
  }

  /// Output, log-sum-exp and all gradients in f64, and the gradients' upstreams.
  func solved() -> Solution {
    var numbers = Numbers(seed: 5)
    let upstream = numbers.array(queries.count)
    let lseUpstream = numbers.array(shape.batch * shape.heads * shape.tokens)
    let reference = Reference(self)
    let result = reference.forward()
    let gradients = reference.backward(
      result, outputGradient: upstream, logSumExpGradient: lseUpstream)
    return Solution(
      upstream: upstream, lseUpstream: lseUpstream, result: result, gradients: gradients)
  }
}

/// What the reference finds.
struct Solution {
  let upstream: [Double]
  let lseUpstream: [Double]
  let result: AttentionResult<Double>
  let gradients: AttentionGradients<Double>
}

/// Expects |found − expected| ≤ bound everywhere, and names the worst element if not. Infinities must
/// be the same ones.
func expectClose(
  _ name: String, found: [Float], expected: [Double], bound: Double,
  sourceLocation: SourceLocation = #_sourceLocation
) {
  var worst = (index: 0, error: 0.0)
  for (i, (x, y)) in zip(found, expected).enumerated() where Double(x) != y {
    let error = abs(Double(x) - y)
    if !(error <= worst.error) { worst = (i, error) }
  }
  let isClose = found.count == expected.count && worst.error <= bound
  #expect(
    isClose,
    """
    \(name), \(found.count) of \(expected.count) elements, worst \(worst.index): expected \
    \(expected.isEmpty ? .nan : expected[worst.index]), found \
    \(found.isEmpty ? .nan : found[worst.index]), error \(worst.error) exceeds \(bound)
    """, sourceLocation: sourceLocation)
}

/// Rows `[B, H, N, D]` as `[B, N, H, D]`; with `heads` and `tokens` exchanged, back.
func transposed<T>(_ rows: [T], batch: Int, heads: Int, tokens: Int, width: Int) -> [T] {
  var result = rows
  for b in 0..<batch {
    for h in 0..<heads {
      for t in 0..<tokens {
        let source = ((b * heads + h) * tokens + t) * width
        let target = ((b * tokens + t) * heads + h) * width
        result.replaceSubrange(target..<target + width, with: rows[source..<source + width])
      }
    }
  }
  return result
}

/// The vector instructions that this machine has.
let vectorWidths: [Processor.Vectors] = Processor.Vectors.allCases.filter {
  (try? CPUAttention(vectors: $0)) != nil
}
