import AttentionCPU
import AttentionCore
import Folding
import Testing

/// Passes for some of the queries, as decoding runs them.
@Suite struct QueryRangeTests {
  @Test(
    "a pass for the last queries alone equals the whole pass",
    arguments: EdgeTests.trials.filter { $0.support.isCausal }, [1, 2, 17])
  func suffix(trial: ProblemTrial, count: Int) throws {
    let problem = trial.problem().single
    let reference = Reference(trial.problem()).forward()
    let first = trial.tokens - count
    var shape = problem.shape
    shape.queries = first..<trial.tokens
    let (heads, n, d) = (trial.heads, trial.tokens, trial.width)
    let last = { (rows: [Double], width: Int) -> [Double] in
      (0..<heads).flatMap { h -> ArraySlice<Double> in
        rows[(h * n + first) * width..<(h + 1) * n * width]
      }
    }
    let queries = last(trial.problem().queries, d).map(Float.init)
    var carried: [Float]?
    for (index, mode) in problem.pattern.chain.enumerated() {
      let (output, lse) = try pass(
        problem, shape, mode, queries: queries, values: reference.inputs[index].map(Float.init),
        valuesAreGrouped: index == 0, carried: carried)
      let next =
        index + 1 < reference.inputs.count ? reference.inputs[index + 1] : reference.output
      let expected = last(next, d)
      let expectedLSE = last(reference.logSumExps[index], 1)
      let bound = KernelTests.Rounding(trial, trial.problem())
      expectClose(
        "mode \(mode.index)", found: output, expected: expected, bound: bound.bound(expected))
      expectClose(
        "lse \(mode.index)", found: lse, expected: expectedLSE, bound: bound.bound(expectedLSE))
      carried = trial.normalization == .joint ? lse : nil
    }
  }

  private func pass(
    _ problem: AttentionProblem<Float>, _ shape: AttentionShape, _ mode: Mode, queries: [Float],
    values: [Float], valuesAreGrouped: Bool, carried: [Float]?
  ) throws -> (output: [Float], logSumExp: [Float]) {
    let (n, d, count) = (shape.tokens, shape.width, shape.queries.count)
    let (q, k, u) = (Floats(queries), Floats(problem.keys), Floats(values))
    let output = Floats([Float](repeating: .nan, count: queries.count))
    let lse = Floats([Float](repeating: .nan, count: shape.heads * count))
    let below = carried.map(Floats.init)
    let bias = problem.biases.isEmpty ? nil : problem.biases[mode.index - 1].map(Floats.init)
    let beta =
      mode.isLowest
      ? nil
      : problem.beta.map {
        Floats(Array($0[(mode.index - 1) * shape.heads..<mode.index * shape.heads]))
      }
    let biasCount = problem.pattern.biasCount(mode)
    try withExtendedLifetime((q, k, u, below, bias, beta)) {
      try CPUAttention().forwardPass(
        PassArguments(
          shape: shape, mode: mode, support: problem.pattern.support, scale: problem.scale,
          angles: RotaryAngles(problem.pattern.rotary, mode: mode, width: d),
          beta: beta?.reading, bias: bias?.reading,
          biasHeadStride: bias?.count == biasCount ? 0 : biasCount),
        ForwardRows(
          queries: q.rows(tokens: count, width: d), keys: k.rows(tokens: n, width: d),
          values: u.rows(tokens: n, width: d), valuesAreGrouped: valuesAreGrouped,
          carried: below?.reading,
          output: MutableRows(
            output.base, batchStride: 0, headStride: count * d, tokenStride: d),
          logSumExp: lse.base, logSumExpStride: count))
    }
    return (output.array, lse.array)
  }
}

/// Floats at an address that lasts.
private final class Floats {
  let base: UnsafeMutablePointer<Float>
  let count: Int

  init(_ values: [Float]) {
    base = .allocate(capacity: values.count)
    count = values.count
    for (i, value) in values.enumerated() { (base + i).initialize(to: value) }
  }

  deinit { base.deallocate() }

  var reading: UnsafePointer<Float> { UnsafePointer(base) }
  var array: [Float] { Array(UnsafeBufferPointer(start: base, count: count)) }

  func rows(tokens: Int, width: Int) -> Rows<Float> {
    Rows(reading, batchStride: 0, headStride: tokens * width, tokenStride: width)
  }
}
