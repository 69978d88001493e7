import AttentionCPU
import AttentionCore
import Folding
import Torch

/// Tensorized attention: the sequence is folded into an order-m tensor and attended along each mode,
/// so that a token meets Σ n_k keys instead of N.
///
/// The passes run along the pattern's chain of modes, each on the running values u of the one before
/// (u = v at first):
///
///     z(t,t') = scale·⟨R_k q_t, R_k k_t'⟩ + β_k[h]·[t' ≠ t] + bias_k(t,t')
///     u'(t)   = Σ_t' softmax_t'(z) u(t')
///
/// over the tokens t' of t's line in mode k that the support shows. In joint normalization every pass
/// after the lowest takes the log-sum-exp of the pass below as its diagonal logit z(t,t). A query that
/// sees no key returns 0 and log-sum-exp −∞.
///
/// Differentiable in queries, keys, values, β and the mode biases, and through both results. The same
/// input gives bitwise the same output and gradients for any number of threads.
///
/// Letters: B batch, H query heads, G key/value heads, N tokens, D head width, m order.
///
/// - Parameters:
///   - queries: `[B, H, N, D]`, or `[B, N, H, D]` with `Layout.tokensFirst`; any strides.
///   - keys: the same with G heads; H is a multiple of G.
///   - values: as keys.
///   - pattern: fold, support, normalization, order of the passes, rotary positions.
///   - scale: the factor on the logits, 1/√D if nil.
///   - beta: `[m, H]`; the row of the lowest mode is ignored. One logit a head and mode for all keys
///     but the query's own.
///   - modeBiases: the additive bias or mask of mode k at index k − 1: `[H or 1, n_k, n_k]` by
///     coordinates (query, key) for the block supports, `[H or 1, n_k]` by distance for the sliding
///     one; nil for none. −∞ hides a key.
///   - lengths: the number of real tokens of each sequence; those beyond are padding.
///   - layout: the order of the axes.
///   - backend: which implementation attends.
/// - Returns: the output in the layout of the queries, and the log-sum-exp `[B, H, N]` of the last
///   pass.
/// - Precondition: shapes and types agree, and the fold holds N tokens if the support is a block one.
/// - Complexity: O(B·H·N·Σ n_k·D) time; O(B·H·N·D) memory beyond the output, m times that if
///   gradients are recorded.
///
/// Source: Feng, Ying, Tassiulas, "Long Sequence Modeling with Attention Tensorization" (2024),
/// Algorithm 1, for block supports with per-mode normalization from high to low.
public func tensorizedAttention(
  queries: Tensor, keys: Tensor, values: Tensor, pattern: AttentionPattern, scale: Double? = nil,
  beta: Tensor? = nil, modeBiases: [Tensor?] = [], lengths: [Int]? = nil,
  layout: Layout = .headsFirst, backend: Backend = .automatic
) -> (output: Tensor, logSumExp: Tensor) {
  let call = AttentionCall(
    queries: queries, keys: keys, values: values, pattern: pattern, scale: scale, beta: beta,
    modeBiases: modeBiases, lengths: lengths, layout: layout)
  let resolved: Backend
  do {
    resolved = try backend.resolved(dtype: queries.dtype, device: queries.device)
  } catch {
    fatalError("\(error)")
  }
  switch resolved {
  case .reference: return call.attendByReference()
  case .cpu: return call.attendOnCPU()
  case .cuda:
    guard let objection = call.cudaObjection else { return call.attendOnCUDA() }
    ComposedFallback.log(objection)
    let (output, lse) = call.attendComposed()
    return (output, lse ?? .empty([call.shape.batch, call.shape.heads, 0]))
  case .composed, .automatic:
    let (output, lse) = call.attendComposed()
    return (output, lse ?? .empty([call.shape.batch, call.shape.heads, 0]))
  }
}

/// A call of the operator whose shapes have been checked.
struct AttentionCall {
  let queries: Tensor
  let keys: Tensor
  let values: Tensor
  let pattern: AttentionPattern
  let scale: Double
  let beta: Tensor?
  /// One entry a mode.
  let modeBiases: [Tensor?]
  let layout: Layout
  let shape: AttentionShape

  init(
    queries: Tensor, keys: Tensor, values: Tensor, pattern: AttentionPattern, scale: Double?,
    beta: Tensor?, modeBiases: [Tensor?], lengths: [Int]?, layout: Layout
  ) {
    let described =
      "queries \(queries.shape), keys \(keys.shape), values \(values.shape) in \(layout.rawValue)"
    require(
      queries.rank == 4 && keys.rank == 4 && values.rank == 4,
      "Attention takes tensors of four axes, got \(described).")
    let (heads, tokens) = layout == .headsFirst ? (1, 2) : (2, 1)
    require(
      keys.shape == values.shape && queries.size(0) == keys.size(0)
        && queries.size(3) == keys.size(3) && queries.size(tokens) == keys.size(tokens),
      "Queries, keys and values must agree in B, N and D, got \(described).")
    require(
      queries.size(heads) % max(keys.size(heads), 1) == 0,
      "The query heads must be a multiple of the key/value heads, got \(described).")
    require(
      queries.dtype == keys.dtype && queries.dtype == values.dtype
        && queries.device == keys.device && queries.device == values.device,
      "Queries, keys and values must agree in type and device, got "
        + "\(queries.dtype) on \(queries.device), \(keys.dtype) on \(keys.device), "
        + "\(values.dtype) on \(values.device).")
    shape = AttentionShape(
      batch: queries.size(0), heads: queries.size(heads), keyHeads: keys.size(heads),
      tokens: queries.size(tokens), width: queries.size(3), lengths: lengths)
    if let objection = pattern.objection(tokens: shape.tokens) { fatalError(objection) }
    self.queries = queries
    self.keys = keys
    self.values = values
    self.pattern = pattern
    self.scale = scale ?? shape.defaultScale
    self.beta = beta
    self.modeBiases = modeBiases + pattern.fold.modes.dropFirst(modeBiases.count).map { _ in nil }
    self.layout = layout
    checkBiases()
  }

  private func checkBiases() {
    let (order, heads) = (pattern.fold.order, shape.heads)
    require(
      beta.map { $0.shape == [order, heads] && $0.dtype == queries.dtype } ?? true,
      "Expected beta [\(order), \(heads)] of \(queries.dtype), got \(beta?.shape ?? []) of "
        + "\(beta?.dtype ?? queries.dtype).")
    require(
      modeBiases.count == order,
      "The fold \(pattern.fold) has \(order) modes, got \(modeBiases.count) mode biases.")
    for (bias, mode) in zip(modeBiases, pattern.fold.modes) {
      let tail =
        pattern.support == .slidingCausal ? [mode.size] : [mode.size, mode.size]
      require(
        bias.map {
          ($0.shape == [1] + tail || $0.shape == [heads] + tail) && $0.dtype == queries.dtype
        } ?? true,
        "The bias of mode \(mode.index) needs the shape [1 or \(heads)] + \(tail) of "
          + "\(queries.dtype), got \(bias?.shape ?? []).")
    }
  }

  /// Every tensor by which the operator is differentiated: q, k, v, β if given, the biases given.
  var inputs: [Tensor] { [queries, keys, values] + (beta.map { [$0] } ?? []) + givenBiases }

  /// The biases that are there.
  var givenBiases: [Tensor] { modeBiases.compactMap { $0 } }

  /// The shape of the output.
  var outputShape: [Int] { queries.shape }
}
