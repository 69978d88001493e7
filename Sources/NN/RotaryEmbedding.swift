import Foundation
import Torch

/// Rotary positions of a whole sequence, for attention that libtorch computes: channel i pairs with
/// channel i + D/2, which turn by `t · base^(−2i/D)`.
///
/// Source: Su et al., "RoFormer" (2021), section 3.4, in Llama's half-split convention.
public final class RotaryEmbedding {
  private let width: Int
  private let base: Double
  /// cos and ±sin of the positions so far, [length, 1, D].
  private var table: (cosines: Tensor, sines: Tensor)?

  /// Creates an embedding for heads of width D.
  public init(width: Int, base: Double) {
    precondition(width % 2 == 0, "Rotary positions pair channels; the head width \(width) is odd.")
    self.width = width
    self.base = base
  }

  /// Rotates x [B, N, H, D], whose first token is at position `start`:
  ///
  ///     y_i = x_i·cos − x_{i+D/2}·sin,   y_{i+D/2} = x_{i+D/2}·cos + x_i·sin
  public func callAsFunction(_ x: Tensor, start: Int = 0) -> Tensor {
    let length = x.size(1)
    let (cosines, sines) = angles(upTo: start + length, like: x)
    // The signs are in the sines, so the partner of a channel is just the other half.
    let partner = x.roll(width / 2, axis: -1)
    return x * cosines.narrow(axis: 0, from: start, count: length)
      + partner * sines.narrow(axis: 0, from: start, count: length)
  }

  private func angles(upTo length: Int, like x: Tensor) -> (cosines: Tensor, sines: Tensor) {
    if let table, table.cosines.size(0) >= length, table.cosines.dtype == x.dtype { return table }
    let capacity = max(length, 2 * (table?.cosines.size(0) ?? 0))
    var cosines: [Double] = []
    var sines: [Double] = []
    cosines.reserveCapacity(capacity * width)
    sines.reserveCapacity(capacity * width)
    for position in 0..<capacity {
      for channel in 0..<width {
        let angle =
          Double(position) * pow(base, -2 * Double(channel % (width / 2)) / Double(width))
        cosines.append(cos(angle))
        sines.append(channel < width / 2 ? -sin(angle) : sin(angle))
      }
    }
    let made = (
      cosines: Tensor(cosines, shape: [capacity, 1, width], dtype: x.dtype, device: x.device),
      sines: Tensor(sines, shape: [capacity, 1, width], dtype: x.dtype, device: x.device)
    )
    table = made
    return made
  }
}
