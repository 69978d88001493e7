import Folding
import TensorizedAttention
import Testing
import Torch

/// Every kernel once on a small shape: what `compute-sanitizer` examines, which slows a kernel down a
/// hundredfold (Documentation/CUDAKernels.md, "Run it").
@Suite(.enabled(if: Runtime.cudaDeviceCount > 0, "no CUDA device: libtorch sees none"))
struct CUDASmallTests {
  /// Short modes whose passes share a launch of clusters.
  static let clusters: [Trial] = [
    // forwardCluster and backwardFusedWarpgroup: clusters of four and of sixteen, rows that are no tokens.
    Trial(
      fold: [2, 16, 16], support: .blockCausal, normalization: .joint, heads: 2, keyHeads: 1,
      tokens: 430, width: 64, lengths: [430, 200], biases: false),
    Trial(
      fold: [2, 32, 32], support: .block, heads: 2, keyHeads: 2, tokens: 2048, width: 128,
      biases: false),
    Trial(
      fold: [1, 27, 30], support: .blockCausal, heads: 1, keyHeads: 1, tokens: 800, width: 128),
    // forwardCluster with the third pass.
    Trial(
      fold: [4, 16, 16], support: .blockCausal, normalization: .joint, heads: 9, keyHeads: 3,
      tokens: 1000, width: 64, lengths: [1000, 900, 1000, 1, 256, 257, 999, 1000],
      layout: .tokensFirst, biases: false),
    // forwardWarpgroup with two passes, whose blocks wait for each other.
    Trial(
      fold: [2, 128, 64], support: .blockCausal, heads: 4, keyHeads: 2, tokens: 8200, width: 128,
      biases: false),
    // forwardFused and backwardFused.
    Trial(
      fold: [2, 16, 16], support: .blockCausal, normalization: .joint, rotary: Rotary(.mode),
      heads: 2, keyHeads: 1, tokens: 430, width: 64, biases: false),
  ]

  /// Passes of blocks that share nothing.
  static let blocks: [Trial] = [
    // forwardShort and backwardShortWarpgroup; backwardShort and biasGradient.
    Trial(
      fold: [3, 40], support: .slidingCausal, normalization: .joint, heads: 2, keyHeads: 1,
      tokens: 110, width: 128, lengths: [110, 50], biases: false),
    Trial(
      fold: [3, 40], support: .slidingCausal, rotary: Rotary(.mode), heads: 2, keyHeads: 1,
      tokens: 110, width: 40),
    // forwardWarpgroup and backwardWarpgroup…: a ring that holds a window, a fiber, and neither.
    Trial(
      fold: [2, 130], support: .slidingCausal, normalization: .joint, rotary: Rotary(.mode),
      heads: 2, keyHeads: 1, tokens: 250, width: 128, lengths: [250, 140], biases: false),
    Trial(
      fold: [150, 2], support: .slidingCausal, rotary: Rotary(.sequence), heads: 2, keyHeads: 2,
      tokens: 299, width: 64, layout: .tokensFirst, biases: false),
    Trial(
      fold: [1, 400], support: .block, heads: 1, keyHeads: 1, tokens: 390, width: 128,
      biases: false),
    // backwardWarpgroupWhole and turnQueriesBack: fibers of four tiles, whose D the kernel forms, and of two, added to a
    // pass above.
    Trial(
      fold: [256, 2], support: .slidingCausal, normalization: .joint, rotary: Rotary(.mode),
      heads: 2, keyHeads: 2, tokens: 512, width: 128, biases: false),
    // The same, turned back by the pass below.
    Trial(
      fold: [128, 64], support: .slidingCausal, normalization: .joint, rotary: Rotary(.mode),
      heads: 1, keyHeads: 1, tokens: 8192, width: 128, biases: false),
    // backwardWarpgroupWindow, which adds to what it turns back and to what it does not.
    Trial(
      fold: [128, 128], support: .slidingCausal, normalization: .joint, rotary: Rotary(.mode),
      heads: 1, keyHeads: 1, tokens: 16_384, width: 128, biases: false),
    Trial(
      fold: [65, 65, 2], support: .slidingCausal, heads: 1, keyHeads: 1, tokens: 8448, width: 128,
      biases: false),
    Trial(
      fold: [2, 128], support: .blockCausal, heads: 2, keyHeads: 2, tokens: 256, width: 128,
      biases: false),
    // forwardLong, backwardLongQuery and backwardLongKey.
    Trial(
      fold: [2, 100], support: .slidingCausal, normalization: .joint, rotary: Rotary(.mode),
      heads: 2, keyHeads: 1, tokens: 190, width: 40),
  ]

  /// In f32: kernels without warpgroups.
  static let single: [Trial] = [
    Trial(fold: [3, 10], support: .blockCausal, heads: 2, keyHeads: 1, tokens: 29, width: 32),
    Trial(
      fold: [2, 80], support: .slidingCausal, normalization: .joint, rotary: Rotary(.mode),
      heads: 2, keyHeads: 1, tokens: 150, width: 64),
  ]

  @Test("clusters err at most twice what the composition errs", arguments: clusters)
  func cluster(trial: Trial) { expectHalfPrecision(trial, .bfloat16) }

  @Test("blocks err at most twice what the composition errs", arguments: blocks)
  func block(trial: Trial) { expectHalfPrecision(trial, .bfloat16) }

  @Test("f32 equals the f64 reference", arguments: single)
  func blockFloat32(trial: Trial) {
    expectAgreement(
      trial.run(.cuda, dtype: .float32, device: .cuda()),
      trial.run(.reference, dtype: .float64, rounded: .float32), epsilon: 0x1p-21,
      terms: Double(trial.tokens))
  }

  @Test("steps of decoding equal the whole sequence")
  func clusterDecode() {
    var numbers = Numbers(seed: 3)
    let tokens = 40
    let make = { (heads: Int) in numbers.tensor([2, heads, tokens, 64], .bfloat16).to(.cuda()) }
    let (q, k, v) = (make(4), make(2), make(2))
    let pattern = AttentionPattern(
      fold: Fold([4, 3, 5]), support: .blockCausal, rotary: Rotary(.sequence))
    let whole = tensorizedAttention(
      queries: q, keys: k, values: v, pattern: pattern, backend: .cuda
    ).output
    let cache = TensorizedAttentionCache(pattern: pattern)
    for start in 0..<tokens {
      let part = { (t: Tensor) in t.narrow(axis: 2, from: start, count: 1) }
      let rows = cache.attend(queries: part(q), keys: part(k), values: part(v))
      let error = (rows - part(whole)).abs().max().item(Double.self)
      #expect(error <= 0.06, "token \(start): error \(error)")
    }
  }
}

/// Expects a half type's output and gradients to err at most twice what the composition in the same type does.
func expectHalfPrecision(
  _ trial: Trial, _ dtype: DType, sourceLocation: SourceLocation = #_sourceLocation
) {
  // In f64 it is the reference (see BackendTests), which takes a processor minutes for all trials.
  let reference = pooled(
    trial.run(.composed, dtype: .float64, device: .cuda(), rounded: dtype))
  let composed = pooled(trial.run(.composed, dtype: dtype, device: .cuda(), rounded: dtype))
  let found = pooled(trial.run(.cuda, dtype: dtype, device: .cuda(), rounded: dtype))
  let unit = dtype == .bfloat16 ? 0x1p-9 : 0x1p-12
  for index in reference.indices {
    let expected = reference[index].values
    // Where the composition happens to be exact, one rounding of the result remains.
    let size = expected.reduce(0) { $0 + $1 * $1 }.squareRoot()
    let bound = 2 * distance(composed[index].values, expected) + 2 * unit * size + 1e-6
    let error = distance(found[index].values, expected)
    #expect(
      error <= bound, "\(reference[index].name): error \(error) exceeds \(bound)",
      sourceLocation: sourceLocation)
  }
}

private func distance(_ x: [Double], _ y: [Double]) -> Double {
  zip(x, y).reduce(0) { $0 + ($1.0 - $1.1) * ($1.0 - $1.1) }.squareRoot()
}

/// The gradients of all mode biases as one: of a bias of two entries, an error is a single draw, and
/// the composition's may be small by luck.
private func pooled(
  _ results: [(name: String, values: [Double])]
) -> [(name: String, values: [Double])] {
  let biases = results.filter { $0.name.hasPrefix("dbias") }
  return results.filter { !$0.name.hasPrefix("dbias") } + [("dbias", biases.flatMap(\.values))]
}
