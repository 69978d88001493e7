import AttentionCore
import Folding
import Foundation
import TensorizedAttention
import Torch

/// One line of the benchmark: a problem, whether its result is right, and what it costs.
///
/// Encoded with snake-case keys; times are medians in milliseconds, nil where not run.
public struct BenchmarkRow: Codable, Sendable {
  /// `cpu` or `cuda`.
  public var device: String
  /// N.
  public var n: Int
  /// H = G.
  public var heads: Int
  /// D.
  public var headDim: Int
  /// The fold, as `128x128`.
  public var fold: String
  /// The support.
  public var support: String
  /// The normalization.
  public var normalization: String
  /// Whether all errors are within their bound.
  public var correct: Bool
  /// The largest error, relative to the largest value of its tensor.
  public var maxError: Double
  /// The kernels, forward.
  public var forwardMs: Double?
  /// The kernels, forward and backward.
  public var forwardBackwardMs: Double?
  /// The same through libtorch's products and softmax.
  public var composedForwardMs: Double?
  /// The same, forward and backward.
  public var composedForwardBackwardMs: Double?
  /// The same through libtorch's fused attention on folded views, where that is possible.
  public var composedFusedForwardMs: Double?
  /// The same, forward and backward.
  public var composedFusedForwardBackwardMs: Double?
  /// A sliding window of 128 keys through libtorch.
  public var windowForwardMs: Double?
  /// Full causal attention through libtorch's fused kernel.
  public var fullForwardMs: Double?
  /// GFLOP/s forward, counting the products that the mask leaves.
  public var forwardGflops: Double?
  /// The rate of multiply-adds on registers, all threads together, measured in the same run.
  public var fmaPeakGflops: Double
  /// Their ratio.
  public var fmaPeakShare: Double?
  /// The growth of the resident size during a forward pass, less the output.
  public var extraBytes: Int?
  /// The same during forward and backward, less output and gradients.
  public var extraBytesBackward: Int?
}

/// A problem to measure.
public struct BenchmarkCase: Sendable {
  /// N.
  public var tokens: Int
  /// H = G.
  public var heads: Int
  /// D.
  public var width: Int
  /// The operator.
  public var pattern: AttentionPattern

  /// Describes a problem.
  public init(tokens: Int, heads: Int = 8, width: Int = 64, pattern: AttentionPattern) {
    self.tokens = tokens
    self.heads = heads
    self.width = width
    self.pattern = pattern
  }

  /// The rows that are measured unless others are asked for.
  public static let standard: [BenchmarkCase] = {
    func row(
      _ tokens: Int, _ fold: [Int], _ support: Support, _ normalization: Normalization = .perMode,
      heads: Int = 8
    ) -> BenchmarkCase {
      BenchmarkCase(
        tokens: tokens, heads: heads,
        pattern: AttentionPattern(
          fold: Fold(fold), support: support, normalization: normalization,
          rotary: normalization == .joint ? Rotary(.mode) : .none))
    }
    return [
      row(4096, [64, 64], .blockCausal), row(4096, [16, 16, 16], .blockCausal),
      row(16384, [128, 128], .blockCausal), row(16384, [32, 32, 16], .blockCausal),
      row(16384, [128, 128], .slidingCausal, .joint),
      row(131_072, [1024, 128], .blockCausal), row(131_072, [256, 32, 16], .blockCausal),
      row(1_048_576, [128, 128, 64], .blockCausal, heads: 1),
    ]
  }()

  /// (query, key) pairs of all passes and one head.
  var pairs: Int {
    pattern.fold.modes.reduce(0) { total, mode in
      let fibers = Fibers(mode: mode, support: pattern.support, tokens: tokens)
      return total
        + (0..<fibers.count).reduce(0) { sum, index in
          let count = fibers[index].count
          return sum + (0..<count).reduce(0) { $0 + fibers.keys(of: $1, count: count).count }
        }
    }
  }

  /// Floating-point operations forward: two products of D multiply-adds a pair.
  var flops: Double { Double(pairs) * Double(heads * width) * 4 }

  /// A short name.
  public var name: String {
    "\(tokens) \(pattern.fold) \(pattern.support.rawValue) \(pattern.normalization.rawValue)"
  }
}

/// Random inputs of a case.
struct BenchmarkInputs {
  let queries: Tensor
  let keys: Tensor
  let values: Tensor
  let upstream: Tensor
  /// β, in joint normalization.
  let beta: Tensor?

  init(_ problem: BenchmarkCase) {
    let shape = [1, problem.heads, problem.tokens, problem.width]
    manualSeed(20)
    (queries, keys) = (.randn(shape), .randn(shape))
    (values, upstream) = (.randn(shape), .randn(shape))
    beta =
      problem.pattern.normalization == .joint
      ? .randn([problem.pattern.fold.order, problem.heads]) : nil
  }

  /// The tensors that receive gradients.
  var leaves: [Tensor] { [queries, keys, values] }

  func setRequiresGrad(_ wanted: Bool) {
    for leaf in leaves {
      leaf.requiresGrad = wanted
      leaf.grad = nil
    }
  }
}
