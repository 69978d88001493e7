import AttentionCPU
import AttentionCore
import Folding
import Foundation
import TensorizedAttention
import Torch

/// Measures multi-mask attention on the CPU: half the heads look back and half ahead, strictly.
///
/// Beside it run plain attention through the same kernels (one softmax a row, the same pairs), the
/// same operator through libtorch, and the tensor of N·N·D scores formed outright.
public struct MultiMaskBenchmark {
  /// One line: a length, whether the result is right, and what it costs. Encoded with snake-case
  /// keys; times are medians in milliseconds, nil where not run.
  public struct Row: Codable, Sendable {
    /// N.
    public var n: Int
    /// H.
    public var heads: Int
    /// D.
    public var headDim: Int
    /// The largest error against f64, relative to the largest value of its tensor.
    public var maxError: Double
    /// Whether it is within its bound.
    public var correct: Bool
    /// The kernels.
    public var forwardMs: Double?
    /// The kernels, forward and backward.
    public var forwardBackwardMs: Double?
    /// Plain attention through the same kernels.
    public var plainForwardMs: Double?
    /// Plain attention, forward and backward.
    public var plainForwardBackwardMs: Double?
    /// The same operator through libtorch.
    public var composedForwardMs: Double?
    /// The same operator through libtorch, forward and backward.
    public var composedForwardBackwardMs: Double?
    /// The tensor of scores formed outright, forward and backward.
    public var naiveForwardBackwardMs: Double?
    /// The growth of the resident size forward and backward, less output and gradients.
    public var extraBytes: Int?
    /// The same of libtorch's form.
    public var composedExtraBytes: Int?
    /// The same of the tensor of scores.
    public var naiveExtraBytes: Int?
  }

  /// The lengths of the standard rows.
  public static let standardTokens = [512, 1024, 4096, 16384]

  /// H.
  public var heads: Int
  /// D.
  public var width: Int
  /// The seconds that one contestant of one row may take.
  public var budget: Double
  /// Called with a line of progress.
  public var progress: (String) -> Void

  /// Prepares a benchmark.
  ///
  /// - Precondition: the number of heads is even.
  public init(
    heads: Int = 8, width: Int = 64, budget: Double = 4,
    progress: @escaping (String) -> Void = { _ in }
  ) {
    self.heads = heads
    self.width = width
    self.budget = budget
    self.progress = progress
  }

  /// Measures lengths one after the other; stops at `isInterrupted`.
  public func run(_ lengths: [Int], isInterrupted: () -> Bool = { false }) throws -> [Row] {
    _ = try Processor.supported.get()
    var rows: [Row] = []
    for (index, tokens) in lengths.enumerated() where !isInterrupted() {
      progress("[\(index + 1)/\(lengths.count)] \(tokens) tokens")
      rows.append(measure(tokens))
    }
    return rows
  }

  private func measure(_ tokens: Int) -> Row {
    let contest = MultiMaskContest(heads: heads, tokens: tokens, width: width)
    let error = max(gradientError(min(tokens, 450)), contest.sampledError(rows: 32))
    // A value is a sum of some N terms, each with an error of a few ε.
    let bound = 64 * 6e-8 * Double(tokens + width).squareRoot()
    var row = Row(
      n: tokens, heads: heads, headDim: width, maxError: error, correct: error <= bound)
    guard row.correct else { return row }
    let forward = withNoGrad { Turns.medians(contest.forward, budget: budget) }
    contest.setRequiresGrad(true)
    let both = Turns.medians(contest.forwardBackward, budget: budget)
    (row.forwardMs, row.forwardBackwardMs) = (forward["cpu"], both["cpu"])
    (row.plainForwardMs, row.plainForwardBackwardMs) = (forward["plain"], both["plain"])
    (row.composedForwardMs, row.composedForwardBackwardMs) = (forward["composed"], both["composed"])
    row.naiveForwardBackwardMs = both["naive"]
    let memory = contest.forwardBackward.map { ($0.name, contest.extraBytes($0.run)) }
    for (name, bytes) in memory {
      switch name {
      case "cpu": row.extraBytes = bytes
      case "composed": row.composedExtraBytes = bytes
      case "naive": row.naiveExtraBytes = bytes
      default: break
      }
    }
    return row
  }

  /// Output and all gradients of a sequence of more than one block of keys, two heads.
  private func gradientError(_ tokens: Int) -> Double {
    let contest = MultiMaskContest(heads: 2, tokens: tokens, width: width)
    let found = contest.solve(.cpu, .float32)
    let expected = contest.solve(.reference, .float64)
    return zip(found, expected).map { x, y in
      let error = (x.to(.float64) - y).abs().max().item(Double.self)
      return error.isNaN ? .infinity : error / max(y.abs().max().item(Double.self), 1e-30)
    }.max() ?? .infinity
  }
}

/// Random inputs and who runs on them.
private struct MultiMaskContest {
  let shape: [Int]
  /// q, k, v, s.
  let inputs: [Tensor]
  let upstream: Tensor
  let masks: [PositionalMask]

  init(heads: Int, tokens: Int, width: Int) {
    shape = [1, heads, tokens, width]
    let generator = Generator(seed: 20)
    let shape = shape
    inputs = (0..<4).map { _ in Tensor.randn(shape, generator: generator) }
    upstream = .randn(shape, generator: generator)
    masks = PositionalMask.directional(heads: heads)
  }

  private var heads: Int { shape[1] }
  private var tokens: Int { shape[2] }
  private var width: Int { shape[3] }

  func setRequiresGrad(_ wanted: Bool) {
    for input in inputs {
      input.requiresGrad = wanted
      input.grad = nil
    }
  }

  private func attend(_ backend: Backend, _ inputs: [Tensor]) -> Tensor {
    multiMaskAttention(
      queries: inputs[0], keys: inputs[1], values: inputs[2], sourceLogits: inputs[3],
      masks: masks, backend: backend)
  }

  /// One direction has the pairs of the other.
  private func plain() -> Tensor {
    tensorizedAttention(
      queries: inputs[0], keys: inputs[1], values: inputs[2],
      pattern: AttentionPattern(
        fold: Fold([tokens]), support: .blockCausal, normalization: .perMode), backend: .cpu
    ).output
  }

  /// The tensor of scores `[1, H, N, N, D]`, a softmax over its keys, and the sum with the values.
  private func naive() -> Tensor {
    let t = inputs[0].matmul(inputs[1].transpose()) * (1 / Double(width).squareRoot())
    let places = Tensor.arange(0, tokens, dtype: .int64)
    let difference = places.view([tokens, 1]) - places.view([1, tokens])
    let half = heads / 2
    let hidden = Tensor.cat([
      (difference .<= 0).unsqueeze(0).expand([half, tokens, tokens]),
      (difference .>= 0).unsqueeze(0).expand([heads - half, tokens, tokens]),
    ])
    // A row without keys gets a constant in place of its softmax's NaN.
    let logits = t.filled(where: hidden, with: -1e30)
    let scores = logits.unsqueeze(-1) + inputs[3].unsqueeze(2)
    return (scores.softmax(axis: 3) * inputs[2].unsqueeze(2)).sum(axis: 3)
  }

  /// Whether libtorch's [H, N, N] fit: seven are alive at once.
  private var composedFits: Bool { 7 * 4 * heads * tokens * tokens < 8 << 30 }

  /// Whether the tensors of N·N·D fit: four are alive at once.
  private var naiveFits: Bool { 4 * 4 * heads * tokens * tokens * width < 3 << 30 }

  var forward: [(name: String, run: () -> Void)] {
    var all: [(String, () -> Void)] = [
      ("cpu", { _ = attend(.cpu, inputs) }), ("plain", { _ = plain() }),
    ]
    if composedFits { all.append(("composed", { _ = attend(.composed, inputs) })) }
    return all
  }

  var forwardBackward: [(name: String, run: () -> Void)] {
    func both(_ output: Tensor) {
      output.backward(gradient: upstream)
      setRequiresGrad(true)
    }
    var all: [(String, () -> Void)] = [
      ("cpu", { both(attend(.cpu, inputs)) }), ("plain", { both(plain()) }),
    ]
    if composedFits { all.append(("composed", { both(attend(.composed, inputs)) })) }
    if naiveFits { all.append(("naive", { both(naive()) })) }
    return all
  }

  /// Growth of the resident size, less the output and four gradients.
  func extraBytes(_ run: () -> Void) -> Int? {
    PeakMemory.growth(of: run).bytes.map { max(0, $0 - 5 * upstream.byteCount) }
  }

  func solve(_ backend: Backend, _ dtype: DType) -> [Tensor] {
    let leaves = inputs.map { input -> Tensor in
      let copy = input.to(dtype).cloned().detached()
      copy.requiresGrad = true
      return copy
    }
    let output = attend(backend, leaves)
    output.backward(gradient: upstream.to(dtype))
    return [output.detached()] + leaves.compactMap(\.grad)
  }

  /// The largest error of some rows of the output against f64, relative to the largest value.
  func sampledError(rows: Int) -> Double {
    let output = withNoGrad { attend(.cpu, inputs) }
    let found = output.array(Float.self)
    let values = inputs.map { $0.array(Float.self) }
    let largest = values[2].reduce(Float(0)) { max($0, abs($1)) }
    let errors = (0..<rows).map { i -> Double in
      // Spread by a step coprime to the length, ending at the very last token.
      row(head: i % heads, token: tokens - 1 - (i * 7919) % tokens, values, found)
    }
    return (errors.max() ?? .infinity) / Double(max(largest, 1e-30))
  }

  private func row(head: Int, token: Int, _ values: [[Float]], _ found: [Float]) -> Double {
    let first = head * tokens * width
    let scale = 1 / Double(width).squareRoot()
    let query = first + token * width
    let keys = masks[head].keys(of: token, count: tokens)
    let logits = keys.map { key -> Double in
      (0..<width).reduce(0.0) {
        $0 + Double(values[0][query + $1]) * Double(values[1][first + key * width + $1])
      } * scale
    }
    var worst = 0.0
    for l in 0..<width {
      let scores = zip(keys, logits).map { $1 + Double(values[3][first + $0 * width + l]) }
      let top = scores.max() ?? 0
      var (numerator, denominator) = (0.0, 0.0)
      for (key, score) in zip(keys, scores) {
        let weight = exp(score - top)
        denominator += weight
        numerator += weight * Double(values[2][first + key * width + l])
      }
      let expected = denominator > 0 ? numerator / denominator : 0
      let error = abs(Double(found[query + l]) - expected)
      worst = error.isNaN ? .infinity : max(worst, error)
    }
    return worst
  }
}
