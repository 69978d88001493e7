import Foundation
import NN
import Torch

/// How the next token is drawn from a model's scores.
public struct Sampling: Sendable, Hashable {
  /// What scores are divided by; 0 takes the best token always.
  public var temperature: Double
  /// Draw among the k best tokens; nil among all.
  public var topK: Int?
  /// Draw among the fewest best tokens whose probabilities sum to at least p; nil among all.
  public var topP: Double?
  /// The seed of the draws.
  public var seed: UInt64

  /// Creates a way of drawing.
  public init(temperature: Double = 1, topK: Int? = nil, topP: Double? = nil, seed: UInt64 = 1) {
    precondition(temperature >= 0, "The temperature must not be negative, got \(temperature).")
    precondition(topK.map { $0 >= 1 } ?? true, "Top-k needs k of at least 1, got \(topK ?? 0).")
    precondition(
      topP.map { $0 > 0 && $0 <= 1 } ?? true, "Top-p needs 0 < p ≤ 1, got \(topP ?? 0).")
    self.temperature = temperature
    self.topK = topK
    self.topP = topP
    self.seed = seed
  }
}

/// Continues a text token by token; every layer's cache makes a token cost only itself.
public struct TextGenerator: Sequence, IteratorProtocol {
  private let model: any LanguageModel
  private let sampling: Sampling
  private var random: SplitMix64
  private var caches: [any AttentionCache]
  private var pending: [Int]

  /// Prepares to continue a prompt of at least one token.
  public init(model: any LanguageModel, prompt: [Int], sampling: Sampling) {
    precondition(!prompt.isEmpty, "A prompt needs at least one token.")
    precondition(
      prompt.allSatisfy { (0..<model.vocabularySize).contains($0) },
      "Prompt tokens must lie in 0..<\(model.vocabularySize).")
    self.model = model
    self.sampling = sampling
    random = SplitMix64(state: sampling.seed)
    caches = model.makeCaches()
    pending = prompt
  }

  /// The next token; never nil.
  public mutating func next() -> Int? {
    let scores = withNoGrad {
      let tokens = Tensor(pending, shape: [1, pending.count], device: model.device)
      let all = model(tokens, caches: caches)
      return all.select(axis: 1, -1).array(Double.self)
    }
    let token = draw(scores, sampling, &random)
    pending = [token]
    return token
  }
}

/// Draws a token from scores (logarithms of unnormalized probabilities).
package func draw(_ scores: [Double], _ sampling: Sampling, _ random: inout SplitMix64) -> Int {
  // Ties go to the lower token, so that equal scores give equal text.
  var order = scores.indices.sorted { (scores[$0], $1) > (scores[$1], $0) }
  guard sampling.temperature > 0 else { return order[0] }
  if let k = sampling.topK { order = Array(order.prefix(k)) }
  let best = scores[order[0]]
  var weights = order.map { exp((scores[$0] - best) / sampling.temperature) }
  if let p = sampling.topP {
    let target = p * weights.reduce(0, +)
    var sum = 0.0
    let kept = weights.firstIndex {
      sum += $0
      return sum >= target
    }
    weights = Array(weights.prefix((kept ?? weights.count - 1) + 1))
  }
  var place = random.uniform() * weights.reduce(0, +)
  for (token, weight) in zip(order, weights) {
    place -= weight
    if place < 0 { return token }
  }
  return order[weights.count - 1]
}

/// SplitMix64 (Steele, Lea, Flood 2014).
package struct SplitMix64 {
  package var state: UInt64

  package init(state: UInt64) { self.state = state }

  /// A number in [0, 1).
  package mutating func uniform() -> Double {
    state &+= 0x9e37_79b9_7f4a_7c15
    var z = state
    z = (z ^ (z >> 30)) &* 0xbf58_476d_1ce4_e5b9
    z = (z ^ (z >> 27)) &* 0x94d0_49bb_1331_11eb
    return Double((z ^ (z >> 31)) >> 11) * 0x1p-53
  }
}
