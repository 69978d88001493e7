import AttentionCore
import Folding

/// The operator in plain loops that read like the equations: slow, for any floating-point type, and
/// what every fast path is held against.
///
///     z(t,t') = scale·⟨R_k q_t, R_k k_t'⟩ + β_k·[t' ≠ t] + bias_k(t,t')
///     u'(t)   = Σ_t' exp(z(t,t') − ℓ'(t)) u(t'),      ℓ'(t) = log Σ_t' exp z(t,t')
///
/// over the keys t' that the support gives; in joint normalization z(t,t) = ℓ(t) of the pass below.
/// Complexity: O(B·H·N·Σ n_k·D).
public struct Reference<Scalar: ReferenceScalar>: Sendable {
  /// The problem.
  public let problem: AttentionProblem<Scalar>

  /// Prepares a problem.
  public init(_ problem: AttentionProblem<Scalar>) { self.problem = problem }

  private var shape: AttentionShape { problem.shape }
  private var width: Int { problem.shape.width }

  /// The tokens that query t sees in the pass of a mode.
  func keys(of t: Int, mode: Mode, length: Int) -> [Int] {
    problem.pattern.keys(of: t, mode: mode, length: length)
  }

  /// The rows of q or k turned to their positions in a mode; `direction` −1 turns back.
  func rotated(
    _ rows: [Scalar], mode: Mode, tokens: Range<Int>, direction: Scalar = 1
  ) -> [Scalar] {
    problem.pattern.rotated(
      rows, width: width, mode: mode, tokens: tokens, direction: direction)
  }

  /// ⟨x, y⟩ of two rows.
  func dot(_ x: [Scalar], _ i: Int, _ y: [Scalar], _ j: Int) -> Scalar {
    var sum: Scalar = 0
    for c in 0..<width { sum += x[i * width + c] * y[j * width + c] }
    return sum
  }

  /// One pass for some of the queries.
  ///
  /// - Parameters:
  ///   - q: the queries, turned to the mode's positions.
  ///   - k: the keys likewise.
  ///   - u: the running values, of H heads or (in the first pass) G.
  ///   - carried: ℓ of the pass below in joint normalization, one for each wanted query.
  ///   - row: called for each query with the index of its row, its keys, their weights and ℓ'.
  func pass(
    _ mode: Mode, q: [Scalar], k: [Scalar], carried: [Scalar]?,
    row body: (_ b: Int, _ h: Int, _ t: Int, _ keys: [Int], _ weights: [Scalar], _ lse: Scalar) ->
      Void
  ) {
    for b in 0..<shape.batch {
      for h in 0..<shape.heads {
        let g = h / shape.group
        for t in shape.queries {
          guard t < shape.length(b) else {
            body(b, h, t, [], [], -.infinity)
            continue
          }
          let i = queryRow(b, h, t)
          let keys = keys(of: t, mode: mode, length: shape.length(b))
          let z = keys.map { key -> Scalar in
            if let carried, key == t { return carried[i] }
            var z = problem.scale * dot(q, i, k, (b * shape.keyHeads + g) * shape.tokens + key)
            if key != t { z += problem.beta(mode, head: h) }
            if let index = problem.biasIndex(mode, head: h, query: t, key: key) {
              z += problem.biases[mode.index - 1]?[index] ?? 0
            }
            return z
          }
          let top = z.max() ?? -.infinity
          guard top > -.infinity else {
            body(b, h, t, [], [], -.infinity)
            continue
          }
          let lse = top + Scalar.logarithm(z.reduce(0) { $0 + Scalar.exponential($1 - top) })
          body(b, h, t, keys, z.map { Scalar.exponential($0 - lse) }, lse)
        }
      }
    }
  }

  /// The index of a query's row.
  func queryRow(_ b: Int, _ h: Int, _ t: Int) -> Int {
    (b * shape.heads + h) * shape.queries.count + t - shape.queries.lowerBound
  }

  /// The whole operator.
  ///
  /// - Precondition: the queries are the whole sequence (a pass needs the running values of the
  ///   tokens before).
  @_specialize(where Scalar == Double)
  @_specialize(where Scalar == Float)
  public func forward() -> AttentionResult<Scalar> {
    requireWhole()
    var u = problem.values
    var result = AttentionResult<Scalar>(output: [], logSumExp: [], inputs: [], logSumExps: [])
    for (index, mode) in problem.pattern.chain.enumerated() {
      let heads = index == 0 ? shape.keyHeads : shape.heads
      let q = rotated(problem.queries, mode: mode, tokens: shape.queries)
      let k = rotated(problem.keys, mode: mode, tokens: 0..<shape.tokens)
      var next = [Scalar](repeating: 0, count: problem.queries.count)
      var lse = [Scalar](repeating: 0, count: shape.batch * shape.heads * shape.tokens)
      pass(mode, q: q, k: k, carried: carried(after: result)) { b, h, t, keys, weights, total in
        let row = queryRow(b, h, t)
        lse[row] = total
        for (key, weight) in zip(keys, weights) {
          let source = (b * heads + h * heads / shape.heads) * shape.tokens + key
          for c in 0..<width { next[row * width + c] += weight * u[source * width + c] }
        }
      }
      result.inputs.append(u)
      result.logSumExps.append(lse)
      u = next
    }
    result.output = u
    result.logSumExp = result.logSumExps.last ?? []
    return result
  }

  private func carried(after result: AttentionResult<Scalar>) -> [Scalar]? {
    problem.pattern.normalization == .joint ? result.logSumExps.last : nil
  }

  private func requireWhole() {
    require(
      shape.queries == 0..<shape.tokens,
      "The reference attends whole sequences: expected queries 0..<\(shape.tokens), got "
        + "\(shape.queries).")
  }

  /// The gradients of a scalar whose gradient by the output is `outputGradient`, and by the returned
  /// log-sum-exp `logSumExpGradient`.
  ///
  ///     D(t) = ⟨du'(t), u'(t)⟩ − dℓ'(t),   dz(t,t') = p(t,t')·(⟨du'(t), u(t')⟩ − D(t))
  ///     du(t') = Σ_t p(t,t') du'(t);  the joint diagonal's dz goes to dℓ instead of q and k.
  @_specialize(where Scalar == Double)
  @_specialize(where Scalar == Float)
  public func backward(
    _ result: AttentionResult<Scalar>, outputGradient: [Scalar],
    logSumExpGradient: [Scalar]? = nil
  ) -> AttentionGradients<Scalar> {
    requireWhole()
    var gradients = AttentionGradients<Scalar>(
      queries: zeros(problem.queries), keys: zeros(problem.keys), values: [],
      beta: [Scalar](repeating: 0, count: problem.pattern.fold.order * shape.heads),
      biases: problem.biases.map { $0.map(zeros) })
    var du = outputGradient
    var dlse = logSumExpGradient ?? zeros(result.logSumExp)
    for (index, mode) in problem.pattern.chain.enumerated().reversed() {
      let output = index + 1 < result.inputs.count ? result.inputs[index + 1] : result.output
      let isJoint = problem.pattern.normalization == .joint && index > 0
      let below = backwardPass(
        mode, values: result.inputs[index], heads: index == 0 ? shape.keyHeads : shape.heads,
        output: output, carried: isJoint ? result.logSumExps[index - 1] : nil,
        outputGradient: du, logSumExpGradient: dlse, into: &gradients)
      (du, dlse) = below
    }
    gradients.values = du
    return gradients
  }

  private func zeros(_ like: [Scalar]) -> [Scalar] { [Scalar](repeating: 0, count: like.count) }

  private func backwardPass(
    _ mode: Mode, values u: [Scalar], heads: Int, output: [Scalar], carried: [Scalar]?,
    outputGradient: [Scalar], logSumExpGradient: [Scalar],
    into gradients: inout AttentionGradients<Scalar>
  ) -> (du: [Scalar], dlse: [Scalar]) {
    let q = rotated(problem.queries, mode: mode, tokens: shape.queries)
    let k = rotated(problem.keys, mode: mode, tokens: 0..<shape.tokens)
    var (dq, dk) = (zeros(q), zeros(k))
    var du = zeros(u)
    var dlse = [Scalar](repeating: 0, count: logSumExpGradient.count)
    pass(mode, q: q, k: k, carried: carried) { b, h, t, keys, weights, _ in
      let i = queryRow(b, h, t)
      let correction = dot(outputGradient, i, output, i) - logSumExpGradient[i]
      for (key, p) in zip(keys, weights) {
        let j = (b * shape.keyHeads + h / shape.group) * shape.tokens + key
        let source = (b * heads + h * heads / shape.heads) * shape.tokens + key
        let dz = p * (dot(outputGradient, i, u, source) - correction)
        for c in 0..<width { du[source * width + c] += p * outputGradient[i * width + c] }
        if carried != nil, key == t {
          dlse[i] += dz
          continue
        }
        for c in 0..<width {
          dq[i * width + c] += problem.scale * dz * k[j * width + c]
          dk[j * width + c] += problem.scale * dz * q[i * width + c]
        }
        if key != t, !mode.isLowest {
          gradients.beta[(mode.index - 1) * shape.heads + h] += dz
        }
        if let index = problem.biasIndex(mode, head: h, query: t, key: key) {
          gradients.biases[mode.index - 1]?[index] += dz
        }
      }
    }
    // A rotation's transpose is the rotation back (times YaRN's magnitude, which both share).
    let back: Scalar = -1
    add(rotated(dq, mode: mode, tokens: shape.queries, direction: back), to: &gradients.queries)
    add(
      rotated(dk, mode: mode, tokens: 0..<shape.tokens, direction: back), to: &gradients.keys)
    return (du, dlse)
  }

  private func add(_ x: [Scalar], to y: inout [Scalar]) {
    for i in x.indices { y[i] += x[i] }
  }
}
