import AttentionCPU
import AttentionCore
import Testing

/// Logits of ±10⁴ in t and s, against each other.
@Suite struct MultiMaskExtremeTests {
  /// How t and s of a key are chosen.
  enum Kind: String, CaseIterable, CustomTestStringConvertible {
    /// Every row's best t meets the worst s: t + s is 0 for all keys.
    case opposed
    /// As opposed, and one key in five is better by a few units.
    case contested
    /// t and s drawn from −10⁴, 0 and 10⁴.
    case drawn
    /// s of all keys below every other feature's, t moderate.
    case low

    var testDescription: String { rawValue }
  }

  private static let (tokens, width) = (210, 20)

  /// q·k = a_i·b_j in one channel, so that t is known; s by key and feature.
  private func problem(
    _ kind: Kind, _ masks: [PositionalMask], sigmoid: Bool
  ) -> MultiMaskProblem<Double> {
    let (n, d) = (Self.tokens, Self.width)
    var numbers = Numbers(seed: 4)
    let count = masks.count * n * d
    var (q, k) = ([Double](repeating: 0, count: count), [Double](repeating: 0, count: count))
    var s = q
    for head in 0..<masks.count {
      for j in 0..<n {
        let row = (head * n + j) * d
        let level = Double((j * 37) % 21 - 10)
        q[row] = 1
        for l in 0..<d {
          switch kind {
          case .opposed, .contested:
            k[row] = 1000 * level
            s[row + l] = -1000 * level + (kind == .contested && (j + l) % 5 == 0 ? 3 : 0)
          case .drawn:
            k[row] = Double(j % 3 - 1) * 10000
            s[row + l] = Double((j / 3 + l) % 3 - 1) * 10000
          case .low:
            k[row] = level / 4
            s[row + l] = -10000 + level / 8
          }
        }
      }
    }
    let shape = AttentionShape(batch: 1, heads: masks.count, tokens: n, width: d)
    return MultiMaskProblem(
      shape: shape,
      scheme: MultiMaskScheme(
        masks: masks, tokenScore: sigmoid ? .sigmoid : .exponential,
        sourceScore: sigmoid ? .sigmoid : .exponential, scale: 1), queries: q, keys: k,
      values: numbers.array(count), sourceLogits: s)
  }

  @Test(
    "the f64 reference's results at logits of ±10000", arguments: Kind.allCases, [false, true])
  func agreement(kind: Kind, sigmoid: Bool) throws {
    let masks: [PositionalMask] = [
      .full, .forward(), .backward(), .diagonalDisabled, .window(left: 2, right: 3),
    ]
    let problem = problem(kind, masks, sigmoid: sigmoid)
    var numbers = Numbers(seed: 6)
    let upstream = numbers.array(problem.queries.count)
    let expected = problem.solved(upstream)
    // Logits of 14427 units of log 2 round by 2⁻¹¹, twice a sum; keys of 10⁴ multiply dt in dq.
    for vectors in vectorWidths {
      let (output, gradients) = try CPUAttention(vectors: vectors).multiMaskGradients(
        problem.single, outputGradient: upstream.map(Float.init))
      for (x, y) in zip(named(output, gradients), expected) {
        let size = y.values.reduce(1) { max($0, abs($1)) }
        expectClose(
          "\(x.name) \(vectors.rawValue)", found: x.values, expected: y.values,
          bound: 4 * 0x1p-10 * size * (x.name == "dq" ? 20 : 1))
      }
    }
  }

  @Test("random logits of ±10000 give finite rows between the values", arguments: [33, 200])
  func bounded(tokens: Int) throws {
    var trial = MultiMaskTrial(
      masks: PositionalMask.directional(heads: 4) + [.full], tokens: tokens, width: 32)
    for (t, s) in [(5000.0, 1.0), (1, 6000), (5000, 6000)] {
      (trial.tokenFactor, trial.sourceFactor) = (t, s)
      let (problem, upstream) = trial.problem()
      let bound = Float(problem.values.reduce(0) { max($0, abs($1)) } * 1.0001)
      for vectors in vectorWidths {
        let (output, gradients) = try CPUAttention(vectors: vectors).multiMaskGradients(
          problem.single, outputGradient: upstream.map(Float.init))
        #expect(output.allSatisfy { abs($0) <= bound })
        for (name, values) in named(output, gradients) {
          #expect(values.allSatisfy { $0.isFinite }, "\(name)")
        }
      }
    }
  }
}
