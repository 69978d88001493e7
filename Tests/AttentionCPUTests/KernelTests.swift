import AttentionCPU
import AttentionCore
import Folding
import Testing

@Suite struct KernelTests {
  /// Lengths by widths, each with a fold of another order, in turn with every combination of support,
  /// normalization, order and positions.
  static let trials: [ProblemTrial] = {
    let combinations = Support.allCases.flatMap { support in
      [
        (Normalization.perMode, ChainOrder.lowToHigh), (.perMode, .highToLow),
        (.joint, .lowToHigh),
      ].flatMap { normalization, order in
        [Rotary.none, Rotary(.mode), Rotary(.sequence, base: 500)].map {
          (support, normalization, order, $0)
        }
      }
    }
    // Folds of order 1 to 4 that hold the length.
    let folds: [Int: [[Int]]] = [
      1: [[1], [1, 1], [2, 3], [2, 1, 2]], 2: [[2], [1, 2], [2, 1, 3], [2, 2, 2, 2]],
      63: [[63], [9, 7], [4, 4, 4], [2, 3, 4, 3]], 64: [[70], [8, 8], [4, 4, 4], [3, 2, 5, 3]],
      65: [[65], [3, 32], [5, 4, 4], [3, 3, 3, 3]],
      997: [[997], [4, 256], [16, 9, 7], [3, 7, 6, 8]],
      1000: [[1024], [25, 40], [10, 10, 10], [5, 5, 5, 8]],
    ]
    var trials: [ProblemTrial] = []
    for tokens in folds.keys.sorted() {
      for (index, width) in [8, 40, 64, 80, 128].enumerated() {
        // The reference takes its time over long sequences: one order for each width.
        for fold in folds[tokens] ?? [] where tokens < 500 || fold.count == min(index + 1, 4) {
          let (support, normalization, order, rotary) = combinations[
            trials.count * 5 % combinations.count]
          trials.append(
            ProblemTrial(
              fold: fold, support: support, normalization: normalization, order: order,
              rotary: rotary, heads: tokens < 500 ? 4 : 2, keyHeads: tokens < 500 ? 2 : 1,
              tokens: tokens, width: width))
        }
      }
    }
    // Every combination once, with padding, at a length that fills no block.
    for (support, normalization, order, rotary) in combinations {
      trials.append(
        ProblemTrial(
          fold: [3, 4, 7], support: support, normalization: normalization, order: order,
          rotary: rotary, heads: 3, keyHeads: 1, tokens: 75, width: 40, lengths: [75, 13, 0, 74]))
    }
    return trials
  }()

  /// The rounding of one problem: logits of size Z = scale·‖q‖·‖k‖ sum D products, so they and the
  /// weights carry a relative error of about (1 + Z)·√D·u; every pass adds its own. A sum of T terms
  /// adds √T·u. Values are compared with their largest one; a factor 2 covers the constants.
  struct Rounding {
    let perTerm: Double

    init(_ trial: ProblemTrial, _ problem: AttentionProblem<Double>) {
      let unit = 2 * 0x1p-24
      perTerm =
        unit * Double(trial.fold.count) * (1 + problem.largestLogit)
        * Double(trial.width).squareRoot()
    }

    func bound(_ expected: [Double], terms: Int = 1) -> Double {
      let size = max(expected.reduce(0) { $1.isFinite ? max($0, abs($1)) : $0 }, 1)
      return perTerm * size * Double(terms).squareRoot()
    }
  }

  @Test("kernels agree with the f64 reference in poisoned memory", arguments: trials)
  func agreement(trial: ProblemTrial) throws {
    let problem = trial.problem()
    let solution = problem.solved()
    let rounding = Rounding(trial, problem)
    for vectors in vectorWidths {
      let kernels = try CPUAttention(vectors: vectors, poisonsMemory: true)
      let forward = kernels.forward(problem.single)
      let (result, gradients) = kernels.gradients(
        problem.single, outputGradient: solution.upstream.map(Float.init),
        logSumExpGradient: solution.lseUpstream.map(Float.init))
      #expect(forward.output == result.output && forward.logSumExp == result.logSumExp)
      let expect = { (name: String, found: [Float], expected: [Double], terms: Int) in
        expectClose(
          "\(vectors) \(name)", found: found, expected: expected,
          bound: rounding.bound(expected, terms: terms))
      }
      let keys = problem.pattern.fold.keysPerToken
      expect("output", result.output, solution.result.output, 1)
      expect("lse", result.logSumExp, solution.result.logSumExp, 1)
      expect("dq", gradients.queries, solution.gradients.queries, keys)
      expect("dk", gradients.keys, solution.gradients.keys, keys * trial.heads)
      expect("dv", gradients.values, solution.gradients.values, trial.heads)
      expect("dbeta", gradients.beta, solution.gradients.beta, trial.tokens * keys)
      for (mode, pair) in zip(gradients.biases, solution.gradients.biases).enumerated() {
        expect("dbias\(mode + 1)", pair.0 ?? [], pair.1 ?? [], trial.tokens * trial.heads)
      }
    }
  }

  @Test("both layouts give bitwise the same", arguments: trials.filter { $0.tokens == 75 })
  func layouts(trial: ProblemTrial) throws {
    let kernels = try CPUAttention(poisonsMemory: true)
    let problem = trial.problem()
    let (b, n, d) = (problem.shape.batch, trial.tokens, trial.width)
    let upstream = problem.solved().upstream.map(Float.init)
    let turn = { (rows: [Float], heads: Int) in
      transposed(rows, batch: b, heads: heads, tokens: n, width: d)
    }
    let back = { (rows: [Float], heads: Int) in
      transposed(rows, batch: b, heads: n, tokens: heads, width: d)
    }
    var other = problem.single
    other.queries = turn(other.queries, trial.heads)
    other.keys = turn(other.keys, trial.keyHeads)
    other.values = turn(other.values, trial.keyHeads)
    let first = kernels.gradients(problem.single, outputGradient: upstream)
    let second = kernels.gradients(
      other, outputGradient: turn(upstream, trial.heads), layout: .tokensFirst)
    #expect(back(second.result.output, trial.heads) == first.result.output)
    #expect(second.result.logSumExp == first.result.logSumExp)
    #expect(back(second.gradients.queries, trial.heads) == first.gradients.queries)
    #expect(back(second.gradients.keys, trial.keyHeads) == first.gradients.keys)
    #expect(back(second.gradients.values, trial.keyHeads) == first.gradients.values)
    #expect(second.gradients.beta == first.gradients.beta)
    #expect(second.gradients.biases == first.gradients.biases)
  }
}
