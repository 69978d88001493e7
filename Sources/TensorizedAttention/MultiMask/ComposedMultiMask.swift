import AttentionCore
import Torch

// Multi-mask attention as a PyTorch user would write it: two products over the tensors of weights, and
// autograd for the gradients. Holds several [B, H, N, N].

extension MultiMaskCall {
  /// Attends through libtorch operations; half types are computed in f32.
  func attendComposed() -> Tensor {
    guard shape.batch > 0, shape.tokens > 0 else { return inputs[2] * 0.0 }
    let dtype = inputs[0].dtype
    let isHalf = dtype == .bfloat16 || dtype == .float16
    var rows = inputs.map { headsFirst(isHalf ? $0.to(.float32) : $0) }
    if let padding = padding() { rows = rows.map { $0.filled(where: padding, with: 0.0) } }
    let composed = ComposedMultiMask(call: self, hidden: hidden(), padding: padding())
    let output = composed.attend(
      queries: rows[0], keys: rows[1], values: rows[2], sourceLogits: rows[3])
    return headsFirst(isHalf ? output.to(dtype) : output)
  }

  private var device: Device { inputs[0].device }

  /// `[B, 1, N, 1]`, true at padding.
  private func padding() -> Tensor? {
    guard let lengths = shape.lengths else { return nil }
    let ends = Tensor(lengths.map(Int64.init), device: device).view([lengths.count, 1, 1, 1])
    let tokens = Tensor.arange(0, shape.tokens, dtype: .int64, device: device)
    return tokens.view([1, 1, shape.tokens, 1]) .>= ends
  }

  /// `[1 or B, H, N, N]`, true where a query does not see a key.
  private func hidden() -> Tensor {
    let n = shape.tokens
    let ranges = scheme.masks.flatMap { mask in (0..<n).map { mask.keys(of: $0, count: n) } }
    let bounds = { (values: [Int]) -> Tensor in
      Tensor(values.map(Int64.init), device: device).view([1, shape.heads, n, 1])
    }
    let keys = Tensor.arange(0, n, dtype: .int64, device: device).view([1, 1, 1, n])
    var hidden =
      (keys .< bounds(ranges.map(\.lowerBound))) .| (keys .>= bounds(ranges.map(\.upperBound)))
    if scheme.masks.contains(where: { $0.isSparse }) { hidden = hidden .| sparse(keys) }
    if let padding = padding() { hidden = hidden .| padding .| padding.transpose(2, 3) }
    return hidden
  }

  /// What masks hide between the first and the last key that a query sees, `[1, H, N, N]`.
  private func sparse(_ keys: Tensor) -> Tensor {
    let n = shape.tokens
    let nothing = Tensor.zeros([n, n], dtype: .bool, device: device)
    let diagonal = keys.view([1, n]) .== keys.view([n, 1])
    let layers = scheme.masks.map { mask -> Tensor in
      switch mask {
      case .diagonalDisabled: diagonal
      case .custom(let mask):
        Tensor(mask.bytes, shape: [n, n], device: device) .== 0
      default: nothing
      }
    }
    return .stack(layers).unsqueeze(0)
  }
}

/// A call with what hides.
private struct ComposedMultiMask {
  let call: MultiMaskCall
  let hidden: Tensor
  let padding: Tensor?

  /// The spread of log E_s over the keys up to which one reference a feature serves every query: the
  /// best key of a row has a product of at least e⁻⁵⁵ then, far above underflow.
  private static let widestSpread = 55.0

  func attend(queries: Tensor, keys: Tensor, values: Tensor, sourceLogits: Tensor) -> Tensor {
    let scheme = call.scheme
    let t = log(
      queries.matmul(keys.transpose()) * scheme.scale, sigmoid: scheme.tokenScore == .sigmoid)
    var s = sourceLogits
    let factor = scheme.sourceScore.factor(width: call.shape.width)
    if factor != 1 { s = s * factor }
    s = log(s, sigmoid: scheme.sourceScore.isSigmoid)
    let highest = s.detached().max(axes: [2], keepAxes: true)
    let spread = (highest - s.detached().min(axes: [2], keepAxes: true)).max().item(Double.self)
    // Not below and not NaN: the slow way for both.
    guard spread <= Self.widestSpread else { return attendEachFeature(t, s, values) }
    let visible = t.filled(where: hidden, with: -Double.infinity)
    let top = visible.detached().max(axes: [3], keepAxes: true).clamp(min: -3e38)
    let pairs = (visible - top).exp()
    let source = (s - highest).exp()
    let denominator = pairs.matmul(source)
    let numerator = dropped(pairs, .tokens).matmul(dropped(source, .source) * values)
    // A query without keys has numerator and denominator 0.
    return numerator / denominator.filled(where: denominator .== 0, with: 1.0)
  }

  /// One softmax over the keys for every feature: what the factors stand for, at D times the work.
  private func attendEachFeature(_ t: Tensor, _ s: Tensor, _ values: Tensor) -> Tensor {
    let isEmpty = hidden.to(t.dtype).min(axes: [3], keepAxes: true) .== 1
    let kept = dropped(values, .source)
    let columns = (0..<call.shape.width).map { l -> Tensor in
      let feature = s.narrow(axis: 3, from: l, count: 1)
      let logits = (t + feature.transpose()).filled(where: hidden, with: -Double.infinity)
      let weights = logits.filled(where: isEmpty, with: 0.0).softmax(axis: -1)
        .filled(where: isEmpty, with: 0.0)
      return dropped(weights, .tokens).matmul(kept.narrow(axis: 3, from: l, count: 1))
    }
    return .cat(columns, axis: 3)
  }

  /// log of exp x or of 1/(1 + e⁻ˣ).
  private func log(_ x: Tensor, sigmoid: Bool) -> Tensor {
    sigmoid ? ATen.tensor("aten::log_sigmoid", [.tensor(x)]) : x
  }

  /// `[B, H, rows, columns]` times the factors of dropout.
  private func dropped(_ weights: Tensor, _ stream: AlignmentDropout.Stream) -> Tensor {
    guard let dropout = call.scheme.dropout else { return weights }
    return weights * kept(dropout, stream, columns: weights.size(3)).to(weights.dtype)
  }

  /// The hash of ``AlignmentDropout/isKept(rowKey:column:)`` in 64-bit integers, and its factors.
  private func kept(
    _ dropout: AlignmentDropout, _ stream: AlignmentDropout.Stream, columns: Int
  ) -> Tensor {
    let (b, h, n) = (call.shape.batch, call.shape.heads, call.shape.tokens)
    let device = hidden.device
    let keys = (0..<b * h).flatMap { head in
      (0..<n).map { Int64(dropout.rowKey(stream, head: head, row: $0)) }
    }
    let low = { (x: Tensor) in
      ATen.tensor("aten::bitwise_and.Scalar", [.tensor(x), .int(0xFFFF_FFFF)])
    }
    let folded = { (x: Tensor, shift: Int) -> Tensor in
      let high = ATen.tensor("aten::__rshift__.Scalar", [.tensor(x), .int(shift)])
      return ATen.tensor("aten::bitwise_xor.Tensor", [.tensor(x), .tensor(high)])
    }
    let places = Tensor.arange(0, columns, dtype: .int64, device: device)
    var x = low(
      Tensor(keys, device: device).view([b, h, n, 1]) + places * Int(AlignmentDropout.step))
    x = low(folded(x, 16) * Int(AlignmentDropout.multipliers.0))
    x = low(folded(x, 15) * Int(AlignmentDropout.multipliers.1))
    x = ATen.tensor("aten::__rshift__.Scalar", [.tensor(folded(x, 16)), .int(8)])
    return (x .< Int(dropout.threshold)).to(.float64) * dropout.factor
  }
}

extension PositionalMask {
  /// Whether it may hide keys between the first and the last that a query sees.
  fileprivate var isSparse: Bool {
    switch self {
    case .diagonalDisabled, .custom: true
    default: false
    }
  }
}
