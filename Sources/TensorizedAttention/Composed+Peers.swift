import AttentionCore
import Folding
import Torch

// What the benchmark times beside the kernels.

/// The output alone, through libtorch operations: nothing is computed that only a log-sum-exp needs.
package func composedAttention(
  queries: Tensor, keys: Tensor, values: Tensor, pattern: AttentionPattern, beta: Tensor? = nil
) -> Tensor {
  AttentionCall(
    queries: queries, keys: keys, values: values, pattern: pattern, scale: nil, beta: beta,
    modeBiases: [], lengths: nil, layout: .headsFirst
  ).attendComposed(wantsLogSumExp: false).output
}

/// The output through libtorch's fused attention on folded views, `[B, H, N, D]`: the fastest that
/// libtorch offers. It serves the block supports in per-mode normalization, without positions, β or
/// biases, for whole folds; nil otherwise.
package func fusedComposedAttention(
  queries: Tensor, keys: Tensor, values: Tensor, pattern: AttentionPattern
) -> Tensor? {
  let (b, h, n, d) = (queries.size(0), queries.size(1), queries.size(2), queries.size(3))
  guard pattern.support != .slidingCausal, pattern.normalization == .perMode,
    pattern.rotary.positions == .none, n == pattern.fold.capacity, keys.size(1) == h
  else { return nil }
  var u = values
  for mode in pattern.chain {
    let groups = n / (mode.size * mode.stride)
    let lines = { (rows: Tensor) in
      rows.reshape([b * h * groups, mode.size, mode.stride, d]).transpose(1, 2)
    }
    let attended = scaledDotProductAttention(
      queries: lines(queries), keys: lines(keys), values: lines(u),
      isCausal: pattern.support == .blockCausal)
    u = attended.transpose(1, 2).reshape([b, h, n, d])
  }
  return u
}
