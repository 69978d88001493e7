/// Draws training batches from a text. The batch of a step depends on the seed and the step alone,
/// so a resumed run sees exactly the batches that an uninterrupted one would have seen.
public struct BatchSampler: Sendable {
  /// The text.
  public let text: [UInt8]
  /// The number N of tokens in a sequence.
  public let context: Int
  /// The number B of sequences in a batch.
  public let batchSize: Int
  /// The seed of the draws.
  public let seed: UInt64

  /// Creates a sampler.
  ///
  /// - Throws: ``CorpusError/tooShort(part:bytes:needed:)`` if the text holds no whole context and
  ///   its targets.
  public init(text: [UInt8], context: Int, batchSize: Int, seed: UInt64) throws {
    precondition(
      context >= 1 && batchSize >= 1,
      "A batch needs at least one sequence of one token, got \(batchSize) of \(context).")
    guard text.count >= context + 1 else {
      throw CorpusError.tooShort(part: "training", bytes: text.count, needed: context + 1)
    }
    self.text = text
    self.context = context
    self.batchSize = batchSize
    self.seed = seed
  }

  /// The batch of a step: B windows that begin at independent, uniformly drawn places.
  ///
  /// - Parameters:
  ///   - step: the training step.
  ///   - part: which of the step's accumulated batches.
  public func batch(step: Int, part: Int = 0) -> Batch {
    let starts = (0..<batchSize).map { sequence in
      start(counter: [UInt64(step), UInt64(part), UInt64(sequence)])
    }
    return Batch(text: text, starts: starts, context: context)
  }

  /// A uniform start in `0 ... text.count − N − 1`.
  private func start(counter: [UInt64]) -> Int {
    let choices = UInt64(text.count - context)
    let bits = counter.reduce(mixed(seed)) { mixed($0 ^ mixed($1 &+ 0x9e37_79b9_7f4a_7c15)) }
    // The high word of bits · choices: uniform up to choices / 2⁶⁴.
    return Int(bits.multipliedFullWidth(by: choices).high)
  }
}

/// Sequences of tokens and, one further, their targets, both [B, N] in row-major order.
public struct Batch: Sendable, Hashable {
  /// B.
  public let batchSize: Int
  /// N.
  public let context: Int
  /// The tokens.
  public let inputs: [Int64]
  /// The token after each input.
  public let targets: [Int64]

  /// The windows of `context` tokens that begin at `starts`.
  ///
  /// - Precondition: every window and the token after it lie in the text.
  public init(text: [UInt8], starts: [Int], context: Int) {
    precondition(
      starts.allSatisfy { $0 >= 0 && $0 + context < text.count },
      "Windows of \(context) tokens at \(starts) do not fit a text of \(text.count).")
    batchSize = starts.count
    self.context = context
    inputs = starts.flatMap { text[$0..<($0 + context)].lazy.map(Int64.init) }
    targets = starts.flatMap { text[($0 + 1)...($0 + context)].lazy.map(Int64.init) }
  }
}

/// The finalizer of SplitMix64 (Steele, Lea, Flood 2014): a bijection of 64 bits in which every
/// input bit flips every output bit with probability one half.
func mixed(_ value: UInt64) -> UInt64 {
  var z = value
  z = (z ^ (z >> 30)) &* 0xbf58_476d_1ce4_e5b9
  z = (z ^ (z >> 27)) &* 0x94d0_49bb_1331_11eb
  return z ^ (z >> 31)
}
