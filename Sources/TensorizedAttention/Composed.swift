import AttentionCore
import Folding
import Torch

// The operator as a PyTorch user would write it: lines gathered by views and copies, masked scores,
// softmax, products, every intermediate a tensor, and autograd for the gradients.

extension AttentionCall {
  /// Attends through libtorch operations.
  ///
  /// - Parameter wantsLogSumExp: whether the last pass returns its log-sum-exp. Without it nothing is
  ///   computed that only it needs, which is how the operator is timed.
  func attendComposed(wantsLogSumExp: Bool = true) -> (output: Tensor, logSumExp: Tensor?) {
    let rows = [queries, keys, values].map { layout == .headsFirst ? $0 : $0.transpose(1, 2) }
    let group = shape.group
    let k = group == 1 ? rows[1] : rows[1].repeatInterleave(group, axis: 1)
    var u = group == 1 ? rows[2] : rows[2].repeatInterleave(group, axis: 1)
    var lse: Tensor?
    for (index, mode) in pattern.chain.enumerated() {
      let isLast = index == pattern.fold.order - 1
      let pass = ComposedPass(
        self, mode: mode,
        wantsLogSumExp: isLast ? wantsLogSumExp : pattern.normalization == .joint)
      (u, lse) = pass.run(
        queries: rows[0], keys: k, values: u,
        carried: pattern.normalization == .joint ? lse : nil)
    }
    let output = layout == .headsFirst ? u : u.transpose(1, 2)
    return (output, lse)
  }
}

/// One pass. Lines are brought into `[B, H, L, W, P, D]`: L lines, W windows of queries on each, P
/// places in a window; keys likewise with the places that a window sees.
private struct ComposedPass {
  let call: AttentionCall
  let mode: Mode
  /// Places on a line, padded to whole windows.
  let places: Int
  /// Queries in a window.
  let window: Int
  /// Whether a window of keys begins one window earlier.
  let looksBack: Bool
  let wantsLogSumExp: Bool
  /// The tokens between neighbors of a line; where every line has one token, the number of lines.
  let stride: Int

  init(_ call: AttentionCall, mode: Mode, wantsLogSumExp: Bool) {
    self.wantsLogSumExp = wantsLogSumExp
    self.call = call
    self.mode = mode
    stride = min(mode.stride, max(call.shape.tokens, 1))
    let longest = (call.shape.tokens + mode.stride - 1) / mode.stride
    switch call.pattern.support {
    case .block, .blockCausal:
      window = mode.index == 1 ? longest : min(mode.size, longest)
      places = window
      looksBack = false
    case .slidingCausal:
      window = max(min(mode.size, longest), 1)
      places = (longest + window - 1) / window * window
      looksBack = longest > window
    }
  }

  /// The tokens of one group of lines: a residue class for the sliding support, a block otherwise.
  private var tokensPerGroup: Int { places * stride }
  private var groups: Int {
    max(1, (call.shape.tokens + tokensPerGroup - 1) / max(tokensPerGroup, 1))
  }
  private var paddedTokens: Int { groups * tokensPerGroup }

  func run(
    queries: Tensor, keys: Tensor, values: Tensor, carried: Tensor?
  ) -> (Tensor, Tensor?) {
    guard call.shape.tokens > 0, call.shape.batch > 0 else {
      return (values, values.sum(axis: 3))
    }
    let q = lines(rotated(queries))
    let k = withPrevious(lines(rotated(keys)))
    let u = withPrevious(lines(values))
    var scores = q.matmul(k.transpose(-2, -1)) * call.scale
    let tokens = tokenLines()
    if let beta = call.beta, !mode.isLowest {
      let own = tokens.queries.unsqueeze(-1) .== tokens.keys.unsqueeze(-2)
      let shift = beta.select(axis: 0, mode.index - 1).view([1, call.shape.heads, 1, 1, 1, 1])
      scores = scores + shift * (1.0 - own.to(scores.dtype))
    }
    if let bias = call.modeBiases[mode.index - 1] { scores = scores + biasLines(bias, tokens) }
    if let carried {
      let own = tokens.queries.unsqueeze(-1) .== tokens.keys.unsqueeze(-2)
      let diagonal = lines(carried.unsqueeze(-1))
      scores = Tensor.select(own, diagonal, scores)
    }
    if let hidden = hidden(tokens) { scores = scores.filled(where: hidden, with: -Double.infinity) }
    return attend(scores, u)
  }

  /// Softmax and product; a row of −∞ alone gives 0 and log-sum-exp −∞, with gradient 0.
  private func attend(_ scores: Tensor, _ u: Tensor) -> (Tensor, Tensor?) {
    guard canBeEmpty else {
      let lse = wantsLogSumExp ? scores.logSumExp(axes: [-1]) : nil
      return (sequence(scores.softmax(axis: -1).matmul(u)), lse.map(sequenceOfScalars))
    }
    let isEmpty = scores.max(axes: [-1], keepAxes: true) .== -Double.infinity
    let safe = scores.filled(where: isEmpty, with: 0.0)
    let weights = safe.softmax(axis: -1).filled(where: isEmpty, with: 0.0)
    let lse = safe.logSumExp(axes: [-1]).filled(where: isEmpty.squeeze(-1), with: -Double.infinity)
    return (sequence(weights.matmul(u)), wantsLogSumExp ? sequenceOfScalars(lse) : nil)
  }

  /// Whether some query may see no key: padding, or a bias that hides.
  private var canBeEmpty: Bool {
    call.shape.lengths != nil || paddedTokens != call.shape.tokens
      || call.modeBiases.contains { $0 != nil }
  }

  /// `[B, H, N, C]` to `[B, H, L, W, P, C]`.
  private func lines(_ rows: Tensor) -> Tensor {
    let (b, h, n, c) = (rows.size(0), rows.size(1), rows.size(2), rows.size(3))
    let whole = n == paddedTokens ? rows : rows.pad([0, 0, 0, paddedTokens - n])
    return whole.reshape([b, h, groups, places, stride, c])
      .transpose(3, 4)
      .reshape([b, h, groups * stride, places / window, window, c])
  }

  /// `[B, H, L, W, P, C]` back to `[B, H, N, C]`.
  private func sequence(_ lines: Tensor) -> Tensor {
    let (b, h, c) = (lines.size(0), lines.size(1), lines.size(5))
    let rows = lines.reshape([b, h, groups, stride, places, c])
      .transpose(3, 4)
      .reshape([b, h, paddedTokens, c])
    return paddedTokens == call.shape.tokens
      ? rows : rows.narrow(axis: 2, from: 0, count: call.shape.tokens)
  }

  private func sequenceOfScalars(_ lines: Tensor) -> Tensor {
    sequence(lines.unsqueeze(-1)).squeeze(-1)
  }

  /// Puts the window before in front of each window of keys.
  private func withPrevious(_ lines: Tensor, fill: Double = 0) -> Tensor {
    guard looksBack else { return lines }
    let windows = lines.size(3)
    let before = lines.narrow(axis: 3, from: 0, count: windows - 1)
      .pad([0, 0, 0, 0, 1, 0], value: fill)
    return .cat([before, lines], axis: 4)
  }

  private struct TokenLines {
    /// `[1, 1, L, W, P]` and `[1, 1, L, W, P or 2P]` token numbers; padding is out of everyone's
    /// sight.
    let queries: Tensor
    let keys: Tensor
  }

  private func tokenLines() -> TokenLines {
    let numbers = Tensor.arange(
      0, paddedTokens, dtype: .int64, device: call.queries.device
    ).view([1, 1, paddedTokens, 1])
    let folded = lines(numbers)
    return TokenLines(
      queries: folded.squeeze(-1), keys: withPrevious(folded, fill: -1).squeeze(-1))
  }

  /// The scores that no query may see, or nil if all may.
  private func hidden(_ tokens: TokenLines) -> Tensor? {
    let isPadded = paddedTokens != call.shape.tokens || looksBack
    if call.pattern.support == .block, !isPadded, call.shape.lengths == nil { return nil }
    // Whole lines without padding look alike: one mask of [P, P] serves all of them.
    let alike = !isPadded && call.shape.lengths == nil
    let q = (alike ? tokens.queries.narrow(axis: 2, from: 0, count: 1) : tokens.queries)
      .unsqueeze(-1)
    let k = (alike ? tokens.keys.narrow(axis: 2, from: 0, count: 1) : tokens.keys).unsqueeze(-2)
    let first = alike ? q.narrow(axis: 3, from: 0, count: 1) : q
    let keys = alike ? k.narrow(axis: 3, from: 0, count: 1) : k
    var hidden = keys .< 0
    if call.pattern.support.isCausal { hidden = hidden .| (keys .> first) }
    if call.pattern.support == .slidingCausal {
      hidden = hidden .| ((first - keys) .>= mode.size * mode.stride)
    }
    if let lengths = call.shape.lengths {
      let ends = Tensor(lengths.map(Int64.init), device: call.queries.device)
        .view([lengths.count, 1, 1, 1, 1, 1])
      hidden = hidden .| (keys .>= ends) .| (first .>= ends)
    } else if isPadded {
      hidden = hidden .| (keys .>= call.shape.tokens)
    }
    return hidden
  }

  /// The bias of every score, gathered by distance or coordinates.
  private func biasLines(_ bias: Tensor, _ tokens: TokenLines) -> Tensor {
    let q = tokens.queries.unsqueeze(-1)
    let k = tokens.keys.unsqueeze(-2)
    let index: Tensor
    if call.pattern.support == .slidingCausal {
      index = (q - k).floorDivide(mode.stride).clamp(min: 0, max: mode.size - 1)
    } else {
      let place = { (t: Tensor) in t.floorDivide(mode.stride).remainder(mode.size) }
      index = place(q) * mode.size + place(k)
    }
    let heads = bias.size(0)
    let gathered = bias.view([heads, -1]).indexSelect(axis: 1, index.flatten())
    return gathered.view([1, heads] + index.shape.dropFirst(2))
  }

  /// Rows turned to their positions in the mode.
  private func rotated(_ rows: Tensor) -> Tensor {
    guard let angles = RotaryAngles(call.pattern.rotary, mode: mode, width: call.shape.width)
    else { return rows }
    // Places are counted as on the CPU kernels' lines; angles are formed in f64.
    let half = call.shape.width / 2
    var positions = Tensor.arange(0, call.shape.tokens, dtype: .int64)
    positions = positions.floorDivide(mode.stride)
    if call.pattern.support != .slidingCausal, mode.index > 1 {
      positions = positions.remainder(mode.size)
    }
    let turns =
      positions.to(.float64).unsqueeze(-1) * Tensor(angles.perPlace).unsqueeze(0)
    let place = { (t: Tensor) in
      (t * angles.magnitude).to(dtype: rows.dtype, device: rows.device)
    }
    let (cosines, sines) = (place(turns.cos()), place(turns.sin()))
    let (x, y) = (
      rows.narrow(axis: 3, from: 0, count: half), rows.narrow(axis: 3, from: half, count: half)
    )
    return .cat([x * cosines - y * sines, y * cosines + x * sines], axis: 3)
  }
}
