import Torch

/// Ordinary causal attention through libtorch's fused kernel, with rotary positions.
final class FullAttention {
  private let rotary: RotaryEmbedding

  init(headWidth: Int, rotaryBase: Double) {
    rotary = RotaryEmbedding(width: headWidth, base: rotaryBase)
  }

  /// Rotates x [B, N, H, D], whose first token is at `start`, and puts heads before tokens.
  func rotated(_ x: Tensor, start: Int) -> Tensor {
    rotary(x, start: start).transpose(1, 2)
  }

  /// Queries [B, N, H, D], keys and values [B, N, G, D]; returns [B, N, H, D].
  func attend(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor {
    scaledDotProductAttention(
      queries: rotated(queries, start: 0), keys: rotated(keys, start: 0),
      values: values.transpose(1, 2), isCausal: true,
      groupedQueries: queries.size(2) > keys.size(2)
    ).transpose(1, 2)
  }
}
