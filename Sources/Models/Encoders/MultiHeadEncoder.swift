import Folding
import NN
import TensorizedAttention
import Torch

// Vaswani et al., "Attention Is All You Need" (2017), with the rotary positions of Su et al.,
// "RoFormer" (2021): attention over all tokens does not know their order otherwise.

/// Plain multi-head self-attention over all tokens of a sequence:
///
///     o = concat_h softmax(R q_i · R k_j / √D) v_j · Woᵀ + b_o
///
/// Shapes: x [B, N, inputs], o [B, N, outputs]; q, k, v [B, N, H, D].
///
/// It runs as tensorized attention of order 1, so through the same kernels as everything else here:
/// what it costs beside multi-mask attention is the method, not the implementation.
public final class MultiHeadSelfAttention: SequenceLayer {
  @Child("qkv_proj") private var projections: Affine
  @Child("o_proj") private var outputProjection: Affine
  private let heads: Int
  private let headWidth: Int

  /// Creates a layer of `heads` heads, each `headWidth` wide; `headWidth` is even.
  public init(
    inputs: Int, heads: Int, headWidth: Int, outputs: Int, initializer: Initializer
  ) {
    let inner = heads * headWidth
    _projections.wrappedValue = Affine(inputs, 3 * inner, initializer: initializer)
    _outputProjection.wrappedValue = Affine(inner, outputs, initializer: initializer)
    self.heads = heads
    self.headWidth = headWidth
  }

  /// Applies the layer.
  public func callAsFunction(_ x: Tensor, padding: Padding?, dropout: Generator?) -> Tensor {
    let (batch, tokens) = (x.size(0), x.size(1))
    let parts = projections(x).chunk(3, axis: 2).map {
      $0.reshape([batch, tokens, heads, headWidth])
    }
    let attended =
      tensorizedAttention(
        queries: parts[0], keys: parts[1], values: parts[2],
        pattern: AttentionPattern(
          fold: Fold([tokens]), support: .block, normalization: .perMode, rotary: Rotary(.mode)),
        lengths: padding?.lengths, layout: .tokensFirst
      ).output
    return outputProjection(attended.reshape([batch, tokens, heads * headWidth]))
  }
}
