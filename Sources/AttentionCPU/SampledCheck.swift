import AttentionCore
import Folding

/// Holds single rows of single passes against f64 loops, at lengths where the whole reference would
/// take hours.
///
/// Each pass is checked on the running values that the kernels themselves handed to it, so a fault
/// shows in the pass that makes it.
public struct SampledCheck {
  /// The operator's inputs and what it returned, contiguous `[1, H, N, D]` with G = H.
  public let pattern: AttentionPattern
  /// The sizes.
  public let shape: AttentionShape
  /// q, k.
  public let queries: Rows<Float>
  /// k.
  public let keys: Rows<Float>
  /// β, `[m, H]`.
  public let beta: UnsafePointer<Float>?

  /// Describes what is checked.
  public init(
    pattern: AttentionPattern, shape: AttentionShape, queries: Rows<Float>, keys: Rows<Float>,
    beta: UnsafePointer<Float>?
  ) {
    self.pattern = pattern
    self.shape = shape
    self.queries = queries
    self.keys = keys
    self.beta = beta
  }

  /// The largest error of some rows of a pass, relative to the largest of the row's running values.
  ///
  /// - Parameters:
  ///   - rows: (head, token) pairs.
  ///   - values: u, and `output` u' of the pass.
  ///   - carried: ℓ of the pass below in joint normalization, `[H, N]`.
  public func error(
    _ mode: Mode, rows: [(head: Int, token: Int)], values: Rows<Float>, output: Rows<Float>,
    carried: UnsafePointer<Float>?
  ) -> Double {
    rows.map { error(mode, head: $0.head, token: $0.token, values, output, carried) }.max() ?? 0
  }

  private func error(
    _ mode: Mode, head: Int, token t: Int, _ values: Rows<Float>, _ output: Rows<Float>,
    _ carried: UnsafePointer<Float>?
  ) -> Double {
    let keys = pattern.keys(of: t, mode: mode, length: shape.tokens)
    let q = turned(queries.row(0, head, t), t, mode)
    let logits: [Double] = keys.map { key in
      if let carried, key == t { return Double(carried[head * shape.tokens + t]) }
      let k = turned(self.keys.row(0, head, key), key, mode)
      let product = zip(q, k).reduce(0.0) { $0 + $1.0 * $1.1 }
      let shift =
        key == t || mode.isLowest
        ? 0 : beta.map { Double($0[(mode.index - 1) * shape.heads + head]) } ?? 0
      return shape.defaultScale * product + shift
    }
    let top = logits.max() ?? 0
    let weights = logits.map { Double.exponential($0 - top) }
    let total = weights.reduce(0.0, +)
    var worst = 0.0
    var size = 0.0
    for c in 0..<shape.width {
      var sum = 0.0
      for (key, weight) in zip(keys, weights) {
        let value = Double(values.row(0, head, key)[c])
        sum += weight * value
        size = max(size, abs(value))
      }
      let found = Double(output.row(0, head, t)[c])
      let error = abs(found - sum / total)
      worst = error.isNaN ? .infinity : max(worst, error)
    }
    return worst / max(size, 1e-30)
  }

  private func turned(_ row: UnsafePointer<Float>, _ t: Int, _ mode: Mode) -> [Double] {
    let values = (0..<shape.width).map { Double(row[$0]) }
    return pattern.rotated(values, width: shape.width, mode: mode, tokens: t..<t + 1)
  }
}
