import AttentionCPU
import AttentionCore
import Folding
import Torch

/// Multi-mask tensorized self-attention: every pair of tokens has one alignment score a feature, the
/// sum of a token2token score of the pair and a source2token score of key and feature, and every head
/// has a positional mask of its own.
///
///     t_ij = scale·⟨q_i, k_j⟩,   E_t[i,j] = M_ij·φ_t(t_ij),   E_s[j,l] = φ_s(s_jl)
///     O_il = Σ_j E_t[i,j] E_s[j,l] v_jl / Σ_j E_t[i,j] E_s[j,l]
///
/// Per feature l that is a softmax over j of log φ_t(t_ij) + log φ_s(s_jl) + log M_ij. The tensor of
/// N·N·D scores is never formed: numerator and denominator are the products E_t·(V∘E_s) and E_t·E_s,
/// taken tile by tile. A query that sees no key returns 0 and has no gradient.
///
/// Differentiable in queries, keys, values and source logits. Logits of any size are served: where one
/// reference a feature would underflow, scores are exponentiated one by one. The same input gives bitwise
/// the same output and gradients for any number of threads.
///
/// Letters: B batch, H heads, N tokens, D head width.
///
/// - Parameters:
///   - queries: `[B, H, N, D]`, or `[B, N, H, D]` with `Layout.tokensFirst`; any strides.
///   - keys: as queries.
///   - values: as queries.
///   - sourceLogits: s before φ_s, as queries.
///   - masks: M, one a head.
///   - tokenScore: φ_t.
///   - sourceScore: φ_s.
///   - scale: the factor on ⟨q, k⟩, 1/√D if nil.
///   - lengths: the number of real tokens of each sequence; those beyond are padding, which no query
///     sees and whose outputs are 0.
///   - dropout: drops E_t and E_s of the numerator, each with √p kept; the denominator is whole.
///   - layout: the order of the axes.
///   - backend: which implementation attends. On a GPU every one but `reference` and `cpu` is
///     `composed`.
/// - Returns: the output, in the layout of the queries.
/// - Precondition: shapes and types agree, there is one mask a head and custom masks are of N tokens.
/// - Complexity: O(B·H·N²·D) time, less what masks hide. On the CPU O(B·H·N·D) memory; `composed`
///   holds several B·H·N².
///
/// Source: Shen, Zhou, Long, Jiang, Zhang, "Tensorized Self-Attention: Efficiently Modeling Pairwise
/// and Global Dependencies Together" (2019), the multi-mask tensorized self-attention of one layer
/// between its projections and its fusion gate.
public func multiMaskAttention(
  queries: Tensor, keys: Tensor, values: Tensor, sourceLogits: Tensor, masks: [PositionalMask],
  tokenScore: TokenScore = .exponential, sourceScore: SourceScore = .exponential,
  scale: Double? = nil, lengths: [Int]? = nil, dropout: AlignmentDropout? = nil,
  layout: Layout = .headsFirst, backend: Backend = .automatic
) -> Tensor {
  let call = MultiMaskCall(
    inputs: [queries, keys, values, sourceLogits], masks: masks, tokenScore: tokenScore,
    sourceScore: sourceScore, scale: scale, lengths: lengths, dropout: dropout, layout: layout)
  let resolved: Backend
  do {
    resolved = try backend.resolvedForMultiMask(dtype: queries.dtype, device: queries.device)
  } catch {
    fatalError("\(error)")
  }
  switch resolved {
  case .reference: return call.attendByReference()
  case .cpu: return call.attendOnCPU()
  default: return call.attendComposed()
  }
}

extension Backend {
  /// The implementation of multi-mask attention that serves tensors of a type on a device.
  func resolvedForMultiMask(dtype: DType, device: Device) throws -> Backend {
    guard device.kind == .cuda, self == .automatic || self == .cuda else {
      return try resolved(dtype: dtype, device: device)
    }
    ComposedFallback.log("multi-mask attention has none")
    return .composed
  }
}

/// A call of multi-mask attention whose shapes have been checked.
struct MultiMaskCall {
  /// q, k, v, s.
  let inputs: [Tensor]
  let scheme: MultiMaskScheme
  let shape: AttentionShape
  let layout: Layout

  init(
    inputs: [Tensor], masks: [PositionalMask], tokenScore: TokenScore, sourceScore: SourceScore,
    scale: Double?, lengths: [Int]?, dropout: AlignmentDropout?, layout: Layout
  ) {
    let described =
      zip(["queries", "keys", "values", "source logits"], inputs)
      .map { "\($0) \($1.shape)" }.joined(separator: ", ")
    require(
      inputs.allSatisfy { $0.rank == 4 && $0.shape == inputs[0].shape },
      "Multi-mask attention takes four tensors of one shape with four axes, got \(described) in "
        + "\(layout.rawValue).")
    let types = inputs.map { "\($0.dtype) on \($0.device)" }
    require(
      inputs.allSatisfy { $0.dtype == inputs[0].dtype && $0.device == inputs[0].device },
      "Queries, keys, values and source logits must agree in type and device, got \(types).")
    let (heads, tokens) = layout == .headsFirst ? (1, 2) : (2, 1)
    shape = AttentionShape(
      batch: inputs[0].size(0), heads: inputs[0].size(heads), tokens: inputs[0].size(tokens),
      width: inputs[0].size(3), lengths: lengths)
    scheme = MultiMaskScheme(
      masks: masks, tokenScore: tokenScore, sourceScore: sourceScore,
      scale: scale ?? shape.defaultScale, dropout: dropout)
    if let objection = scheme.objection(shape) { fatalError(objection) }
    self.inputs = inputs
    self.layout = layout
  }

  /// A tensor with its heads before its tokens, or back.
  func headsFirst(_ tensor: Tensor) -> Tensor {
    layout == .headsFirst ? tensor : tensor.transpose(1, 2)
  }
}
