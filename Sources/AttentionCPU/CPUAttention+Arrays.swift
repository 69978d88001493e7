import AttentionCore
import Folding

/// Floats that live as long as the object.
final class Memory {
  let base: UnsafeMutablePointer<Float>
  let count: Int

  init(_ values: [Float]) {
    base = .allocate(capacity: max(values.count, 1))
    count = values.count
    for (i, value) in values.enumerated() { (base + i).initialize(to: value) }
  }

  convenience init(repeating value: Float, count: Int) {
    self.init([Float](repeating: value, count: count))
  }

  var array: [Float] { Array(UnsafeBufferPointer(start: base, count: count)) }

  func rows(_ shape: AttentionShape, heads: Int, _ layout: Layout) -> MutableRows<Float> {
    let (n, d) = (shape.tokens, shape.width)
    return layout == .headsFirst
      ? MutableRows(base, batchStride: heads * n * d, headStride: n * d, tokenStride: d)
      : MutableRows(base, batchStride: heads * n * d, headStride: d, tokenStride: heads * d)
  }

  deinit { base.deallocate() }
}

/// A problem's arrays in memory.
private struct ProblemMemory {
  let queries: Memory
  let keys: Memory
  let values: Memory
  let beta: Memory?
  let biases: [(memory: Memory, isPerHead: Bool)?]

  init(_ problem: AttentionProblem<Float>) {
    queries = Memory(problem.queries)
    keys = Memory(problem.keys)
    values = Memory(problem.values)
    beta = problem.beta.map(Memory.init)
    biases = zip(problem.biases, problem.pattern.fold.modes).map { bias, mode in
      bias.map { (Memory($0), $0.count > problem.pattern.biasCount(mode)) }
    }
  }

  func inputs(_ shape: AttentionShape, _ layout: Layout) -> AttentionInputs {
    AttentionInputs(
      queries: queries.rows(shape, heads: shape.heads, layout).reading,
      keys: keys.rows(shape, heads: shape.keyHeads, layout).reading,
      values: values.rows(shape, heads: shape.keyHeads, layout).reading,
      beta: beta.map { UnsafePointer($0.base) }, betaStride: shape.heads,
      biases: biases.map { bias in
        bias.map { BiasPointer($0.memory.base, isPerHead: $0.isPerHead) }
      })
  }
}

extension CPUAttention {
  /// The operator on arrays: ``AttentionProblem`` in, ``AttentionResult`` out, as the reference does
  /// it. The tensor layer passes memory instead.
  ///
  /// - Parameters:
  ///   - problem: the whole sequences to attend.
  ///   - layout: how the arrays lie; the reference knows only heads first.
  public func forward(
    _ problem: AttentionProblem<Float>, layout: Layout = .headsFirst
  ) -> AttentionResult<Float> {
    let shape = problem.shape
    let memory = ProblemMemory(problem)
    let output = Memory(repeating: .nan, count: problem.queries.count)
    let lse = Memory(repeating: .nan, count: shape.batch * shape.heads * shape.tokens)
    withExtendedLifetime(memory) {
      forward(
        problem.pattern, shape, scale: problem.scale, inputs: memory.inputs(shape, layout),
        output: output.rows(shape, heads: shape.heads, layout), logSumExp: lse.base)
    }
    return AttentionResult(
      output: output.array, logSumExp: lse.array, inputs: [], logSumExps: [])
  }

  /// Output and all gradients on arrays.
  public func gradients(
    _ problem: AttentionProblem<Float>, outputGradient: [Float],
    logSumExpGradient: [Float]? = nil, layout: Layout = .headsFirst
  ) -> (result: AttentionResult<Float>, gradients: AttentionGradients<Float>) {
    let shape = problem.shape
    let memory = ProblemMemory(problem)
    let output = Memory(repeating: .nan, count: problem.queries.count)
    let (upstream, dlse) = (Memory(outputGradient), logSumExpGradient.map(Memory.init))
    let dq = Memory(repeating: 0, count: problem.queries.count)
    let dk = Memory(repeating: 0, count: problem.keys.count)
    let dv = Memory(repeating: .nan, count: problem.values.count)
    let dbeta = Memory(repeating: 0, count: problem.pattern.fold.order * shape.heads)
    let dbiases = problem.biases.map { $0.map { Memory(repeating: .nan, count: $0.count) } }
    let order = problem.pattern.fold.order
    let rowCount = shape.batch * shape.heads * shape.tokens
    let values = (1..<order).map { _ in Memory(repeating: .nan, count: rowCount * shape.width) }
    let lses = (0..<order).map { _ in Memory(repeating: .nan, count: rowCount) }
    let saved = SavedPasses(values: values.map(\.base), logSumExps: lses.map(\.base))
    let outputRows = output.rows(shape, heads: shape.heads, layout)
    return withExtendedLifetime((memory, dlse, upstream, values, lses)) {
      let inputs = memory.inputs(shape, layout)
      forward(
        problem.pattern, shape, scale: problem.scale, inputs: inputs, output: outputRows,
        saving: saved)
      backward(
        problem.pattern, shape, scale: problem.scale, inputs: inputs, saved: saved,
        output: outputRows.reading,
        gradients: GradientRows(
          output: upstream.rows(shape, heads: shape.heads, layout).reading,
          logSumExp: dlse.map { UnsafePointer($0.base) },
          queries: dq.rows(shape, heads: shape.heads, layout),
          keys: dk.rows(shape, heads: shape.keyHeads, layout),
          values: dv.rows(shape, heads: shape.keyHeads, layout),
          beta: problem.beta == nil ? nil : dbeta.base, biases: dbiases.map { $0?.base }))
      return (
        AttentionResult(
          output: output.array, logSumExp: lses[order - 1].array, inputs: [], logSumExps: []),
        AttentionGradients(
          queries: dq.array, keys: dk.array, values: dv.array, beta: dbeta.array,
          biases: dbiases.map { $0?.array })
      )
    }
  }
}
