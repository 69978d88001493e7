import AttentionCore
import Folding

/// Multi-mask attention in plain loops that read like the equations, what every fast path is held
/// against.
///
///     t_ij  = log φ_t(scale·⟨q_i, k_j⟩),   s_jl = log φ_s(logit_jl)
///     p_ijl = exp(t_ij + s_jl − L_il),     L_il = log Σ_j exp(t_ij + s_jl)
///     O_il  = Σ_j p_ijl·μ_ij·ν_jl·v_jl
///
/// over the keys j that the head's mask shows to query i; μ and ν are the dropout factors of E_t and
/// E_s, 1 without dropout. Backward, with g_ijl = p_ijl·dO_il:
///
///     dt_ij = Σ_l g_ijl (μ_ij ν_jl v_jl − O_il),  ds_jl = Σ_i g_ijl (μ_ij ν_jl v_jl − O_il),
///     dv_jl = Σ_i g_ijl μ_ij ν_jl
///
/// The maximum is taken for every (i, l), so no logit is too large. One row of scores is alive at a
/// time. Complexity: O(B·H·N²·D).
public struct MultiMaskReference<Scalar: ReferenceScalar>: Sendable {
  /// The problem.
  public let problem: MultiMaskProblem<Scalar>

  /// Prepares a problem.
  public init(_ problem: MultiMaskProblem<Scalar>) { self.problem = problem }

  private var shape: AttentionShape { problem.shape }
  private var width: Int { problem.shape.width }

  /// ln x or ln σ(x), and its derivative.
  private func logScore(_ x: Scalar, sigmoid: Bool) -> (value: Scalar, slope: Scalar) {
    guard sigmoid else { return (x, 1) }
    let tail = Scalar.exponential(-abs(x))
    let value = min(x, 0) - Scalar.logarithm(1 + tail)
    return (value, (x >= 0 ? tail : 1) / (1 + tail))
  }

  /// One query and what it sees.
  private struct Row {
    /// The index of its channels' first row in `[B·H·N]`.
    var index: Int
    /// The keys, their indices likewise, t_ij with its slope, and μ_ij.
    var keys: [(index: Int, logit: Scalar, slope: Scalar, kept: Scalar)]
  }

  /// s, its slope and ν for all keys and features.
  private struct Source {
    var logits: [Scalar]
    var slopes: [Scalar]
    var kept: [Scalar]
  }

  private func source() -> Source {
    let factor = Scalar(problem.scheme.sourceScore.factor(width: width))
    let scores = problem.sourceLogits.map {
      logScore($0 * factor, sigmoid: problem.scheme.sourceScore.isSigmoid)
    }
    var kept = [Scalar](repeating: 1, count: scores.count)
    if let dropout = problem.scheme.dropout {
      for row in 0..<scores.count / width {
        let key = dropout.rowKey(.source, head: row / shape.tokens, row: row % shape.tokens)
        for l in 0..<width {
          kept[row * width + l] =
            dropout.isKept(rowKey: key, column: l) ? Scalar(dropout.factor) : 0
        }
      }
    }
    return Source(
      logits: scores.map(\.value), slopes: scores.map { $0.slope * factor }, kept: kept)
  }

  private func forEachRow(_ body: (Row) -> Void) {
    for head in 0..<shape.batch * shape.heads {
      let mask = problem.scheme.masks[head % shape.heads]
      let length = shape.length(head / shape.heads)
      for i in 0..<shape.tokens {
        let index = head * shape.tokens + i
        var row = Row(index: index, keys: [])
        let key = problem.scheme.dropout?.rowKey(.tokens, head: head, row: i) ?? 0
        for j in 0..<length where i < length && mask.shows(key: j, to: i) {
          let other = head * shape.tokens + j
          let (t, slope) = logScore(
            Scalar(problem.scheme.scale) * dot(index, other),
            sigmoid: problem.scheme.tokenScore == .sigmoid)
          var kept: Scalar = 1
          if let dropout = problem.scheme.dropout {
            kept = dropout.isKept(rowKey: key, column: j) ? Scalar(dropout.factor) : 0
          }
          row.keys.append((other, t, slope, kept))
        }
        body(row)
      }
    }
  }

  private func dot(_ i: Int, _ j: Int) -> Scalar {
    var sum: Scalar = 0
    for c in 0..<width { sum += problem.queries[i * width + c] * problem.keys[j * width + c] }
    return sum
  }

  /// Output and log-denominators.
  @_specialize(where Scalar == Double)
  @_specialize(where Scalar == Float)
  public func forward() -> MultiMaskResult<Scalar> {
    let source = source()
    let count = problem.queries.count
    var result = MultiMaskResult(
      output: [Scalar](repeating: 0, count: count),
      logDenominator: [Scalar](repeating: -.infinity, count: count))
    forEachRow { row in
      for l in 0..<width where !row.keys.isEmpty {
        var top = -Scalar.infinity
        for key in row.keys { top = max(top, key.logit + source.logits[key.index * width + l]) }
        var (numerator, denominator): (Scalar, Scalar) = (0, 0)
        for key in row.keys {
          let j = key.index * width + l
          let weight = Scalar.exponential(key.logit + source.logits[j] - top)
          denominator += weight
          numerator += weight * key.kept * source.kept[j] * problem.values[j]
        }
        result.output[row.index * width + l] = numerator / denominator
        result.logDenominator[row.index * width + l] = top + Scalar.logarithm(denominator)
      }
    }
    return result
  }

  /// The gradients of a scalar whose gradient by the output is `outputGradient`.
  @_specialize(where Scalar == Double)
  @_specialize(where Scalar == Float)
  public func backward(
    _ result: MultiMaskResult<Scalar>, outputGradient: [Scalar]
  ) -> MultiMaskGradients<Scalar> {
    let source = source()
    let zeros = [Scalar](repeating: 0, count: problem.queries.count)
    var gradients = MultiMaskGradients(
      queries: zeros, keys: zeros, values: zeros, sourceLogits: zeros)
    forEachRow { row in
      for key in row.keys {
        var dt: Scalar = 0
        for l in 0..<width {
          let (i, j) = (row.index * width + l, key.index * width + l)
          let p = Scalar.exponential(key.logit + source.logits[j] - result.logDenominator[i])
          let g = p * outputGradient[i]
          let kept = key.kept * source.kept[j]
          let difference = g * (kept * problem.values[j] - result.output[i])
          dt += difference
          gradients.sourceLogits[j] += difference * source.slopes[j]
          gradients.values[j] += g * kept
        }
        let dz = dt * key.slope * Scalar(problem.scheme.scale)
        for c in 0..<width {
          gradients.queries[row.index * width + c] += dz * problem.keys[key.index * width + c]
          gradients.keys[key.index * width + c] += dz * problem.queries[row.index * width + c]
        }
      }
    }
    return gradients
  }
}
