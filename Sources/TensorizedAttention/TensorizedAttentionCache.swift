import AttentionCPU
import AttentionCore
import Folding
import Torch

/// What decoding keeps of the tokens so far, so that a new token costs Σ n_k keys at any length.
///
/// The running values of past tokens never change under a causal support, so the cache only appends:
/// k and v of G heads, and the m − 1 running values between passes of H heads,
/// (2·G + (m − 1)·H)·D numbers a token and sequence. Keys are kept unrotated.
///
/// Token by token, chunk by chunk or all at once: the rows are those of
/// ``tensorizedAttention(queries:keys:values:pattern:scale:beta:modeBiases:lengths:layout:backend:)``.
/// Nothing is recorded for gradients.
public final class TensorizedAttentionCache {
  /// Fold, support, normalization, order, positions.
  public let pattern: AttentionPattern
  /// The number of tokens so far.
  public private(set) var count = 0

  private var keys: Tensor?
  /// v, and the running values after each pass but the last.
  private var values: [Tensor] = []

  /// Starts an empty cache.
  ///
  /// - Precondition: the support is causal; with `block` earlier rows would change.
  public init(pattern: AttentionPattern) {
    require(
      pattern.support.isCausal,
      "A cache needs a causal support, got \(pattern.support.rawValue).")
    self.pattern = pattern
  }

  /// The bytes held, including room to grow.
  public var byteCount: Int { (values + (keys.map { [$0] } ?? [])).reduce(0) { $0 + $1.byteCount } }

  /// Forgets everything.
  public func reset() {
    count = 0
    keys = nil
    values = []
  }

  /// Appends c ≥ 1 tokens and returns their rows.
  ///
  /// - Parameters:
  ///   - queries: of the new tokens, `[B, H, c, D]` or `[B, c, H, D]`.
  ///   - newKeys: the same with G heads.
  ///   - newValues: as keys.
  ///   - scale: the factor on the logits, 1/√D if nil.
  ///   - beta: `[m, H]`.
  ///   - modeBiases: as for a whole sequence.
  ///   - layout: the order of the axes.
  /// - Returns: the output in the layout of the queries.
  /// - Precondition: B, G and D are those of the tokens before, and a block-causal fold has room.
  /// - Complexity: O(B·H·c·Σ n_k·D), and the copy when the cache doubles.
  public func attend(
    queries: Tensor, keys newKeys: Tensor, values newValues: Tensor, scale: Double? = nil,
    beta: Tensor? = nil, modeBiases: [Tensor?] = [], layout: Layout = .headsFirst
  ) -> Tensor {
    withNoGrad {
      let rows = [queries, newKeys, newValues].map {
        (layout == .headsFirst ? $0 : $0.transpose(1, 2)).detached()
      }
      let new = rows[0].size(2)
      append(rows[1], rows[2], heads: rows[0].size(1))
      let shape = AttentionShape(
        batch: rows[0].size(0), heads: rows[0].size(1), keyHeads: rows[1].size(1),
        tokens: count, width: rows[0].size(3), queries: count - new..<count)
      let step = DecodeStep(
        pattern: pattern, shape: shape, scale: scale ?? shape.defaultScale, beta: beta,
        modeBiases: modeBiases)
      let output = step.run(queries: rows[0], keys: keys ?? rows[1], values: values)
      return layout == .headsFirst ? output : output.transpose(1, 2)
    }
  }

  private func append(_ newKeys: Tensor, _ newValues: Tensor, heads: Int) {
    let shape = newKeys.shape
    let total = count + shape[2]
    if let objection = pattern.objection(tokens: total) { fatalError(objection) }
    if let keys {
      require(
        shape.count == 4 && shape[0] == keys.size(0) && shape[1] == keys.size(1)
          && shape[3] == keys.size(3) && newValues.shape == shape,
        "The cache holds keys of shape \(keys.shape), got keys \(shape), values "
          + "\(newValues.shape).")
    }
    if keys.map({ $0.size(2) < total }) ?? true { grow(to: total, like: newKeys, heads: heads) }
    keys?.narrow(axis: 2, from: count, count: shape[2]).copy(from: newKeys)
    values[0].narrow(axis: 2, from: count, count: shape[2]).copy(from: newValues)
    count = total
  }

  private func grow(to total: Int, like rows: Tensor, heads: Int) {
    let room = max(total, 2 * count, 64)
    let (batch, width) = (rows.size(0), rows.size(3))
    func grown(_ old: Tensor?, heads: Int) -> Tensor {
      let new = Tensor.empty(
        [batch, heads, room, width], dtype: rows.dtype, device: rows.device)
      if let old, count > 0 {
        new.narrow(axis: 2, from: 0, count: count)
          .copy(from: old.narrow(axis: 2, from: 0, count: count))
      }
      return new
    }
    let streams = pattern.fold.order
    values = (0..<streams).map { index in
      grown(
        values.indices.contains(index) ? values[index] : nil,
        heads: index == 0 ? rows.size(1) : heads)
    }
    keys = grown(keys, heads: rows.size(1))
  }
}

/// All passes for some new tokens.
struct DecodeStep {
  let pattern: AttentionPattern
  let shape: AttentionShape
  let scale: Double
  let beta: Tensor?
  let modeBiases: [Tensor?]

  func run(queries: Tensor, keys: Tensor, values: [Tensor]) -> Tensor {
    let served = try? Backend.automatic.resolved(dtype: queries.dtype, device: queries.device)
    let kernels = served == .cpu ? try? CPUAttention(executor: .torch) : nil
    let q = queries.contiguous()
    if served == .cuda, let output = runOnCUDA(queries: q, keys: keys, values: values) {
      return output
    }
    var carried: Tensor?
    var output = q
    for (index, mode) in pattern.chain.enumerated() {
      let pass = DecodePass(
        pattern: pattern, shape: shape, scale: scale, mode: mode,
        beta: mode.isLowest ? nil : beta?.select(axis: 0, mode.index - 1).contiguous(),
        bias: modeBiases.indices.contains(mode.index - 1)
          ? modeBiases[mode.index - 1]?.contiguous() : nil,
        isFirst: index == 0)
      let (rows, lse) =
        kernels.map {
          pass.run($0, queries: q, keys: keys, values: values[index], carried: carried)
        }
        ?? pass.runComposed(queries: q, keys: keys, values: values[index], carried: carried)
      if index + 1 < pattern.fold.order {
        values[index + 1].narrow(
          axis: 2, from: shape.queries.lowerBound, count: shape.queries.count
        ).copy(from: rows)
      }
      carried = pattern.normalization == .joint ? lse : nil
      output = rows
    }
    return output
  }
}

/// One pass for some new tokens.
private struct DecodePass {
  let pattern: AttentionPattern
  let shape: AttentionShape
  let scale: Double
  let mode: Mode
  let beta: Tensor?
  let bias: Tensor?
  let isFirst: Bool

  private func pointer(_ tensor: Tensor) -> UnsafeMutablePointer<Float> {
    guard let address = tensor.dataPointer else {
      fatalError("A decode step needs at least one token, got \(tensor.shape).")
    }
    return address.assumingMemoryBound(to: Float.self)
  }

  private func rows(_ tensor: Tensor) -> MutableRows<Float> {
    let strides = tensor.strides
    return MutableRows(
      pointer(tensor), batchStride: strides[0], headStride: strides[1], tokenStride: strides[2])
  }

  func run(
    _ kernels: CPUAttention, queries: Tensor, keys: Tensor, values: Tensor, carried: Tensor?
  ) -> (Tensor, Tensor) {
    let output = Tensor.empty(queries.shape)
    let lse = Tensor.empty(Array(queries.shape.dropLast()))
    withExtendedLifetime((queries, keys, values, carried, beta, bias)) {
      kernels.forwardPass(
        PassArguments(
          shape: shape, mode: mode, support: pattern.support, scale: Float(scale),
          angles: RotaryAngles(pattern.rotary, mode: mode, width: shape.width),
          beta: beta.map { UnsafePointer(pointer($0)) },
          bias: bias.map { UnsafePointer(pointer($0)) },
          biasHeadStride: bias.map { $0.size(0) > 1 } == true ? pattern.biasCount(mode) : 0),
        ForwardRows(
          queries: rows(queries).reading, keys: rows(keys).reading, values: rows(values).reading,
          valuesAreGrouped: isFirst, carried: carried.map { UnsafePointer(pointer($0)) },
          output: rows(output), logSumExp: pointer(lse), logSumExpStride: shape.queries.count))
    }
    return (output, lse)
  }

  /// The same through libtorch: the keys of every new token are gathered.
  func runComposed(
    queries: Tensor, keys: Tensor, values: Tensor, carried: Tensor?
  ) -> (Tensor, Tensor) {
    let device = queries.device
    let tokens = Tensor.arange(
      shape.queries.lowerBound, shape.queries.upperBound, dtype: .int64, device: device)
    let size = pattern.support == .slidingCausal ? mode.size : min(mode.size, shape.tokens)
    let offsets = Tensor.arange(0, size, dtype: .int64, device: device)
    // [c, n] token numbers of the keys, and which of them are there.
    let own = place(tokens)
    let steps =
      pattern.support == .slidingCausal
      ? (offsets.unsqueeze(0) * -1).expand([shape.queries.count, size])
      : offsets.unsqueeze(0) - own.unsqueeze(1)
    let numbers = tokens.unsqueeze(1) + steps * mode.stride
    let hidden = (numbers .< 0) .| (steps .> 0)
    let index = numbers.clamp(min: 0, max: shape.tokens - 1).flatten()
    func gathered(_ rows: Tensor) -> Tensor {
      let all = rows.indexSelect(axis: 2, index)
        .view([rows.size(0), rows.size(1), shape.queries.count, size, shape.width])
      let group = shape.heads / rows.size(1)
      return group == 1 ? all : all.repeatInterleave(group, axis: 1)
    }
    let q = rotated(queries.unsqueeze(3), tokens.unsqueeze(1))
    let k = rotated(gathered(keys), numbers)
    var scores = (q * k).sum(axis: 4) * scale
    let isOwn = steps .== 0
    if let beta {
      scores = scores + beta.view([1, -1, 1, 1]) * (1.0 - isOwn.to(scores.dtype))
    }
    if let bias {
      let heads = bias.size(0)
      let at =
        pattern.support == .slidingCausal
        ? (steps * -1) : own.unsqueeze(1) * mode.size + own.unsqueeze(1) + steps
      scores =
        scores
        + bias.view([heads, -1]).indexSelect(axis: 1, at.clamp(min: 0).flatten())
        .view([1, heads, shape.queries.count, size])
    }
    if let carried { scores = Tensor.select(isOwn, carried.unsqueeze(-1), scores) }
    scores = scores.filled(where: hidden, with: -Double.infinity)
    let isEmpty = scores.max(axes: [-1], keepAxes: true) .== -Double.infinity
    let weights = scores.filled(where: isEmpty, with: 0.0).softmax(axis: -1)
      .filled(where: isEmpty, with: 0.0)
    let output = (weights.unsqueeze(-1) * gathered(values)).sum(axis: 3)
    return (output, scores.logSumExp(axes: [-1]))
  }

  /// The place of tokens on their line, counted as the rotary embedding counts it.
  private func place(_ tokens: Tensor) -> Tensor {
    let places = tokens.floorDivide(mode.stride)
    return pattern.support == .slidingCausal || mode.index == 1
      ? places : places.remainder(mode.size)
  }

  private func rotated(_ rows: Tensor, _ tokens: Tensor) -> Tensor {
    guard let angles = RotaryAngles(pattern.rotary, mode: mode, width: shape.width) else {
      return rows
    }
    let half = shape.width / 2
    let turns =
      place(tokens).to(.float64).unsqueeze(-1) * Tensor(angles.perPlace, device: rows.device)
    let cosines = (turns.cos() * angles.magnitude).to(rows.dtype)
    let sines = (turns.sin() * angles.magnitude).to(rows.dtype)
    let x = rows.narrow(axis: 4, from: 0, count: half)
    let y = rows.narrow(axis: 4, from: half, count: half)
    return .cat([x * cosines - y * sines, y * cosines + x * sines], axis: 4)
  }
}
