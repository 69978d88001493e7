import AttentionCPU
import AttentionCore
import Folding
import Testing

@Suite struct ReferenceTests {
  static let trials: [ProblemTrial] = {
    var trials: [ProblemTrial] = []
    let scaled = Rotary(
      .mode, base: 100, scaling: [.ntk(factor: 2), .yarn(factor: 4, trainedLength: 16)])
    for support in Support.allCases {
      for (normalization, order) in [
        (Normalization.perMode, ChainOrder.lowToHigh), (.perMode, .highToLow),
        (.joint, .lowToHigh),
      ] {
        for rotary in [Rotary.none, Rotary(.mode), Rotary(.sequence, base: 50), scaled] {
          trials.append(
            ProblemTrial(
              fold: [2, 2, 3], support: support, normalization: normalization, order: order,
              rotary: rotary, tokens: 11, width: 4))
        }
      }
      trials.append(
        ProblemTrial(
          fold: [3, 4], support: support, normalization: .joint, rotary: Rotary(.mode), heads: 4,
          keyHeads: 2, tokens: 10, width: 2, lengths: [10, 7, 0]))
    }
    return trials
  }()

  /// Σ w·output + Σ w_ℓ·ℓ over the rows that see a key.
  private static func loss(_ problem: AttentionProblem<Double>, _ solution: Solution) -> Double {
    let result = Reference(problem).forward()
    let outputs = zip(result.output, solution.upstream).reduce(0) { $0 + $1.0 * $1.1 }
    return zip(result.logSumExp, solution.lseUpstream).reduce(outputs) {
      $1.0 > -.infinity ? $0 + $1.0 * $1.1 : $0
    }
  }

  /// (f(x + h) − f(x − h)) / 2h of every element that `path` names. With h = 1e-4 the f64 rounding of
  /// f contributes ε·|f|/h ≈ 1e-11 and the third derivative h² ≈ 1e-8 times itself.
  private static func differences(
    _ problem: AttentionProblem<Double>, _ solution: Solution, count: Int,
    _ change: (inout AttentionProblem<Double>, Int, Double) -> Void
  ) -> [Double] {
    let h = 1e-4
    return (0..<count).map { index in
      var (above, below) = (problem, problem)
      change(&above, index, h)
      change(&below, index, -h)
      return (loss(above, solution) - loss(below, solution)) / (2 * h)
    }
  }

  private func expectGradient(
    _ name: String, _ found: [Double], _ differences: [Double]
  ) {
    let size = max(differences.map(abs).max() ?? 0, 1)
    let worst = differences.indices.max {
      abs(found[$0] - differences[$0]) < abs(found[$1] - differences[$1])
    }
    guard let worst, found.count == differences.count else {
      Issue.record("\(name): \(found.count) gradients for \(differences.count) inputs")
      return
    }
    #expect(
      abs(found[worst] - differences[worst]) <= 1e-6 * size,
      "\(name), worst \(worst): differences \(differences[worst]), backward \(found[worst])")
  }

  @Test("every gradient equals central differences", arguments: trials)
  func gradients(trial: ProblemTrial) {
    let problem = trial.problem()
    let solution = problem.solved()
    let gradients = solution.gradients
    let check = { (name: String, found: [Double], path: WritableKeyPath<_, [Double]>) in
      expectGradient(
        name, found,
        Self.differences(problem, solution, count: found.count) { (p: inout _, i, h) in
          p[keyPath: path][i] += h
        })
    }
    check("dq", gradients.queries, \AttentionProblem<Double>.queries)
    check("dk", gradients.keys, \.keys)
    check("dv", gradients.values, \.values)
    expectGradient(
      "dbeta", gradients.beta,
      Self.differences(problem, solution, count: gradients.beta.count) { $0.beta?[$1] += $2 })
    for (mode, bias) in gradients.biases.enumerated() {
      expectGradient(
        "dbias\(mode + 1)", bias ?? [],
        Self.differences(problem, solution, count: bias?.count ?? 0) {
          $0.biases[mode]?[$1] += $2
        })
    }
  }

  @Test("rows of ones stay rows of ones", arguments: trials)
  func rowSums(trial: ProblemTrial) {
    var problem = trial.problem()
    problem.values = problem.values.map { _ in 1 }
    let result = Reference(problem).forward()
    for (row, lse) in result.logSumExp.enumerated() {
      for value in result.output[row * trial.width..<(row + 1) * trial.width] {
        #expect(abs(value - (lse > -.infinity ? 1 : 0)) < 1e-14)
      }
    }
  }

  @Test(
    "the implied rows rebuild the output, and are zero where nothing reaches", arguments: trials)
  func impliedRows(trial: ProblemTrial) {
    let problem = trial.problem()
    let reference = Reference(problem)
    let output = reference.forward().output
    let (shape, d) = (problem.shape, trial.width)
    for b in 0..<shape.batch {
      for h in 0..<shape.heads {
        let values = (b * shape.keyHeads + h / shape.group) * shape.tokens * d
        for t in 0..<shape.length(b) {
          let row = reference.impliedRow(token: t, head: h, sequence: b)
          let sources = row.indices.filter { row[$0] != 0 }
          #expect(sources == trial.pattern.sources(of: t, tokens: shape.length(b)))
          for c in 0..<d {
            let sum = row.indices.reduce(0) { $0 + row[$1] * problem.values[values + $1 * d + c] }
            let expected = output[((b * shape.heads + h) * shape.tokens + t) * d + c]
            #expect(abs(sum - expected) < 1e-13, "row \(t) of head \(h)")
          }
        }
      }
    }
  }

  @Test("a row of a hundred thousand tokens is implied without attending them all")
  func impliedRowOfLongSequence() {
    let trial = ProblemTrial(
      fold: [32, 64, 64], support: .slidingCausal, normalization: .joint, rotary: Rotary(.mode),
      heads: 1, tokens: 100_000, width: 4, extras: false)
    let row = Reference(trial.problem()).impliedRow(token: 99_999)
    #expect(abs(row.reduce(0, +) - 1) < 1e-12)
    #expect(row.allSatisfy { $0 > 0 })
  }
}
