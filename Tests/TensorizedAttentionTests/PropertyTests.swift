import Folding
import TensorizedAttention
import Testing
import Torch

/// A pattern to examine, on a backend.
struct PropertyTrial: Sendable, CustomTestStringConvertible {
  let pattern: AttentionPattern
  let tokens: Int
  let backend: Backend
  let dtype: DType

  var testDescription: String {
    "\(pattern.fold) \(pattern.support.rawValue) \(pattern.normalization.rawValue) "
      + "\(pattern.order.rawValue) \(pattern.rotary.positions.rawValue) N\(tokens) "
      + "\(backend.rawValue) \(dtype)"
  }

  func properties() throws -> PatternProperties {
    try PatternProperties(of: pattern, tokens: tokens, backend: backend, dtype: dtype)
  }

  static let all: [PropertyTrial] = Support.allCases.flatMap { support in
    [
      AttentionPattern(
        fold: Fold([4, 4, 4]), support: support, normalization: .joint, rotary: Rotary(.mode)),
      AttentionPattern(fold: Fold([3, 5, 4]), support: support, normalization: .perMode),
      AttentionPattern(
        fold: Fold([9, 7]), support: support, normalization: .perMode, order: .highToLow,
        rotary: Rotary(.sequence)),
    ].flatMap { pattern in
      [(Backend.cpu, DType.float32), (.composed, .float64), (.reference, .float64)].map {
        PropertyTrial(
          pattern: pattern, tokens: pattern.fold.capacity - 5, backend: $0.0, dtype: $0.1)
      }
    }
  }
}

@Suite struct PropertyTests {
  @Test("every property holds", arguments: PropertyTrial.all)
  func report(trial: PropertyTrial) throws {
    let report = try trial.properties().report()
    for check in report.checks { #expect(check.passed != false, "\(check.name): \(check.detail)") }
    #expect(report.passed)
    #expect(report.checks.contains { $0.passed == nil } == (trial.pattern.support == .block))
  }

  @Test("reach as run equals reach by theory: 1000 and 2080 of 2080 for 4x4x4")
  func reach() throws {
    for (support, pairs) in [(Support.blockCausal, 1000), (.slidingCausal, 2080)] {
      let pattern = AttentionPattern(fold: Fold([4, 4, 4]), support: support)
      let properties = try PatternProperties(of: pattern, tokens: 64)
      #expect(properties.measuredReach() == Reach(reached: pairs, possible: 2080))
    }
  }

  @Test("a leak is only asked of causal supports, at the tokens named")
  func leak() throws {
    let block = try PatternProperties(
      of: AttentionPattern(fold: Fold([4, 4]), support: .block), tokens: 16)
    #expect(block.leak() == nil)
    // What the probe sees where there is something to see: token 9 reaches back to token 0.
    let found = block.feel([0, 9])
    #expect(found.leaks == [.init(changed: 9, seenAt: 0)] && !found.passed)
    let sliding = try PatternProperties(of: AttentionPattern(fold: Fold([4, 4])), tokens: 16)
    #expect(sliding.leak(probes: [3, 15, 16, -1])?.probes == [3, 15])
  }

  @Test("reports show what they would call a failure")
  func failures() {
    let leak = LeakReport(probes: [3], leaks: [.init(changed: 3, seenAt: 1)], ignored: [])
    #expect(!leak.passed)
    #expect(!LeakReport(probes: [3], leaks: [], ignored: [3]).passed)
    #expect(
      !Deviation(error: .nan, bound: 1, position: [0], expected: 0, found: .nan).passed)
    #expect(!Deviation(error: 2, bound: 1, position: [0], expected: 0, found: 2).passed)
  }

  @Test("the implied matrix times the values is the output")
  func impliedMatrix() {
    var numbers = Numbers(seed: 9)
    let (q, k, v) = (
      numbers.tensor([50, 8], .float64), numbers.tensor([50, 8], .float64),
      numbers.tensor([50, 8], .float64)
    )
    let pattern = AttentionPattern(fold: Fold([2, 5, 6]), rotary: Rotary(.mode))
    let beta = numbers.tensor([3], .float64)
    let biases = pattern.fold.modes.map { mode -> Tensor? in
      numbers.tensor([1, mode.size], .float64)
    }
    let matrix = impliedAttentionMatrix(
      queries: q, keys: k, pattern: pattern, beta: beta, modeBiases: biases)
    let output = tensorizedAttention(
      queries: q.view([1, 1, 50, 8]), keys: k.view([1, 1, 50, 8]), values: v.view([1, 1, 50, 8]),
      pattern: pattern, beta: beta.unsqueeze(1), modeBiases: biases
    ).output
    #expect((matrix.matmul(v) - output[0][0]).abs().max().item() < 1e-13)
    let row = impliedAttentionRow(
      token: 49, queries: q, keys: k, pattern: pattern, beta: beta, modeBiases: biases)
    let difference = zip(row, matrix[49].array(Double.self)).map { abs($0 - $1) }.max()
    #expect(difference ?? 1 < 1e-14)
  }

  @Test("a backend that cannot serve is refused")
  func backends() {
    #expect(throws: BackendError.self) {
      try PatternProperties(
        of: AttentionPattern(fold: Fold([4])), tokens: 4, backend: .cpu, dtype: .float64)
    }
  }
}
