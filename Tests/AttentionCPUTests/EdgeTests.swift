import AttentionCPU
import AttentionCore
import Dispatch
import Folding
import Testing

@Suite struct EdgeTests {
  static let trials: [ProblemTrial] = Support.allCases.flatMap { support in
    [
      ProblemTrial(
        fold: [5, 27], support: support, normalization: .joint, rotary: Rotary(.mode), heads: 3,
        tokens: 131, width: 40),
      ProblemTrial(
        fold: [3, 7, 7], support: support, rotary: Rotary(.sequence), heads: 2, keyHeads: 2,
        tokens: 140, width: 64),
      ProblemTrial(fold: [200], support: support, heads: 2, tokens: 200, width: 16, extras: false),
    ]
  }

  /// The largest absolute value, NaN if there is one.
  private func largest(_ arrays: [[Float]]) -> Float {
    arrays.joined().reduce(0) { abs($1) <= $0 ? $0 : $0.isNaN ? $0 : abs($1) }
  }

  /// Runs tasks on five threads of its own, the last ones first.
  static let fiveThreads = ParallelExecutor { count, task in
    nonisolated(unsafe) let task = task
    DispatchQueue.concurrentPerform(iterations: 5) { thread in
      for index in stride(from: count - 1 - thread, through: 0, by: -5) { task(index) }
    }
  }

  @Test("the same bits on any executor", arguments: trials)
  func determinism(trial: ProblemTrial) throws {
    let problem = trial.problem().single
    var numbers = Numbers(seed: 3)
    let upstream = numbers.array(problem.queries.count).map(Float.init)
    for vectors in vectorWidths {
      let runs = try [ParallelExecutor.serial, .dispatch, Self.fiveThreads, .dispatch].map {
        try CPUAttention(executor: $0, vectors: vectors).gradients(
          problem, outputGradient: upstream)
      }
      for run in runs.dropFirst() {
        #expect(run.result.output == runs[0].result.output)
        #expect(run.result.logSumExp == runs[0].result.logSumExp)
        #expect(run.gradients.queries == runs[0].gradients.queries)
        #expect(run.gradients.keys == runs[0].gradients.keys)
        #expect(run.gradients.values == runs[0].gradients.values)
        #expect(run.gradients.beta == runs[0].gradients.beta)
        #expect(run.gradients.biases == runs[0].gradients.biases)
      }
    }
  }

  @Test("logits of ±10000 give finite rows between the values", arguments: trials)
  func extremeLogits(trial: ProblemTrial) throws {
    var problem = trial.problem().single
    // Queries and keys of ±100: logits of up to ±10000·√D.
    problem.queries = problem.queries.map { $0 < 0 ? -100 : 100 }
    problem.keys = problem.keys.map { $0 < 0 ? -100 : 100 }
    let upstream = problem.queries.map { $0 / 100 }
    let bound = problem.values.reduce(0) { max($0, abs($1)) } * 1.0001
    for vectors in vectorWidths {
      let kernels = try CPUAttention(vectors: vectors, poisonsMemory: true)
      let (result, gradients) = kernels.gradients(problem, outputGradient: upstream)
      #expect(largest([result.output]) <= bound)
      #expect(largest([result.logSumExp]) < .infinity)
      let all = [gradients.queries, gradients.keys, gradients.values, gradients.beta]
      #expect(largest(all) < .infinity)
      #expect(largest(gradients.biases.compactMap { $0 }) < .infinity)
    }
  }

  @Test("a bias that hides every key gives 0 and −∞, and no NaN in any gradient", arguments: trials)
  func allHidden(trial: ProblemTrial) throws {
    var problem = trial.problem().single
    problem.biases = problem.pattern.fold.modes.map {
      [Float](repeating: -.infinity, count: problem.pattern.biasCount($0))
    }
    let upstream = problem.queries
    let lseUpstream = [Float](repeating: 1, count: trial.heads * trial.tokens)
    for vectors in vectorWidths {
      let (result, gradients) = try CPUAttention(vectors: vectors, poisonsMemory: true).gradients(
        problem, outputGradient: upstream, logSumExpGradient: lseUpstream)
      #expect(largest([result.output]) == 0)
      #expect(result.logSumExp == lseUpstream.map { _ in -.infinity })
      let all = [gradients.queries, gradients.keys, gradients.values, gradients.beta]
      #expect(largest(all) == 0)
      #expect(largest(gradients.biases.compactMap { $0 }) == 0)
    }
  }

  @Test("NaN in padding stays there", arguments: trials, Processor.Vectors.allCases)
  func padding(trial: ProblemTrial, vectors: Processor.Vectors) throws {
    guard vectorWidths.contains(vectors) else { return }
    var trial = trial
    trial.lengths = [trial.tokens - 9, 1]
    let kernels = try CPUAttention(vectors: vectors)
    let clean = trial.problem().single
    var spoiled = clean
    var upstream = clean.queries
    let isPadding = { (element: Int, heads: Int) -> Bool in
      let row = element / trial.width
      return row % trial.tokens >= trial.shape.length(row / trial.tokens / heads)
    }
    for i in clean.queries.indices where isPadding(i, trial.heads) {
      spoiled.queries[i] = .nan
      upstream[i] = 0
    }
    for i in clean.keys.indices where isPadding(i, trial.keyHeads) {
      (spoiled.keys[i], spoiled.values[i]) = (.nan, .nan)
    }
    var spoiledUpstream = upstream
    for i in upstream.indices where isPadding(i, trial.heads) { spoiledUpstream[i] = .nan }
    let expected = kernels.gradients(clean, outputGradient: upstream)
    let found = kernels.gradients(spoiled, outputGradient: spoiledUpstream)
    #expect(found.result.output == expected.result.output)
    #expect(found.result.logSumExp == expected.result.logSumExp)
    #expect(found.gradients.queries == expected.gradients.queries)
    #expect(found.gradients.keys == expected.gradients.keys)
    #expect(found.gradients.values == expected.gradients.values)
    #expect(found.gradients.beta == expected.gradients.beta)
    for i in expected.result.output.indices where isPadding(i, trial.heads) {
      #expect(expected.result.output[i] == 0)
    }
  }

  @Test(
    "positions near a million are as exact as near zero",
    arguments: [
      Rotary(.mode), Rotary(.sequence), Rotary(.mode, scaling: [.linear(factor: 3)]),
    ])
  func longSequence(rotary: Rotary) throws {
    // A row sees n_1·n_2·n_3 = 2048 tokens; the sequence ends at 2^20, the reference sees its last
    // 4096, whose relative positions are the same.
    let (tokens, tail, wanted, width) = (1 << 20, 4096, 64, 8)
    var numbers = Numbers(seed: 2)
    let rows = (0..<3).map { _ in numbers.array(tail * width) }
    let pattern = AttentionPattern(fold: Fold([4, 16, 32]), rotary: rotary)
    let reference = Reference(
      AttentionProblem<Double>(
        shape: AttentionShape(batch: 1, heads: 1, tokens: tail, width: width), pattern: pattern,
        queries: rows[0], keys: rows[1], values: rows[2])
    ).forward()
    let long = rows.map { row in
      [Float](repeating: 0.5, count: (tokens - tail) * width) + row.map(Float.init)
    }
    let problem = AttentionProblem<Float>(
      shape: AttentionShape(batch: 1, heads: 1, tokens: tokens, width: width), pattern: pattern,
      queries: long[0], keys: long[1], values: long[2])
    let result = try CPUAttention().forward(problem)
    // Three passes with logits of up to 1.7²·√8 ≈ 8.
    let bound = 3 * (1 + 8.2) * Double(width).squareRoot() * 1.7 * 0x1p-24
    expectClose(
      "output", found: Array(result.output.suffix(wanted * width)),
      expected: Array(reference.output.suffix(wanted * width)), bound: bound)
    expectClose(
      "lse", found: Array(result.logSumExp.suffix(wanted)),
      expected: Array(reference.logSumExp.suffix(wanted)), bound: bound * 5)
  }
}
