/// How many pairs (query t, key t') of a sequence influence each other through all passes: whether
/// the output at t depends on the value at t'.
public struct Reach: Sendable, Hashable, Codable {
  /// The pairs of which the key influences the query, each token with itself included.
  public let reached: Int
  /// All pairs that the support could let meet: N(N+1)/2 if it is causal, N² if not.
  public let possible: Int

  /// Counts pairs.
  public init(reached: Int, possible: Int) {
    self.reached = reached
    self.possible = possible
  }

  /// reached / possible, 1 for an empty sequence.
  public var share: Double { possible == 0 ? 1 : Double(reached) / Double(possible) }

  /// Whether every key that a query may see influences it.
  public var isComplete: Bool { reached == possible }
}

extension AttentionPattern {
  /// How many pairs influence each other, counted in closed form.
  ///
  ///     slidingCausal: Σ_t min(t + 1, n_1·…·n_m): each distance is one sum of digits j_k·s_k
  ///     blockCausal:   Σ_t Π_k (a_k(t) + 1): the keys that are earlier in no coordinate later
  ///     block:         N² if N is a multiple of s_1; else without the pairs whose path would lead
  ///                    over a token beyond the end
  ///
  /// Neither the normalization nor the order of the passes changes the count.
  ///
  /// - Precondition: the fold holds the tokens if the support is a block one, and N² fits an `Int`.
  /// - Complexity: O(m).
  public func reach(tokens: Int) -> Reach {
    checkRoom(tokens)
    let (square, overflow) = tokens.multipliedReportingOverflow(by: tokens)
    require(!overflow, "The pairs of \(tokens) tokens do not fit an Int.")
    switch support {
    case .slidingCausal:
      let full = min(tokens, fold.capacity)
      return Reach(
        reached: full * (full + 1) / 2 + (tokens - full) * fold.capacity,
        possible: triangle(tokens))
    case .blockCausal:
      return Reach(
        reached: earlierPairs(tokens, modes: fold.modes[...]), possible: triangle(tokens))
    case .block:
      return Reach(reached: blockPairs(tokens), possible: square)
    }
  }

  /// n(n+1)/2 without overflow where the result fits.
  private func triangle(_ n: Int) -> Int { n % 2 == 0 ? n / 2 * (n + 1) : (n + 1) / 2 * n }

  /// Σ_{t < n} Π_k (a_k(t) + 1) over the given modes, top digit by top digit.
  private func earlierPairs(_ n: Int, modes: ArraySlice<Mode>) -> Int {
    guard let top = modes.first else { return min(n, 1) }
    let lower = modes.dropFirst()
    let whole = n / top.stride
    let inWhole = lower.reduce(1) { $0 * triangle($1.size) }
    return triangle(whole) * inWhole
      + (whole + 1) * earlierPairs(n % top.stride, modes: lower)
  }

  /// The pairs of the block support.
  ///
  /// On its way from t' to t a value passes the tokens (a'_1, …, a'_j, a_{j+1}, …, a_m). Let t' share
  /// its first e digits with N and be smaller in the next. Then these tokens lie before N exactly if
  /// t mod s_j < N mod s_j for j = 1, …, e. With N = Σ N_k s_k there are N_{e+1}·s_{e+1} such t', and
  /// (N_1 + 1)·…·(N_e + 1)·(N mod s_e) such t.
  private func blockPairs(_ n: Int) -> Int {
    var rest = n
    var partners = n
    var digits = 1
    var pairs = 0
    for mode in fold.modes {
      let digit = rest / mode.stride
      pairs += digit * mode.stride * partners
      rest %= mode.stride
      digits *= digit + 1
      partners = digits * rest
    }
    return pairs
  }

  private func checkRoom(_ tokens: Int) {
    require(tokens >= 0, "A sequence has 0 tokens or more, got \(tokens).")
    if let objection = objection(tokens: tokens) { fatalError(objection) }
  }
}

extension AttentionPattern {
  /// The tokens whose values influence the output at one token, in ascending order.
  ///
  /// - Complexity: O(N + s·Σ n_k), s the number of tokens found.
  public func sources(of token: Int, tokens: Int) -> [Int] {
    checkRoom(tokens)
    require(
      (0..<tokens).contains(token), "Token \(token) is none of the \(tokens) tokens.")
    var reached = [token]
    var isReached = [Bool](repeating: false, count: tokens)
    isReached[token] = true
    // Backwards from the output: what the last pass reads, what the pass before reads of that, …
    for mode in chain.reversed() {
      for query in reached {
        for key in keys(of: query, mode: mode, tokens: tokens) where !isReached[key] {
          isReached[key] = true
          reached.append(key)
        }
      }
    }
    return reached.sorted()
  }

  /// How many pairs influence each other, counted by propagating sets of tokens through the passes:
  /// the definition, against which ``reach(tokens:)`` is held.
  ///
  /// - Complexity: O(N²·Σ n_k / 64) time and O(N² / 64) memory; for small N.
  public func propagatedReach(tokens: Int) -> Reach {
    checkRoom(tokens)
    let words = (tokens + 63) / 64
    // Row t holds one bit for each token whose value has come to t so far.
    var sets = [UInt64](repeating: 0, count: tokens * words)
    for t in 0..<tokens { sets[t * words + t / 64] = 1 << (t % 64) }
    for mode in chain {
      var next = [UInt64](repeating: 0, count: sets.count)
      for t in 0..<tokens {
        for key in keys(of: t, mode: mode, tokens: tokens) {
          for word in 0..<words { next[t * words + word] |= sets[key * words + word] }
        }
      }
      sets = next
    }
    return Reach(
      reached: sets.reduce(0) { $0 + $1.nonzeroBitCount },
      possible: support.isCausal ? triangle(tokens) : tokens * tokens)
  }

  /// The tokens that a query sees in the pass of a mode, in ascending order.
  public func keys(of query: Int, mode: Mode, tokens: Int) -> StrideTo<Int> {
    let fibers = Fibers(
      mode: mode, support: support, tokens: tokens, queries: query..<query + 1)
    let line = fibers[0]
    let places = fibers.keys(of: line.queries.lowerBound, count: line.count)
    return stride(
      from: line.token(at: places.lowerBound), to: line.token(at: places.upperBound),
      by: mode.stride)
  }
}
