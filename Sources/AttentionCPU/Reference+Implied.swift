import AttentionCore
import Folding

#if canImport(Glibc)
  import Glibc
#elseif canImport(Darwin)
  import Darwin
#endif

// The operator is linear in the values: output(t) = Σ_t' A(t,t') v(t'). A is the product of the
// passes' weight matrices, and in joint normalization the passes share one softmax through the
// carried diagonal.

extension Reference {
  /// A row of the attention matrix that the whole chain implies: the weights with which the values
  /// enter the output at one token.
  ///
  /// The chain runs backwards from the token: the weights of the last pass's keys, of their keys in
  /// the pass before, and so on. A pass's weights at a token depend on other tokens through nothing
  /// but their keys (the carried log-sum-exp is the token's own), so no pass is run on the whole
  /// sequence.
  ///
  /// - Parameters:
  ///   - token: t, one of the queries.
  ///   - head: the query head.
  ///   - sequence: the sequence of the batch.
  /// - Returns: `[N]`; 0 at tokens that do not reach t. The sum is 1 unless t sees no key.
  /// - Precondition: the queries are the whole sequence.
  /// - Complexity: O(r·Σ n_k·D), r the tokens whose running values reach t: n_1·…·n_{m−1} and fewer
  ///   in the lowest pass, so O(N·D·m) for a row of a full fold.
  public func impliedRow(token: Int, head: Int = 0, sequence: Int = 0) -> [Scalar] {
    let shape = problem.shape
    require(
      (0..<shape.tokens).contains(token) && (0..<shape.heads).contains(head)
        && (0..<shape.batch).contains(sequence) && shape.queries == 0..<shape.tokens,
      "No row of token \(token), head \(head), sequence \(sequence): there are \(shape.tokens) "
        + "tokens with queries \(shape.queries), \(shape.heads) heads, \(shape.batch) sequences.")
    let chain = ImpliedChain(self, head: head, sequence: sequence)
    var weights = [Scalar](repeating: 0, count: shape.tokens)
    weights[token] = 1
    for pass in problem.pattern.chain.indices.reversed() {
      var below = [Scalar](repeating: 0, count: shape.tokens)
      for t in weights.indices where weights[t] != 0 {
        let (keys, p) = chain.weights(of: t, pass: pass)
        for (key, p) in zip(keys, p) { below[key] += weights[t] * p }
      }
      weights = below
    }
    return weights
  }
}

/// The logits and weights of single tokens of one head.
private struct ImpliedChain<Scalar: ReferenceScalar> {
  let reference: Reference<Scalar>
  let head: Int
  let sequence: Int
  /// For each pass of the chain, cosines and sines of the angle between tokens `0, 1, …` places
  /// apart: a logit depends on nothing but the distance.
  let turns: [[[(cosine: Scalar, sine: Scalar)]]]

  init(_ reference: Reference<Scalar>, head: Int, sequence: Int) {
    self.reference = reference
    self.head = head
    self.sequence = sequence
    let problem = reference.problem
    turns = problem.pattern.chain.map { mode in
      guard
        let angles = RotaryAngles(problem.pattern.rotary, mode: mode, width: problem.shape.width)
      else { return [] }
      let places = min(mode.size, (problem.shape.tokens - 1) / mode.stride + 1)
      return (0..<places).map { place in
        angles.perPlace.map { angle in
          // Queries and keys both carry the magnitude.
          let factor = angles.magnitude * angles.magnitude
          let turn = Double(place) * angle
          return (Scalar(cos(turn) * factor), Scalar(sin(turn) * factor))
        }
      }
    }
  }

  /// The keys that a token sees in a pass, and their softmax weights.
  func weights(of t: Int, pass: Int) -> (keys: [Int], weights: [Scalar]) {
    let (keys, z) = logits(of: t, pass: pass)
    let total = logSumExp(z)
    guard total > -.infinity else { return ([], []) }
    return (keys, z.map { Scalar.exponential($0 - total) })
  }

  private func logSumExp(_ z: [Scalar]) -> Scalar {
    let top = z.max() ?? -.infinity
    guard top > -.infinity else { return top }
    return top + Scalar.logarithm(z.reduce(0) { $0 + Scalar.exponential($1 - top) })
  }

  private func logits(of t: Int, pass: Int) -> (keys: [Int], logits: [Scalar]) {
    let problem = reference.problem
    let mode = problem.pattern.chain[pass]
    guard t < problem.shape.length(sequence) else { return ([], []) }
    let keys = reference.keys(of: t, mode: mode, length: problem.shape.length(sequence))
    let isJoint = problem.pattern.normalization == .joint && pass > 0
    let z = keys.map { key -> Scalar in
      if isJoint, key == t { return logSumExp(logits(of: t, pass: pass - 1).logits) }
      var z = problem.scale * product(t, key, pass: pass, places: (t - key) / mode.stride)
      if key != t { z += problem.beta(mode, head: head) }
      if let index = problem.biasIndex(mode, head: head, query: t, key: key) {
        z += problem.biases[mode.index - 1]?[index] ?? 0
      }
      return z
    }
    return (keys, z)
  }

  /// ⟨R q_t, R k_t'⟩ of tokens a number of places apart: with angle φ between them and halves (a, b),
  /// Σ_i cos φ_i (q_a k_a + q_b k_b) + sin φ_i (q_a k_b − q_b k_a).
  private func product(_ t: Int, _ key: Int, pass: Int, places: Int) -> Scalar {
    let (problem, shape) = (reference.problem, reference.problem.shape)
    let row = reference.queryRow(sequence, head, t)
    let keyRow = (sequence * shape.keyHeads + head / shape.group) * shape.tokens + key
    guard !turns[pass].isEmpty else {
      return reference.dot(problem.queries, row, problem.keys, keyRow)
    }
    let (q, k, half) = (row * shape.width, keyRow * shape.width, shape.width / 2)
    let direction: Scalar = places < 0 ? -1 : 1
    var sum: Scalar = 0
    for (i, turn) in turns[pass][abs(places)].enumerated() {
      let (qa, qb) = (problem.queries[q + i], problem.queries[q + half + i])
      let (ka, kb) = (problem.keys[k + i], problem.keys[k + half + i])
      sum += turn.cosine * (qa * ka + qb * kb) + direction * turn.sine * (qa * kb - qb * ka)
    }
    return sum
  }
}
