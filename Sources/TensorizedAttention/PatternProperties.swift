import AttentionCPU
import AttentionCore
import Folding
import Torch

/// What can be shown of a pattern by running it: that it leaks nothing, what it reaches, and what it
/// equals.
///
/// Inputs are drawn from the normal distribution; β from the same where a property allows any.
public struct PatternProperties {
  /// The pattern.
  public let pattern: AttentionPattern
  /// N.
  public let tokens: Int
  /// The implementation that is examined.
  public let backend: Backend
  /// The element type.
  public let dtype: DType
  /// Where the tensors are.
  public let device: Device

  private let heads = 2
  private let queries: Tensor
  private let keys: Tensor
  private let values: Tensor
  private let beta: Tensor

  /// Draws the inputs.
  ///
  /// - Parameters:
  ///   - pattern: what is examined.
  ///   - tokens: N.
  ///   - width: D.
  ///   - backend: which implementation attends.
  ///   - dtype: float32 or float64.
  ///   - device: where to attend.
  ///   - seed: of the inputs.
  /// - Throws: ``BackendError`` if the backend does not serve the type and device.
  /// - Precondition: the fold holds N tokens if the support is a block one, and N ≥ 1.
  public init(
    of pattern: AttentionPattern, tokens: Int, width: Int = 16, backend: Backend = .automatic,
    dtype: DType = .float32, device: Device = .cpu, seed: UInt64 = 1
  ) throws {
    if let objection = pattern.objection(tokens: tokens) { fatalError(objection) }
    require(
      tokens >= 1 && (dtype == .float32 || dtype == .float64),
      "Properties need a token and float32 or float64, got \(tokens) and \(dtype).")
    self.pattern = pattern
    self.tokens = tokens
    self.backend = try backend.resolved(dtype: dtype, device: device)
    self.dtype = dtype
    self.device = device
    let generator = Generator(seed: seed)
    let draw = { (shape: [Int]) in
      Tensor.randn(shape, generator: generator).to(dtype: dtype, device: device)
    }
    queries = draw([1, heads, tokens, width])
    keys = draw([1, 1, tokens, width])
    values = draw([1, 1, tokens, width])
    beta = draw([pattern.fold.order, heads])
  }

  private func attend(
    _ pattern: AttentionPattern? = nil, queries q: Tensor? = nil, keys k: Tensor? = nil,
    values v: Tensor? = nil, backend other: Backend? = nil
  ) -> (output: Tensor, logSumExp: Tensor) {
    let pattern = pattern ?? self.pattern
    return withNoGrad {
      tensorizedAttention(
        queries: q ?? queries, keys: k ?? keys, values: v ?? values, pattern: pattern,
        beta: pattern.fold.order == self.pattern.fold.order ? beta : nil,
        backend: other ?? backend)
    }
  }

  /// |found − expected| ≤ 2·ε·m·(1 + Z)·√D·‖expected‖: logits of size Z sum D products, so the
  /// weights carry a relative error of (1 + Z)·√D·ε, and every pass adds its own.
  private func deviation(_ found: Tensor, from expected: Tensor) -> Deviation {
    let (x, y) = (found.to(.cpu).to(.float64), expected.to(.cpu).to(.float64))
    let difference = (x - y).abs().flatten()
    let error = difference.max().item(Double.self)
    let place = difference.argmax(axis: 0).item(Int.self)
    let longest = { (rows: Tensor) in
      (rows * rows).sum(axis: -1).max().item(Double.self).squareRoot()
    }
    let width = Double(queries.size(3))
    let logit = longest(queries) * longest(keys) / width.squareRoot()
    let unit = dtype == .float32 ? 0x1p-24 : 0x1p-53
    let size = max(y.abs().max().item(Double.self), 1)
    var (position, rest) = ([Int](), place)
    for extent in x.shape.reversed() {
      position.insert(rest % extent, at: 0)
      rest /= extent
    }
    return Deviation(
      error: error,
      bound: 2 * unit * Double(pattern.fold.order) * (1 + logit) * width.squareRoot() * size,
      position: position, expected: y.flatten().select(axis: 0, place).item(Double.self),
      found: x.flatten().select(axis: 0, place).item(Double.self))
  }
}

// MARK: - What a token sees

extension PatternProperties {
  /// Changes one token after the other, strongly, and compares all outputs before it bit by bit.
  ///
  /// - Parameter probes: the tokens to change; by default ends, the middle and both sides of every
  ///   stride.
  /// - Returns: nil for a support that is not causal.
  public func leak(probes: [Int]? = nil) -> LeakReport? {
    guard pattern.support.isCausal else { return nil }
    let candidates =
      [0, 1, tokens / 3, tokens / 2, tokens - 1] + pattern.fold.strides.flatMap { [$0 - 1, $0] }
    return feel(Set(probes ?? candidates).filter { (0..<tokens).contains($0) }.sorted())
  }

  /// The same under any support: one that is not causal leaks.
  package func feel(_ probes: [Int]) -> LeakReport {
    let before = bits()
    var leaks: [LeakReport.Leak] = []
    var ignored: [Int] = []
    for probe in probes {
      let differs = (bits(changing: probe) .!= before).to(.int32).max(axes: [1])
      let first = differs.argmax(axis: 0).item(Int.self)
      if first < probe, differs[first].item(Int.self) == 1 {
        leaks.append(.init(changed: probe, seenAt: first))
      }
      if differs[probe].item(Int.self) == 0 { ignored.append(probe) }
    }
    return LeakReport(probes: probes, leaks: leaks, ignored: ignored)
  }

  /// The bits of all rows of the output and of all log-sum-exps as integers, [N, H·(D + 1)].
  private func bits(changing token: Int? = nil) -> Tensor {
    let changed = { (rows: Tensor, shift: Double) -> Tensor in
      guard let token else { return rows }
      let copy = rows.cloned()
      copy.narrow(axis: 2, from: token, count: 1).addInPlace(shift)
      return copy
    }
    let (output, lse) = attend(
      queries: changed(queries, 30), keys: changed(keys, -30), values: changed(values, 1000))
    let rows = Tensor.cat([output, lse.unsqueeze(-1)], axis: 3).transpose(1, 2)
      .reshape([tokens, -1]).contiguous()
    return ATen.tensor(
      "aten::view.dtype", [.tensor(rows), .dtype(dtype == .float32 ? .int32 : .int64)])
  }

  /// The pairs that influence each other, by theory.
  public var reach: Reach { pattern.reach(tokens: tokens) }

  /// The pairs that influence each other, as run: the weights of the first head's implied matrix
  /// that are not 0.
  ///
  /// - Complexity: that of ``impliedAttentionMatrix(queries:keys:pattern:scale:beta:modeBiases:backend:)``.
  public func measuredReach() -> Reach {
    let zeros = (matrix() .== 0.0).to(.int64).sum().item(Int.self)
    return Reach(reached: tokens * tokens - zeros, possible: reach.possible)
  }

  private func matrix() -> Tensor {
    impliedAttentionMatrix(
      queries: queries.select(axis: 1, 0).squeeze(0), keys: keys.select(axis: 1, 0).squeeze(0),
      pattern: pattern, beta: beta.select(axis: 1, 0), backend: backend)
  }

  /// Rows of the implied matrix that the backend's values pass through, against rows that the chain
  /// implies when it runs backwards in f64.
  public func impliedRows(_ rows: [Int]? = nil) -> Deviation {
    let all = matrix()
    let rows = rows ?? Array(Set([0, tokens / 2, tokens - 1])).sorted()
    let expected = rows.flatMap {
      impliedAttentionRow(
        token: $0, queries: queries.select(axis: 1, 0).squeeze(0),
        keys: keys.select(axis: 1, 0).squeeze(0), pattern: pattern, beta: beta.select(axis: 1, 0))
    }
    let index = Tensor(rows.map(Int64.init), device: device)
    return deviation(
      all.indexSelect(axis: 0, index), from: Tensor(expected, shape: [rows.count, tokens]))
  }
}

// MARK: - What a pattern equals

extension PatternProperties {
  /// The rows of every pass sum to one: values of 1 stay 1.
  public func rowSums() -> Deviation {
    let ones = values.onesLike()
    let output = attend(values: ones).output
    return deviation(output, from: output.onesLike())
  }

  /// Attention of order 1 over the same tokens equals libtorch's scaled dot-product attention.
  public func orderOne() -> Deviation {
    var single = pattern
    single.fold = Fold([tokens])
    return deviation(
      attend(single).output,
      from: ordinary(
        rotary: RotaryAngles(
          pattern.rotary, mode: single.fold.modes[0], width: queries.size(3)), tokens: tokens))
  }

  /// A sequence of at most n_m tokens is attended as by ordinary attention: causal under a causal
  /// support, bidirectional under `block`. It holds for both normalizations and both orders, because
  /// every higher mode sees nothing but the token itself.
  public func shortSequence() -> Deviation {
    let lowest = pattern.fold.modes[pattern.fold.order - 1]
    let count = min(tokens, lowest.size)
    let short = { (rows: Tensor) in rows.narrow(axis: 2, from: 0, count: count) }
    let output = attend(queries: short(queries), keys: short(keys), values: short(values)).output
    return deviation(
      output,
      from: ordinary(
        rotary: RotaryAngles(pattern.rotary, mode: lowest, width: queries.size(3)),
        tokens: count))
  }

  /// The output equals that of the plain loops in f64.
  public func reference() -> Deviation {
    let exact = { (rows: Tensor) in rows.to(.cpu).to(.float64) }
    let expected = withNoGrad {
      tensorizedAttention(
        queries: exact(queries), keys: exact(keys), values: exact(values), pattern: pattern,
        beta: exact(beta), backend: .reference)
    }
    return deviation(attend().output, from: expected.output)
  }

  /// Decoding in steps of 1, 2, 4, … tokens equals the whole sequence; nil if the support is not
  /// causal.
  public func decoding() -> Deviation? {
    guard pattern.support.isCausal else { return nil }
    let cache = TensorizedAttentionCache(pattern: pattern)
    var rows: [Tensor] = []
    var (start, count) = (0, 1)
    while start < tokens {
      let end = min(start + count, tokens)
      let part = { (all: Tensor) in all.narrow(axis: 2, from: start, count: end - start) }
      rows.append(
        cache.attend(queries: part(queries), keys: part(keys), values: part(values), beta: beta))
      (start, count) = (end, count * 2)
    }
    return deviation(.cat(rows, axis: 2), from: attend().output)
  }

  /// libtorch's attention of the first tokens, queries and keys turned by hand.
  private func ordinary(rotary: RotaryAngles?, tokens count: Int) -> Tensor {
    let first = { (rows: Tensor) in
      rows.narrow(axis: 2, from: 0, count: count).to(.cpu).to(.float64)
    }
    return withNoGrad {
      scaledDotProductAttention(
        queries: turned(first(queries), rotary), keys: turned(first(keys), rotary),
        values: first(values), isCausal: pattern.support.isCausal, groupedQueries: true)
    }
  }

  private func turned(_ rows: Tensor, _ rotary: RotaryAngles?) -> Tensor {
    guard let rotary else { return rows }
    let half = rows.size(3) / 2
    let turns =
      Tensor.arange(0, rows.size(2), dtype: .float64).unsqueeze(-1) * Tensor(rotary.perPlace)
    let (cosines, sines) = (turns.cos() * rotary.magnitude, turns.sin() * rotary.magnitude)
    let x = rows.narrow(axis: 3, from: 0, count: half)
    let y = rows.narrow(axis: 3, from: half, count: half)
    return .cat([x * cosines - y * sines, y * cosines + x * sines], axis: 3)
  }
}

// MARK: - All of them

extension PatternProperties {
  /// The most tokens for which the quadratic properties and the slow reference are run.
  private static let quadraticLimit = 1024

  /// Runs every property that applies.
  public func report() -> PropertyReport {
    let isSmall = tokens <= Self.quadraticLimit
    var checks = [leakCheck(), check("rows sum to one", rowSums())]
    let short = min(tokens, pattern.fold.sizes.last ?? 1)
    checks.append(check("\(short) tokens equal ordinary attention", shortSequence()))
    checks.append(
      isSmall
        ? check("order 1 equals ordinary attention", orderOne())
        : skipped("order 1 equals ordinary attention"))
    checks.append(check("decoding equals the whole sequence", decoding()))
    if isSmall {
      checks.append(check("output equals the f64 reference", reference()))
      checks.append(check("implied rows equal the f64 chain", impliedRows()))
      checks.append(reachCheck())
    } else {
      checks += [
        "output equals the f64 reference", "implied rows equal the f64 chain",
        "weights are zero exactly where nothing reaches",
      ].map(skipped)
    }
    return PropertyReport(
      pattern: pattern, tokens: tokens, backend: backend, reach: reach,
      reachOfFold: pattern.fold.capacity <= 1 << 31
        ? pattern.reach(tokens: pattern.fold.capacity) : nil,
      checks: checks, passed: checks.allSatisfy { $0.passed != false })
  }

  private func skipped(_ name: String) -> PropertyReport.Check {
    .init(name: name, passed: nil, detail: "for \(Self.quadraticLimit) tokens and fewer")
  }

  private func check(_ name: String, _ deviation: Deviation?) -> PropertyReport.Check {
    guard let deviation else {
      return .init(name: name, passed: nil, detail: "\(pattern.support.rawValue) is not causal")
    }
    let errors = "error \(brief(deviation.error)), bound \(brief(deviation.bound))"
    return .init(
      name: name, passed: deviation.passed,
      detail: deviation.passed
        ? errors
        : "\(errors), at \(deviation.position) expected \(deviation.expected), found "
          + "\(deviation.found)")
  }

  private func leakCheck() -> PropertyReport.Check {
    let name = "no leak from later tokens"
    guard let report = leak() else { return check(name, nil) }
    var detail = "\(report.probes.count) tokens changed, outputs before them bitwise the same"
    if let leak = report.leaks.first {
      detail = "a change of token \(leak.changed) is seen at token \(leak.seenAt)"
    } else if let token = report.ignored.first {
      detail = "a change of token \(token) is not even seen there"
    }
    return .init(name: name, passed: report.passed, detail: detail)
  }

  private func reachCheck() -> PropertyReport.Check {
    let measured = measuredReach()
    return .init(
      name: "weights are zero exactly where nothing reaches", passed: measured == reach,
      detail: "\(measured.reached) of \(measured.possible) pairs have weight")
  }

  /// Two significant digits: 1.3e-07.
  private func brief(_ value: Double) -> String {
    guard value > 0, value < .infinity else { return "\(value)" }
    var (digits, power) = (value, 0)
    while digits >= 9.95 { (digits, power) = (digits / 10, power + 1) }
    while digits < 0.995 { (digits, power) = (digits * 10, power - 1) }
    return "\((digits * 10).rounded() / 10)e\(power)"
  }
}
