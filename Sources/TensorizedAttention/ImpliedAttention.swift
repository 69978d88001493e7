import AttentionCPU
import AttentionCore
import Folding
import Torch

/// The attention matrix A of one head that the whole chain of passes implies: output = A·v.
///
/// The operator is linear in the values, so the identity matrix, fed as values D columns at a time,
/// returns A column by column: what a backend really does, carried diagonal and all.
///
/// - Parameters:
///   - queries: `[N, D]`, of one head.
///   - keys: `[N, D]`.
///   - pattern: fold, support, normalization, order, positions.
///   - scale: the factor on the logits, 1/√D if nil.
///   - beta: the head's β, `[m]`.
///   - modeBiases: of the head, `[1, n_k, n_k]` or `[1, n_k]` as the support asks.
///   - backend: which implementation attends.
/// - Returns: `[N, N]`; row t holds the weights of the values in output t.
/// - Complexity: O(N²·Σ n_k) time, O(N²) memory; for small N. For one row of a long sequence see
///   ``impliedAttentionRow(token:queries:keys:pattern:scale:beta:modeBiases:)``.
public func impliedAttentionMatrix(
  queries: Tensor, keys: Tensor, pattern: AttentionPattern, scale: Double? = nil,
  beta: Tensor? = nil, modeBiases: [Tensor?] = [], backend: Backend = .automatic
) -> Tensor {
  require(
    queries.rank == 2 && queries.shape == keys.shape,
    "Expected queries and keys [N, D] of one head, got \(queries.shape) and \(keys.shape).")
  let (n, d) = (queries.size(0), queries.size(1))
  let batch = max((n + d - 1) / d, 1)
  return withNoGrad {
    // Sequence b of the batch carries the columns b·D ..< (b + 1)·D of the identity.
    let columns = Tensor.identity(n, dtype: queries.dtype, device: queries.device)
      .pad([0, batch * d - n])
    let values = columns.view([n, batch, d]).transpose(0, 1).unsqueeze(1)
    let shared = { (rows: Tensor) in rows.view([1, 1, n, d]).expand([batch, 1, n, d]) }
    let output = tensorizedAttention(
      queries: shared(queries.contiguous()), keys: shared(keys.contiguous()), values: values,
      pattern: pattern, scale: scale, beta: beta?.unsqueeze(1), modeBiases: modeBiases,
      backend: backend
    ).output
    return output.squeeze(1).transpose(0, 1).reshape([n, batch * d])
      .narrow(axis: 1, from: 0, count: n).contiguous()
  }
}

/// A row of the attention matrix of one head: the weights with which all values enter the output at
/// one token, in f64 and at any N.
///
/// The chain runs backwards from the token, in plain loops; see `Reference.impliedRow`.
///
/// - Parameters:
///   - token: t.
///   - queries: `[N, D]`, of one head.
///   - keys: `[N, D]`.
///   - pattern: fold, support, normalization, order, positions.
///   - scale: the factor on the logits, 1/√D if nil.
///   - beta: the head's β, `[m]`.
///   - modeBiases: of the head, `[1, n_k, n_k]` or `[1, n_k]` as the support asks.
/// - Returns: N weights, 0 at tokens that do not reach t; they sum to 1 unless t sees no key.
/// - Complexity: O(N·D·m) for a row of a full fold.
public func impliedAttentionRow(
  token: Int, queries: Tensor, keys: Tensor, pattern: AttentionPattern, scale: Double? = nil,
  beta: Tensor? = nil, modeBiases: [Tensor?] = []
) -> [Double] {
  require(
    queries.rank == 2 && queries.shape == keys.shape,
    "Expected queries and keys [N, D] of one head, got \(queries.shape) and \(keys.shape).")
  let k = keys.array(Double.self)
  let problem = AttentionProblem<Double>(
    shape: AttentionShape(
      batch: 1, heads: 1, tokens: queries.size(0), width: queries.size(1)),
    pattern: pattern, scale: scale, queries: queries.array(Double.self), keys: k, values: k,
    beta: beta?.array(Double.self), biases: modeBiases.map { $0?.array(Double.self) })
  return Reference(problem).impliedRow(token: token)
}
