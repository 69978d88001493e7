import AttentionCore
import Folding
import TensorizedAttention
import Testing
import Torch

/// Whether a GPU is here that libtorch can use.
private let hasGPU = Runtime.cudaDeviceCount > 0

// Trials run side by side, so that a machine that sees them first compiles their kernels on all cores.
@Suite(.enabled(if: hasGPU, "no CUDA device: libtorch sees none"))
struct CUDATests {
  /// Block supports whose two lowest modes share a launch: full and ragged blocks, padding, grouped heads.
  static let fused: [Trial] = [Support.block, .blockCausal].flatMap { support in
    [
      Trial(
        fold: [3, 32, 32], support: support, keyHeads: 4, tokens: 2500, width: 128,
        lengths: [2500, 1030],
        biases: false),
      Trial(
        fold: [3, 16, 64], support: support, normalization: .joint, rotary: Rotary(.mode),
        heads: 4, keyHeads: 2, tokens: 2100, width: 64, layout: .tokensFirst, biases: false),
      Trial(
        fold: [2, 32, 32], support: support, normalization: .joint, heads: 4, keyHeads: 2,
        tokens: 2048, width: 128, lengths: [2048, 1500], layout: .tokensFirst),
      Trial(
        fold: [9, 16, 16], support: support, normalization: .joint, tokens: 2200, width: 64,
        lengths: [2200, 700], biases: false),
      Trial(fold: [3, 27, 30], support: support, tokens: 2155, width: 128),
      Trial(fold: [40, 5, 13], support: support, tokens: 2555, width: 128),
      Trial(
        fold: [2, 12, 24], support: support, normalization: .joint, tokens: 570, width: 40,
        lengths: [570, 300]),
      Trial(fold: [4, 8, 8], support: support, keyHeads: 4, tokens: 256, width: 80, biases: false),
      // Whole blocks without padding: backward, tensor memory access copies rows.
      Trial(fold: [3, 32, 32], support: support, tokens: 3072, width: 128, biases: false),
      Trial(
        fold: [32, 32], support: support, normalization: .joint, heads: 6, keyHeads: 2,
        tokens: 1024, width: 128, layout: .tokensFirst, biases: false),
      Trial(
        fold: [5, 64, 16], support: support, normalization: .joint, heads: 4, keyHeads: 4,
        tokens: 3072, width: 64, biases: false),
      Trial(
        fold: [3, 8, 64], support: support, heads: 4, keyHeads: 1, tokens: 1024, width: 128,
        biases: false),
    ]
  }

  /// Three modes that share a launch, with enough rows for it.
  static let chained: [Trial] = [
    Trial(
      fold: [3, 32, 32], support: .blockCausal, heads: 12, keyHeads: 4, tokens: 3000, width: 128,
      lengths: [3000, 2100], biases: false),
    Trial(
      fold: [4, 16, 16], support: .block, normalization: .joint, heads: 8, tokens: 1000, width: 64,
      lengths: [1000, 900, 800, 700, 1000, 1, 256, 257, 999], layout: .tokensFirst),
    Trial(
      fold: [2, 2, 32, 32], support: .blockCausal, normalization: .joint, heads: 18, keyHeads: 6,
      tokens: 2048, width: 64, lengths: [2048, 2048], biases: false),
  ]

  /// Whole fibers without padding, whose backward pass is one launch: of four tiles and of two, below a short pass and below
  /// a long one, which leaves D; rotated ones without a pass above, whose ∂/∂q is turned back at last or by the pass
  /// below. Windows below long passes, which leave them D: one launch, too, turning back what lies there and not, over
  /// consecutive tokens and every other one.
  static let whole: [Trial] = [
    Trial(
      fold: [256, 2], support: .slidingCausal, normalization: .joint, heads: 2, keyHeads: 2,
      tokens: 512, width: 128, biases: false),
    Trial(
      fold: [3, 256], support: .blockCausal, normalization: .joint, heads: 2, keyHeads: 2,
      tokens: 768, width: 128, layout: .tokensFirst, biases: false),
    Trial(
      fold: [256, 2], support: .slidingCausal, normalization: .joint, rotary: Rotary(.mode),
      heads: 3, keyHeads: 3, tokens: 512, width: 128, layout: .tokensFirst, biases: false),
    Trial(
      fold: [128, 64], support: .slidingCausal, normalization: .joint, rotary: Rotary(.mode),
      heads: 2, keyHeads: 2, tokens: 8192, width: 128, biases: false),
    Trial(
      fold: [128, 128], support: .slidingCausal, normalization: .joint, rotary: Rotary(.mode),
      heads: 2, keyHeads: 2, tokens: 16_384, width: 128, biases: false),
    Trial(
      fold: [70, 128], support: .slidingCausal, normalization: .joint, heads: 1, keyHeads: 1,
      tokens: 8960, width: 128, layout: .tokensFirst, biases: false),
    Trial(
      fold: [128, 100], support: .slidingCausal, rotary: Rotary(.sequence), heads: 3, keyHeads: 3,
      tokens: 12_800, width: 128, biases: false),
    Trial(
      fold: [65, 65, 2], support: .slidingCausal, rotary: Rotary(.mode), heads: 1, keyHeads: 1,
      tokens: 8448, width: 128, biases: false),
    Trial(
      fold: [128, 128], support: .blockCausal, rotary: Rotary(.mode), heads: 1, keyHeads: 1,
      tokens: 16_384, width: 128, layout: .tokensFirst, biases: false),
    Trial(
      fold: [128, 3], support: .blockCausal, rotary: Rotary(.sequence), heads: 2, keyHeads: 2,
      tokens: 384, width: 128, biases: false),
    Trial(
      fold: [66, 128], support: .blockCausal, heads: 2, keyHeads: 2, tokens: 8448, width: 128,
      biases: false),
  ]

  /// Two long modes that share a launch, with enough rows for it: whole blocks of both, ragged ones, padding, grouped heads.
  static let paired: [Trial] = [
    Trial(
      fold: [3, 128, 64], support: .blockCausal, heads: 2, keyHeads: 1, tokens: 9000, width: 128,
      lengths: [9000, 4321], biases: false),
    Trial(
      fold: [1, 128, 64], support: .blockCausal, normalization: .joint, heads: 4, tokens: 8192,
      width: 128, layout: .tokensFirst, biases: false),
    Trial(
      fold: [192, 64], support: .block, normalization: .joint, heads: 2, keyHeads: 1,
      tokens: 12_000, width: 128, lengths: [12_000, 9000], layout: .tokensFirst, biases: false),
    Trial(
      fold: [128, 128], support: .blockCausal, heads: 4, keyHeads: 1, tokens: 10_001, width: 128,
      biases: false),
    Trial(
      fold: [256, 64], support: .blockCausal, normalization: .joint, heads: 1, keyHeads: 1,
      tokens: 16_384, width: 64, lengths: [16_384, 12_345], biases: false),
  ]

  static let trials: [Trial] =
    fused
    + Support.allCases.flatMap { support in
      [
        Trial(
          fold: [5, 13], support: support, normalization: .joint, rotary: Rotary(.mode), tokens: 63,
          width: 32),
        Trial(
          fold: [4, 4, 8], support: support, rotary: Rotary(.sequence, base: 500), heads: 6,
          keyHeads: 2, tokens: 128, width: 128, lengths: [128, 13, 0, 77], layout: .tokensFirst),
        Trial(
          fold: [3, 100], support: support, normalization: .joint, rotary: Rotary(.mode),
          tokens: 290, width: 64, lengths: [290, 111]),
        Trial(
          fold: [2, 3, 2, 3], support: support, order: .highToLow, rotary: Rotary(.mode),
          tokens: 31,
          width: 40),
        Trial(
          fold: [200, 3], support: support, normalization: .joint, heads: 2, keyHeads: 1,
          tokens: 500, width: 256),
        // Short sliding fibers.
        Trial(
          fold: [6, 40], support: support, normalization: .joint, tokens: 230, width: 128,
          lengths: [230, 90], biases: false),
        // Fibers that a ring of tiles in shared memory cannot hold.
        Trial(
          fold: [2, 350], support: support, normalization: .joint, rotary: Rotary(.mode), heads: 2,
          keyHeads: 1, tokens: 640, width: 128, biases: false),
        // Long fibers without biases, whose backward pass has kernels of its own: one head's keys and grouped ones,
        // a ring that holds a window or a fiber and one that does not, ragged ends and padding.
        Trial(
          fold: [6, 130], support: support, normalization: .joint, rotary: Rotary(.mode), heads: 3,
          keyHeads: 3, tokens: 700, width: 128, lengths: [700, 333], biases: false),
        Trial(
          fold: [260, 3], support: support, rotary: Rotary(.sequence), heads: 4, keyHeads: 2,
          tokens: 777, width: 64, lengths: [777, 70], layout: .tokensFirst, biases: false),
        Trial(
          fold: [2, 500], support: support, normalization: .joint, heads: 2, keyHeads: 2,
          tokens: 900, width: 64, biases: false),
        // Windows of whole tiles, two and three of which a block of queries sees.
        Trial(
          fold: [7, 64], support: support, normalization: .joint, heads: 2, keyHeads: 1,
          tokens: 430, width: 64, lengths: [430, 201], biases: false),
        Trial(
          fold: [3, 128, 2], support: support, normalization: .joint, rotary: Rotary(.mode),
          heads: 2,
          keyHeads: 2, tokens: 610, width: 128, biases: false),
        // The halves of a head that rotate together lie in different lanes of the tensor cores.
        Trial(
          fold: [3, 80], support: support, rotary: Rotary(.sequence), heads: 2, keyHeads: 1,
          tokens: 230, width: 136, biases: false),
        Trial(fold: [4, 4], support: support, tokens: 1, width: 80, biases: false),
      ]
    }

  @Test("f32 equals the f64 reference", arguments: trials)
  func single(trial: Trial) {
    // Three tf32 products keep about 21 bits, and the tensor cores truncate sums.
    expectAgreement(
      trial.run(.cuda, dtype: .float32, device: .cuda()),
      trial.run(.reference, dtype: .float64, rounded: .float32), epsilon: 0x1p-21,
      terms: Double(trial.tokens))
  }

  // More fibers than blocks that sum a bias's gradient, short and long ones.
  @Test(
    "gradients that sum over many fibers equal the f64 reference",
    arguments: [
      Trial(
        fold: [16, 16, 16], support: .blockCausal, heads: 9, keyHeads: 3, tokens: 4096, width: 32),
      Trial(
        fold: [130, 20], support: .block, normalization: .joint, tokens: 2600, width: 32),
      Trial(
        fold: [130, 20], support: .slidingCausal, normalization: .joint, tokens: 2600, width: 32),
    ])
  func fibers(trial: Trial) {
    expectAgreement(
      trial.run(.cuda, dtype: .float32, device: .cuda()),
      trial.run(.reference, dtype: .float64, rounded: .float32), epsilon: 0x1p-21, terms: 500)
  }

  @Test(
    "half types err at most twice what the same-type composition errs",
    arguments: trials + chained + paired + whole + several + followed,
    [DType.bfloat16, .float16])
  func half(trial: Trial, dtype: DType) { expectHalfPrecision(trial, dtype) }

  @Test("two runs agree bit by bit", arguments: trials + chained + paired + whole)
  func repeatable(trial: Trial) {
    let first = trial.run(.cuda, dtype: .bfloat16, device: .cuda())
    let second = trial.run(.cuda, dtype: .bfloat16, device: .cuda())
    for (x, y) in zip(first, second) { #expect(x.values == y.values, "\(x.name)") }
  }

  /// More work than multiprocessors: blocks and clusters take several tiles each, one after the other, in passes of one
  /// launch and of two.
  static let several: [Trial] = [
    Trial(
      fold: [5, 32, 32], support: .blockCausal, heads: 8, keyHeads: 8, tokens: 5120, width: 64,
      biases: false),
    Trial(
      fold: [6, 16, 16], support: .block, normalization: .joint, heads: 9, keyHeads: 3,
      tokens: 1500, width: 128, lengths: [1500, 1111], biases: false),
    Trial(
      fold: [40, 48], support: .blockCausal, normalization: .joint, heads: 8, keyHeads: 4,
      tokens: 1920, width: 128, layout: .tokensFirst, biases: false),
  ]

  /// Long passes that begin with the heads that the pair below has written: ragged fibers, padding, grouped heads.
  static let followed: [Trial] = [
    Trial(
      fold: [70, 16, 16], support: .blockCausal, heads: 4, keyHeads: 2, tokens: 17_000, width: 128,
      biases: false),
    Trial(
      fold: [66, 16, 16], support: .block, heads: 2, keyHeads: 1, tokens: 16_896, width: 64,
      lengths: [16_896, 9001], layout: .tokensFirst),
  ]

  // What a warp hands back too early is overwritten in few runs only, and sooner where all rows come from L2.
  @Test(
    "many runs agree bit by bit",
    arguments: [
      Trial(
        fold: [256, 2], support: .slidingCausal, normalization: .joint, rotary: Rotary(.mode),
        heads: 2, keyHeads: 2, tokens: 1100, width: 128, lengths: [1100, 333], biases: false),
      Trial(
        fold: [64, 2], support: .slidingCausal, rotary: Rotary(.mode), heads: 4, keyHeads: 2,
        tokens: 1500, width: 128, biases: false),
      Trial(
        fold: [192, 64], support: .blockCausal, heads: 4, keyHeads: 2, tokens: 12_200, width: 128,
        biases: false),
      // Clusters leave multiprocessors idle for the pass above.
      Trial(
        fold: [66, 24, 24], support: .blockCausal, heads: 3, keyHeads: 3, tokens: 38_000, width: 64,
        biases: false),
    ] + whole + several + followed)
  func repeatedly(trial: Trial) {
    let first = trial.run(.cuda, dtype: .bfloat16, device: .cuda())
    for run in 1...20 {
      for (x, y) in zip(first, trial.run(.cuda, dtype: .bfloat16, device: .cuda())) {
        #expect(x.values == y.values, "\(x.name), run \(run)")
      }
    }
  }

  /// Long passes with a launch each: windows below and above long fibers, long fibers above and below short ones.
  static let long: [Trial] = [
    Trial(
      fold: [256, 8], support: .slidingCausal, normalization: .joint, rotary: Rotary(.mode),
      tokens: 2048, width: 128, biases: false),
    Trial(
      fold: [70, 128], support: .slidingCausal, normalization: .joint, rotary: Rotary(.mode),
      heads: 2, tokens: 9000, width: 128, lengths: [9000, 4321], biases: false),
    Trial(
      fold: [3, 100, 5], support: .blockCausal, normalization: .joint, tokens: 1300, width: 64,
      layout: .tokensFirst, biases: false),
    Trial(
      fold: [5, 100], support: .slidingCausal, order: .highToLow, tokens: 480, width: 64,
      biases: false),
    Trial(fold: [130, 6], support: .block, tokens: 780, width: 64, biases: false),
    // Above pairs whose ℓ' nobody reads, with blocks that stay and with blocks that come and go.
    Trial(
      fold: [70, 16, 16], support: .blockCausal, heads: 2, keyHeads: 1, tokens: 17_700, width: 128,
      biases: false),
    Trial(fold: [70, 5, 13], support: .block, tokens: 4500, width: 64, biases: false),
    Trial(
      fold: [66, 32, 32], support: .blockCausal, heads: 2, keyHeads: 2, tokens: 67_000, width: 128,
      biases: false),
    // u' over u: fibers of several steps of queries, padded ones, and all that a ring of narrow tiles holds.
    Trial(
      fold: [200, 6], support: .block, normalization: .joint, heads: 3, keyHeads: 1, tokens: 1100,
      width: 128, lengths: [1100, 650, 0], biases: false),
    Trial(
      fold: [600, 7], support: .slidingCausal, normalization: .joint, rotary: Rotary(.mode),
      tokens: 4200, width: 64, lengths: [4200, 2999], layout: .tokensFirst, biases: false),
    Trial(
      fold: [130, 256, 4], support: .blockCausal, heads: 2, keyHeads: 1, tokens: 9000, width: 128,
      lengths: [9000, 7777], biases: false),
  ]

  // Without gradients, passes that share a launch write over what they have read, long ones read β as it is, and what
  // nobody reads is not written.
  @Test(
    "outputs are the same bits without gradients",
    arguments: chained + paired + long + whole + followed)
  func alone(trial: Trial) {
    var numbers = Numbers(seed: 5)
    let batch = trial.lengths?.count ?? 1
    let make = { (heads: Int) in
      numbers.tensor(
        trial.layout == .headsFirst
          ? [batch, heads, trial.tokens, trial.width] : [batch, trial.tokens, heads, trial.width],
        .bfloat16
      ).to(.cuda())
    }
    let (q, k, v) = (make(trial.heads), make(trial.keyHeads), make(trial.keyHeads))
    let beta = numbers.tensor([trial.fold.count, trial.heads], .bfloat16).to(.cuda())
    let run = {
      tensorizedAttention(
        queries: q, keys: k, values: v, pattern: trial.pattern, beta: beta,
        lengths: trial.lengths, layout: trial.layout, backend: .cuda)
    }
    let alone = run()
    q.requiresGrad = true
    let saved = run()
    #expect(alone.output.array(Double.self) == saved.output.array(Double.self))
    #expect(alone.logSumExp.array(Double.self) == saved.logSumExp.array(Double.self))
  }

  @Test(
    "steps and chunks equal the whole sequence",
    arguments: trials.filter { $0.support.isCausal && $0.lengths == nil && $0.tokens > 40 },
    [(DType.float32, 1e-4), (.bfloat16, 0.06)])
  func decode(trial: Trial, precision: (dtype: DType, bound: Double)) {
    var numbers = Numbers(seed: 3)
    let make = { (heads: Int) in
      numbers.tensor([2, heads, trial.tokens, trial.width], precision.dtype).to(.cuda())
    }
    let (q, k, v) = (make(trial.heads), make(trial.keyHeads), make(trial.keyHeads))
    let beta = numbers.tensor([trial.fold.count, trial.heads], precision.dtype).to(.cuda())
    let whole = tensorizedAttention(
      queries: q, keys: k, values: v, pattern: trial.pattern, beta: beta, backend: .cuda
    ).output
    let cache = TensorizedAttentionCache(pattern: trial.pattern)
    var start = 0
    for count in [1, 1, 20, 7, 1, trial.tokens - 31, 1] {
      let part = { (t: Tensor) in t.narrow(axis: 2, from: start, count: count) }
      let rows = cache.attend(queries: part(q), keys: part(k), values: part(v), beta: beta)
      let error = (rows - part(whole)).abs().max().item(Double.self)
      #expect(error <= precision.bound, "tokens \(start)..<\(start + count): error \(error)")
      start += count
    }
  }

  @Test("what no kernel covers runs through composed")
  func fallback() {
    var trial = Self.trials[0]
    trial.width = 24
    expectAgreement(
      trial.run(.cuda, dtype: .float32, device: .cuda()),
      trial.run(.reference, dtype: .float64, rounded: .float32), epsilon: 0x1p-20,
      terms: Double(trial.tokens))
  }
}

/// Runs where there is no GPU too: a trial that is none would end the process there, with all tests after it.
@Suite struct CUDATrialTests {
  @Test(
    "the GPU's trials fit their folds",
    arguments: CUDATests.trials + CUDATests.chained + CUDATests.paired + CUDATests.whole
      + CUDATests.several + CUDATests.followed + CUDATests.long
      + CUDASmallTests.clusters + CUDASmallTests.blocks + CUDASmallTests.single)
  func trials(trial: Trial) {
    #expect(trial.pattern.objection(tokens: trial.tokens) == nil)
    #expect(trial.heads % trial.keyHeads == 0)
    #expect(trial.lengths?.allSatisfy { (0...trial.tokens).contains($0) } ?? true)
  }
}
