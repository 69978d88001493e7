import AttentionCPU
import AttentionCore
import Folding
import Foundation
import TensorizedAttention
import Torch

/// Measures the operator on the CPU beside what libtorch offers for the same work.
public struct OperatorBenchmark {
  /// The seconds that one contestant of one row may take.
  public var budget: Double
  /// Called with a line of progress.
  public var progress: (String) -> Void

  /// Prepares a benchmark.
  public init(budget: Double = 4, progress: @escaping (String) -> Void = { _ in }) {
    self.budget = budget
    self.progress = progress
  }

  /// Measures rows one after the other; stops at `isInterrupted`.
  public func run(
    _ cases: [BenchmarkCase], isInterrupted: () -> Bool = { false }
  ) throws -> [BenchmarkRow] {
    let vectors = try Processor.supported.get()
    var rows: [BenchmarkRow] = []
    for (index, problem) in cases.enumerated() where !isInterrupted() {
      progress("[\(index + 1)/\(cases.count)] \(problem.name): correctness")
      rows.append(measure(problem, vectors: vectors))
    }
    return rows
  }

  private func measure(_ problem: BenchmarkCase, vectors: Processor.Vectors) -> BenchmarkRow {
    let correctness = CorrectnessGate(problem)
    let peak = Self.peak(vectors)
    var row = BenchmarkRow(
      device: "cpu", n: problem.tokens, heads: problem.heads, headDim: problem.width,
      fold: "\(problem.pattern.fold)", support: problem.pattern.support.rawValue,
      normalization: problem.pattern.normalization.rawValue, correct: correctness.passes,
      maxError: correctness.worst, fmaPeakGflops: peak / 1e9)
    guard row.correct else { return row }
    progress("    \(problem.name): timing")
    let inputs = BenchmarkInputs(problem)
    let contest = Contest(problem, inputs)
    let times = withNoGrad { Turns.medians(contest.forward, budget: budget) }
    inputs.setRequiresGrad(true)
    let both = Turns.medians(contest.forwardBackward(inputs), budget: budget)
    inputs.setRequiresGrad(false)
    (row.forwardMs, row.forwardBackwardMs) = (times["cpu"], both["cpu"])
    (row.composedForwardMs, row.composedForwardBackwardMs) = (times["composed"], both["composed"])
    (row.composedFusedForwardMs, row.composedFusedForwardBackwardMs) =
      (times["fused"], both["fused"])
    (row.windowForwardMs, row.fullForwardMs) = (times["window"], times["full"])
    row.forwardGflops = row.forwardMs.map { problem.flops / $0 / 1e6 }
    row.fmaPeakShare = row.forwardGflops.map { $0 / row.fmaPeakGflops }
    (row.extraBytes, row.extraBytesBackward) = memory(problem, inputs)
    return row
  }

  /// The multiply-add rate of all threads at once.
  private static func peak(_ vectors: Processor.Vectors) -> Double {
    let threads = Runtime.threadCount
    let rates = UnsafeMutableBufferPointer<Double>.allocate(capacity: threads)
    defer { rates.deallocate() }
    rates.initialize(repeating: 0)
    ParallelExecutor.torch.run(threads) { rates[$0] = Processor.peak(vectors, seconds: 0.1) }
    return rates.reduce(0, +)
  }

  /// Growth of the resident size beyond outputs and gradients.
  private func memory(
    _ problem: BenchmarkCase, _ inputs: BenchmarkInputs
  ) -> (forward: Int?, backward: Int?) {
    let contest = Contest(problem, inputs)
    let output = inputs.queries.byteCount
    let lse = output / problem.width
    let forward = withNoGrad { PeakMemory.growth { contest.attend() }.bytes }
    inputs.setRequiresGrad(true)
    defer { inputs.setRequiresGrad(false) }
    let backward = PeakMemory.growth { contest.attend().backward(gradient: inputs.upstream) }.bytes
    return (
      forward.map { max(0, $0 - output - lse) }, backward.map { max(0, $0 - 4 * output - lse) }
    )
  }
}

/// Who runs in a row.
private struct Contest {
  let problem: BenchmarkCase
  let inputs: BenchmarkInputs

  init(_ problem: BenchmarkCase, _ inputs: BenchmarkInputs) {
    self.problem = problem
    self.inputs = inputs
  }

  func attend() -> Tensor {
    tensorizedAttention(
      queries: inputs.queries, keys: inputs.keys, values: inputs.values, pattern: problem.pattern,
      beta: inputs.beta, backend: .cpu
    ).output
  }

  private func composed() -> Tensor {
    composedAttention(
      queries: inputs.queries, keys: inputs.keys, values: inputs.values, pattern: problem.pattern,
      beta: inputs.beta)
  }

  private func fused() -> Tensor? {
    fusedComposedAttention(
      queries: inputs.queries, keys: inputs.keys, values: inputs.values, pattern: problem.pattern)
  }

  private func window() -> Tensor {
    composedAttention(
      queries: inputs.queries, keys: inputs.keys, values: inputs.values,
      pattern: AttentionPattern(
        fold: Fold([128]), support: .slidingCausal, normalization: .perMode))
  }

  private func full() -> Tensor {
    scaledDotProductAttention(
      queries: inputs.queries, keys: inputs.keys, values: inputs.values, isCausal: true)
  }

  /// Whether libtorch's score tensors fit: four of them are alive at once.
  private func fits(keysAToken: Int) -> Bool {
    4 * 4 * keysAToken * problem.tokens * problem.heads < 8 << 30
  }

  private var composedFits: Bool {
    let widest = problem.pattern.fold.sizes.max() ?? 1
    return fits(
      keysAToken: problem.pattern.support == .slidingCausal ? 2 * widest : widest)
  }

  private var hasFused: Bool {
    problem.pattern.support == .blockCausal && problem.pattern.normalization == .perMode
      && problem.tokens == problem.pattern.fold.capacity
  }

  /// Full attention takes minutes beyond this.
  private var fullIsShort: Bool { problem.tokens <= 32768 }

  var forward: [(name: String, run: () -> Void)] {
    var all: [(String, () -> Void)] = [("cpu", { _ = attend() })]
    if composedFits { all.append(("composed", { _ = composed() })) }
    if hasFused { all.append(("fused", { _ = fused() })) }
    if fits(keysAToken: 256) { all.append(("window", { _ = window() })) }
    if fullIsShort { all.append(("full", { _ = full() })) }
    return all
  }

  func forwardBackward(_ inputs: BenchmarkInputs) -> [(name: String, run: () -> Void)] {
    func both(_ output: Tensor?) {
      output?.backward(gradient: inputs.upstream)
      inputs.setRequiresGrad(true)
    }
    var all: [(String, () -> Void)] = [("cpu", { both(attend()) })]
    if composedFits { all.append(("composed", { both(composed()) })) }
    if hasFused { all.append(("fused", { both(fused()) })) }
    return all
  }
}
