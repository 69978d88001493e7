import AttentionCPU
import AttentionCore
import Testing

@Suite struct MultiMaskTests {
  private func solve(
    _ problem: MultiMaskProblem<Float>, _ upstream: [Float], vectors: Processor.Vectors,
    executor: ParallelExecutor = .dispatch, layout: Layout = .headsFirst
  ) throws -> [(name: String, values: [Float])] {
    let kernels = try CPUAttention(executor: executor, vectors: vectors)
    let (output, gradients) = kernels.multiMaskGradients(
      problem, outputGradient: upstream, layout: layout)
    return named(output, gradients)
  }

  @Test(
    "kernels agree with the f64 reference in both layouts", arguments: MultiMaskTrial.standard)
  func agreement(trial: MultiMaskTrial) throws {
    let (problem, upstream) = trial.problem()
    let expected = problem.solved(upstream)
    // A logit is rounded by ε/2 of itself; sums of N·H terms by some √(N·H)·ε.
    let logits =
      1 + 3 * trial.tokenFactor * Double(trial.width).squareRoot() + 2 * trial.sourceFactor
    let terms = Double(trial.width + trial.tokens * trial.masks.count).squareRoot()
    let rounding = 0x1p-24 * 8 * (trial.sourceFactor > 1 ? logits : 2) * terms
    let single = problem.single
    for vectors in vectorWidths {
      for layout in Layout.allCases {
        let (b, h, n, d) = (
          trial.shape.batch, trial.shape.heads, trial.tokens, trial.width
        )
        let laid = { (x: [Float]) -> [Float] in
          layout == .headsFirst
            ? x : transposed(x, batch: b, heads: h, tokens: n, width: d)
        }
        var input = single
        input.queries = laid(single.queries)
        input.keys = laid(single.keys)
        input.values = laid(single.values)
        input.sourceLogits = laid(single.sourceLogits)
        let found = try solve(
          input, laid(upstream.map(Float.init)), vectors: vectors, layout: layout)
        for (x, y) in zip(found, expected) {
          let values =
            layout == .headsFirst
            ? x.values : transposed(x.values, batch: b, heads: n, tokens: h, width: d)
          let size = y.values.reduce(1) { max($0, abs($1)) }
          expectClose(
            "\(x.name) \(vectors.rawValue) \(layout.rawValue)", found: values,
            expected: y.values, bound: rounding * size)
        }
      }
    }
  }

  @Test("the same bits on any executor", arguments: MultiMaskTrial.standard)
  func determinism(trial: MultiMaskTrial) throws {
    let (problem, upstream) = trial.problem()
    let (single, gradient) = (problem.single, upstream.map(Float.init))
    for vectors in vectorWidths {
      let expected = try solve(single, gradient, vectors: vectors, executor: .serial)
      for executor in [ParallelExecutor.dispatch, EdgeTests.fiveThreads, .dispatch] {
        let found = try solve(single, gradient, vectors: vectors, executor: executor)
        for (x, y) in zip(found, expected) { #expect(x.values == y.values, "\(x.name)") }
      }
    }
  }

  @Test("NaN in padding stays there", arguments: MultiMaskTrial.standard)
  func padding(trial: MultiMaskTrial) throws {
    var trial = trial
    trial.lengths = [max(trial.tokens - 5, 0), 1]
    let (problem, upstream) = trial.problem()
    let clean = problem.single
    var spoiled = clean
    let isPadding = { (element: Int) -> Bool in
      let row = element / trial.width
      return row % trial.tokens >= trial.shape.length(row / trial.tokens / trial.masks.count)
    }
    var gradient = upstream.map(Float.init)
    for i in clean.queries.indices where isPadding(i) {
      (spoiled.queries[i], spoiled.keys[i]) = (.nan, .nan)
      (spoiled.values[i], spoiled.sourceLogits[i], gradient[i]) = (.nan, .nan, .nan)
    }
    for vectors in vectorWidths {
      let expected = try solve(clean, upstream.map(Float.init), vectors: vectors)
      let found = try solve(spoiled, gradient, vectors: vectors)
      for (x, y) in zip(found, expected) {
        #expect(x.values == y.values, "\(x.name)")
        for i in x.values.indices where isPadding(i) { #expect(x.values[i] == 0) }
      }
    }
  }

  @Test("masks that hide everything give 0 and no gradient", arguments: [1, 70, 200])
  func allHidden(tokens: Int) throws {
    let nothing = PositionalMask.custom(TokenMask(tokens: tokens) { _, _ in false })
    var trial = MultiMaskTrial(masks: [nothing, nothing], tokens: tokens, width: 24)
    for factor in [1.0, 1000] {
      trial.sourceFactor = factor
      let (problem, upstream) = trial.problem()
      for vectors in vectorWidths {
        for (name, values) in try solve(
          problem.single, upstream.map(Float.init), vectors: vectors)
        {
          #expect(values.allSatisfy { $0 == 0 }, "\(name)")
        }
      }
    }
  }

  @Test("a strict mask leaks nothing: other tokens' bits stay", arguments: [50, 300])
  func leak(tokens: Int) throws {
    let trial = MultiMaskTrial(
      masks: [.forward(), .backward(), .window(left: 9, right: 4)], tokenScore: .sigmoid,
      tokens: tokens, width: 40)
    let (problem, upstream) = trial.problem()
    let (clean, gradient) = (problem.single, upstream.map(Float.init))
    let changed = tokens / 2
    var other = clean
    for head in 0..<3 {
      for l in 0..<trial.width {
        let i = (head * tokens + changed) * trial.width + l
        (other.keys[i], other.values[i]) = (-3 * clean.keys[i], 100)
        // Beyond every other key: the reference of the feature changes, and with it no bit.
        other.sourceLogits[i] = l % 2 == 0 ? 9 : -20
      }
    }
    for vectors in vectorWidths {
      let before = try solve(clean, gradient, vectors: vectors)[0].values
      let after = try solve(other, gradient, vectors: vectors)[0].values
      for head in 0..<3 {
        for query in 0..<tokens {
          let row = (head * tokens + query) * trial.width
          let isSame = before[row..<row + trial.width] == after[row..<row + trial.width]
          let sees = trial.masks[head].shows(key: changed, to: query)
          #expect(isSame != sees, "head \(head), query \(query)")
        }
      }
    }
  }
}
