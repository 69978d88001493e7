import AttentionCore
import Folding
import TensorizedAttention
import Testing
import Torch

@Suite struct CacheTests {
  static let trials: [Trial] = [Support.blockCausal, .slidingCausal].flatMap { support in
    [
      Trial(
        fold: [5, 13], support: support, normalization: .joint, rotary: Rotary(.mode),
        tokens: 63, width: 16),
      Trial(
        fold: [3, 4, 6], support: support, rotary: Rotary(.sequence), tokens: 70, width: 40,
        layout: .tokensFirst),
      Trial(fold: [4, 20], support: support, order: .highToLow, tokens: 77, width: 8),
    ]
  }

  @Test(
    "steps and chunks equal the whole sequence", arguments: trials,
    [(DType.float32, 2e-5), (.float64, 1e-12)])
  func decode(trial: Trial, precision: (dtype: DType, bound: Double)) {
    var numbers = Numbers(seed: 3)
    let axis = trial.layout == .headsFirst ? 2 : 1
    let make = { (heads: Int) in
      numbers.tensor(
        trial.layout == .headsFirst
          ? [2, heads, trial.tokens, trial.width] : [2, trial.tokens, heads, trial.width],
        precision.dtype)
    }
    let (q, k, v) = (make(trial.heads), make(trial.keyHeads), make(trial.keyHeads))
    let beta = numbers.tensor([trial.fold.count, trial.heads], precision.dtype)
    let biases = trial.pattern.fold.modes.map { mode -> Tensor? in
      numbers.tensor(
        [trial.heads]
          + (trial.support == .slidingCausal ? [mode.size] : [mode.size, mode.size]),
        precision.dtype)
    }
    let whole = tensorizedAttention(
      queries: q, keys: k, values: v, pattern: trial.pattern, beta: beta, modeBiases: biases,
      layout: trial.layout
    ).output
    let cache = TensorizedAttentionCache(pattern: trial.pattern)
    var start = 0
    for count in [1, 1, 20, 7, 1, trial.tokens - 30] {
      let part = { (t: Tensor) in t.narrow(axis: axis, from: start, count: count) }
      let rows = cache.attend(
        queries: part(q), keys: part(k), values: part(v), beta: beta, modeBiases: biases,
        layout: trial.layout)
      let error = (rows - part(whole)).abs().max().item(Double.self)
      #expect(error <= precision.bound, "tokens \(start)..<\(start + count): error \(error)")
      start += count
    }
    #expect(cache.count == trial.tokens)
  }
}
