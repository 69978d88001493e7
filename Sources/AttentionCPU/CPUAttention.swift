import AttentionCore
import AttentionKernels
import AttentionKernelsAVX512
import Folding

#if canImport(Glibc)
  import Glibc
#endif

/// A mode bias in memory.
public struct BiasPointer {
  /// `[H or 1, n_k, n_k]` for block supports, `[H or 1, n_k]` for the sliding one, contiguous.
  public let values: UnsafePointer<Float>
  /// Whether every head has its own.
  public let isPerHead: Bool

  /// Describes a bias.
  public init(_ values: UnsafePointer<Float>, isPerHead: Bool) {
    self.values = values
    self.isPerHead = isPerHead
  }
}

/// The constant inputs of the operator in memory, f32.
public struct AttentionInputs {
  /// q, H heads, from the first wanted query on.
  public var queries: Rows<Float>
  /// k, G heads.
  public var keys: Rows<Float>
  /// v, G heads.
  public var values: Rows<Float>
  /// β, `[m, H]`, heads next to each other.
  public var beta: UnsafePointer<Float>?
  /// The distance between the β of two modes.
  public var betaStride: Int
  /// The bias of mode k at index k − 1.
  public var biases: [BiasPointer?]

  /// Collects the inputs.
  public init(
    queries: Rows<Float>, keys: Rows<Float>, values: Rows<Float>,
    beta: UnsafePointer<Float>? = nil, betaStride: Int = 0, biases: [BiasPointer?] = []
  ) {
    self.queries = queries
    self.keys = keys
    self.values = values
    self.beta = beta
    self.betaStride = betaStride
    self.biases = biases
  }
}

/// Memory for what the forward pass keeps for the backward pass: the running values between passes
/// and the log-sum-exp of every pass, (m − 1)·B·H·N·D + m·B·H·N floats that the caller owns.
public struct SavedPasses {
  /// u after pass 1, …, m − 1 of the chain, each contiguous `[B, H, N, D]`.
  public let values: [UnsafeMutablePointer<Float>]
  /// ℓ after pass 1, …, m of the chain, each contiguous `[B, H, N]`.
  public let logSumExps: [UnsafeMutablePointer<Float>]

  /// Names the memory.
  public init(
    values: [UnsafeMutablePointer<Float>], logSumExps: [UnsafeMutablePointer<Float>]
  ) {
    self.values = values
    self.logSumExps = logSumExps
  }
}

/// Memory for floats, filled only if asked (tests poison it with NaN).
///
/// Large buffers ask for huge pages: touching them for the first time costs a page fault every
/// 2 MiB instead of every 4 KiB, which was a sixth of a forward pass.
private func allocate(_ count: Int, _ fill: Float?) -> UnsafeMutablePointer<Float> {
  let bytes = max(count, 1) * 4
  let isLarge = bytes >= 4 << 20
  let memory = UnsafeMutableRawPointer.allocate(
    byteCount: bytes, alignment: isLarge ? 2 << 20 : 64)
  #if os(Linux)
    if isLarge { madvise(memory, bytes, Int32(MADV_HUGEPAGE)) }
  #endif
  let pointer = memory.bindMemory(to: Float.self, capacity: max(count, 1))
  if let fill { pointer.initialize(repeating: fill, count: max(count, 1)) }
  return pointer
}

/// Buffers that the slices of a call use in turn, and so find in the cache.
private final class Workspace {
  /// Running values or their gradients, `[heads, N, D]` each.
  let rows: [UnsafeMutablePointer<Float>]
  /// Log-sum-exps or their gradients, `[heads, N]` each.
  let scalars: [UnsafeMutablePointer<Float>]

  init(
    largest shape: AttentionShape, rows rowBuffers: Int, scalars scalarBuffers: Int, fill: Float?
  ) {
    let count = shape.batch * shape.heads * shape.tokens
    rows = (0..<rowBuffers).map { _ in allocate(count * shape.width, fill) }
    scalars = (0..<scalarBuffers).map { _ in allocate(count, fill) }
  }

  deinit { for pointer in rows + scalars { pointer.deallocate() } }
}

/// The operator through the SIMD kernels.
///
/// All passes run over one slice of heads after the other, so that the q, k and u that a pass read
/// are still in the shared cache when the next pass wants them: strided rows from memory cost more
/// than the products do.
///
/// Results are bitwise the same for any executor. Memory beyond the output: one buffer of a slice's
/// running values forward (none at order 1), ``SavedPasses`` and two such buffers for backward, and
/// scratch of up to a MiB a running task at head width 64.
public struct CPUAttention: Sendable {
  /// The vector instructions in use.
  public let vectors: Processor.Vectors
  /// What runs the tasks.
  public let executor: ParallelExecutor
  private let fill: Float?

  /// Prepares the kernels.
  ///
  /// - Parameters:
  ///   - executor: what runs the tasks.
  ///   - vectors: the instructions to use, the widest that the processor has unless given.
  ///   - poisonsMemory: fills every buffer with NaN first, for tests.
  /// - Throws: ``Processor/Unsupported``.
  public init(
    executor: ParallelExecutor = .dispatch, vectors: Processor.Vectors? = nil,
    poisonsMemory: Bool = false
  ) throws(Processor.Unsupported) {
    let widest = try Processor.supported.get()
    self.vectors = vectors ?? widest
    self.executor = executor
    fill = poisonsMemory ? .nan : nil
    guard self.vectors == .avx2 || widest == .avx512 else {
      throw Processor.Unsupported(
        description: "The AVX-512 kernels were asked for and this processor has only AVX2.")
    }
  }

  /// One pass forward.
  public func forwardPass(_ arguments: PassArguments, _ rows: ForwardRows) {
    switch vectors {
    case .avx2: AttentionKernels.ForwardPass.run(arguments, rows, executor: executor)
    case .avx512: AttentionKernelsAVX512.ForwardPass.run(arguments, rows, executor: executor)
    }
  }

  /// One pass backward.
  public func backwardPass(_ arguments: PassArguments, _ rows: BackwardRows) {
    switch vectors {
    case .avx2: AttentionKernels.BackwardPass.run(arguments, rows, executor: executor)
    case .avx512: AttentionKernelsAVX512.BackwardPass.run(arguments, rows, executor: executor)
    }
  }

  /// The arguments of the pass of a mode.
  public static func arguments(
    _ mode: Mode, pattern: AttentionPattern, shape: AttentionShape, scale: Float,
    inputs: AttentionInputs
  ) -> PassArguments {
    let bias = inputs.biases.indices.contains(mode.index - 1) ? inputs.biases[mode.index - 1] : nil
    return PassArguments(
      shape: shape, mode: mode, support: pattern.support, scale: scale,
      angles: RotaryAngles(pattern.rotary, mode: mode, width: shape.width),
      beta: mode.isLowest ? nil : inputs.beta.map { $0 + (mode.index - 1) * inputs.betaStride },
      bias: bias?.values,
      biasHeadStride: bias?.isPerHead == true ? pattern.biasCount(mode) : 0)
  }

  /// Rows of a contiguous `[B, H, N, D]` buffer.
  private static func rows(
    _ base: UnsafeMutablePointer<Float>, _ shape: AttentionShape, heads: Int
  ) -> MutableRows<Float> {
    MutableRows(
      base, batchStride: heads * shape.tokens * shape.width,
      headStride: shape.tokens * shape.width, tokenStride: shape.width)
  }

  private func validate(_ pattern: AttentionPattern, _ shape: AttentionShape) {
    if let objection = pattern.objection(tokens: shape.tokens) { fatalError(objection) }
    require(
      shape.queries == 0..<shape.tokens,
      "A chain of passes needs the queries of all \(shape.tokens) tokens, got \(shape.queries).")
  }

  /// The whole operator, keeping nothing.
  ///
  /// - Parameters:
  ///   - pattern: fold, support, normalization, order, positions.
  ///   - shape: the sizes; its queries are the whole sequence.
  ///   - scale: the factor on the logits.
  ///   - inputs: q, k, v, β and biases in memory.
  ///   - output: `[B, H, N, D]` in any layout.
  ///   - logSumExp: ℓ of the last pass, contiguous `[B, H, N]`.
  public func forward(
    _ pattern: AttentionPattern, _ shape: AttentionShape, scale: Float, inputs: AttentionInputs,
    output: MutableRows<Float>, logSumExp: UnsafeMutablePointer<Float>
  ) {
    validate(pattern, shape)
    let slices = slices(shape)
    guard let largest = slices.first?.shape else { return }
    // Running values alternate between one buffer and the output so that the last pass ends there.
    let needed = pattern.fold.order > 1 ? 1 : 0
    let workspace = Workspace(largest: largest, rows: needed, scalars: needed, fill: fill)
    for slice in slices {
      forwardSlice(
        pattern, slice.shape, scale: scale, inputs: inputs.slice(slice, pattern),
        output: output.advanced(batch: slice.batch, head: slice.head),
        logSumExp: logSumExp + slice.firstRow, workspace: workspace)
    }
  }

  private func forwardSlice(
    _ pattern: AttentionPattern, _ shape: AttentionShape, scale: Float, inputs: AttentionInputs,
    output: MutableRows<Float>, logSumExp: UnsafeMutablePointer<Float>, workspace: Workspace
  ) {
    var values = inputs.values
    var carried: UnsafePointer<Float>?
    for (index, mode) in pattern.chain.enumerated() {
      let endsInOutput = (pattern.fold.order - 1 - index) % 2 == 0
      var target = output
      var lse = logSumExp
      if !endsInOutput {
        target = CPUAttention.rows(workspace.rows[0], shape, heads: shape.heads)
        lse = workspace.scalars[0]
      }
      forwardPass(
        CPUAttention.arguments(
          mode, pattern: pattern, shape: shape, scale: scale, inputs: inputs),
        ForwardRows(
          queries: inputs.queries, keys: inputs.keys, values: values,
          valuesAreGrouped: index == 0, carried: carried, output: target, logSumExp: lse,
          logSumExpStride: shape.tokens))
      values = target.reading
      carried = pattern.normalization == .joint ? UnsafePointer(lse) : nil
    }
  }

  /// The whole operator, keeping what the backward pass needs.
  public func forward(
    _ pattern: AttentionPattern, _ shape: AttentionShape, scale: Float, inputs: AttentionInputs,
    output: MutableRows<Float>, saving saved: SavedPasses
  ) {
    validate(pattern, shape)
    require(
      saved.values.count == pattern.fold.order - 1
        && saved.logSumExps.count == pattern.fold.order,
      "Order \(pattern.fold.order) saves \(pattern.fold.order - 1) running values and "
        + "\(pattern.fold.order) log-sum-exps, got memory for \(saved.values.count) and "
        + "\(saved.logSumExps.count).")
    for slice in slices(shape) {
      forwardSlice(
        pattern, slice.shape, scale: scale, inputs: inputs.slice(slice, pattern),
        output: output.advanced(batch: slice.batch, head: slice.head),
        saving: saved.slice(slice))
    }
  }

  private func forwardSlice(
    _ pattern: AttentionPattern, _ shape: AttentionShape, scale: Float, inputs: AttentionInputs,
    output: MutableRows<Float>, saving saved: SavedPasses
  ) {
    var values = inputs.values
    var carried: UnsafePointer<Float>?
    for (index, mode) in pattern.chain.enumerated() {
      let target =
        index < saved.values.count
        ? CPUAttention.rows(saved.values[index], shape, heads: shape.heads) : output
      forwardPass(
        CPUAttention.arguments(
          mode, pattern: pattern, shape: shape, scale: scale, inputs: inputs),
        ForwardRows(
          queries: inputs.queries, keys: inputs.keys, values: values,
          valuesAreGrouped: index == 0, carried: carried, output: target,
          logSumExp: saved.logSumExps[index], logSumExpStride: shape.tokens))
      values = target.reading
      carried = pattern.normalization == .joint ? UnsafePointer(saved.logSumExps[index]) : nil
    }
  }

  /// Where gradients come from and go to, in memory.
  public struct GradientRows {
    /// do, `[B, H, N, D]`.
    public var output: Rows<Float>
    /// The gradient of the returned log-sum-exp, contiguous `[B, H, N]`, or nil for zero.
    public var logSumExp: UnsafePointer<Float>?
    /// dq, added to.
    public var queries: MutableRows<Float>
    /// dk, added to.
    public var keys: MutableRows<Float>
    /// dv, written.
    public var values: MutableRows<Float>
    /// dβ, `[m, H]`, laid out as β; all rows but the lowest mode's are written.
    public var beta: UnsafeMutablePointer<Float>?
    /// The gradient of the bias of mode k at index k − 1, in its shape; written.
    public var biases: [UnsafeMutablePointer<Float>?]

    /// Collects the gradients.
    public init(
      output: Rows<Float>, logSumExp: UnsafePointer<Float>? = nil, queries: MutableRows<Float>,
      keys: MutableRows<Float>, values: MutableRows<Float>,
      beta: UnsafeMutablePointer<Float>? = nil, biases: [UnsafeMutablePointer<Float>?] = []
    ) {
      self.output = output
      self.logSumExp = logSumExp
      self.queries = queries
      self.keys = keys
      self.values = values
      self.beta = beta
      self.biases = biases
    }
  }

  /// All gradients, by recomputation from the saved log-sum-exps.
  public func backward(
    _ pattern: AttentionPattern, _ shape: AttentionShape, scale: Float, inputs: AttentionInputs,
    saved: SavedPasses, output: Rows<Float>, gradients: GradientRows
  ) {
    validate(pattern, shape)
    for mode in pattern.fold.modes where !mode.isLowest {
      gradients.beta.map { $0 + (mode.index - 1) * shape.heads }?
        .update(repeating: 0, count: shape.heads)
    }
    for (index, mode) in pattern.fold.modes.enumerated() {
      guard let bias = inputs.biases.indices.contains(index) ? inputs.biases[index] : nil,
        gradients.biases.indices.contains(index)
      else { continue }
      gradients.biases[index]?.update(
        repeating: 0, count: pattern.biasCount(mode) * (bias.isPerHead ? shape.heads : 1))
    }
    let slices = slices(shape)
    guard let largest = slices.first?.shape else { return }
    let between = min(2, pattern.fold.order - 1)
    let workspace = Workspace(
      largest: largest, rows: between,
      scalars: pattern.normalization == .joint ? between : 0, fill: fill)
    for slice in slices {
      backwardSlice(
        pattern, slice.shape, scale: scale, inputs: inputs.slice(slice, pattern),
        saved: saved.slice(slice), output: output.advanced(batch: slice.batch, head: slice.head),
        gradients: gradients.slice(slice, pattern, inputs), workspace: workspace)
    }
  }

  private func backwardSlice(
    _ pattern: AttentionPattern, _ shape: AttentionShape, scale: Float, inputs: AttentionInputs,
    saved: SavedPasses, output: Rows<Float>, gradients: GradientRows, workspace: Workspace
  ) {
    let order = pattern.fold.order
    let isJoint = pattern.normalization == .joint
    var du = gradients.output
    var dlse = gradients.logSumExp
    for (index, mode) in pattern.chain.enumerated().reversed() {
      let target =
        index == 0
        ? gradients.values
        : CPUAttention.rows(workspace.rows[index % workspace.rows.count], shape, heads: shape.heads)
      let carriedGradient =
        isJoint && index > 0 ? workspace.scalars[index % workspace.scalars.count] : nil
      let bias =
        gradients.biases.indices.contains(mode.index - 1)
        ? gradients.biases[mode.index - 1] : nil
      backwardPass(
        CPUAttention.arguments(
          mode, pattern: pattern, shape: shape, scale: scale, inputs: inputs),
        BackwardRows(
          queries: inputs.queries, keys: inputs.keys,
          values: index == 0
            ? inputs.values
            : CPUAttention.rows(saved.values[index - 1], shape, heads: shape.heads).reading,
          valuesAreGrouped: index == 0,
          carried: isJoint && index > 0 ? UnsafePointer(saved.logSumExps[index - 1]) : nil,
          output: index == order - 1
            ? output : CPUAttention.rows(saved.values[index], shape, heads: shape.heads).reading,
          logSumExp: UnsafePointer(saved.logSumExps[index]), outputGradient: du,
          logSumExpGradient: dlse, queriesGradient: gradients.queries,
          keysGradient: gradients.keys, valuesGradient: target,
          carriedGradient: carriedGradient,
          betaGradient: mode.isLowest
            ? nil : gradients.beta.map { $0 + (mode.index - 1) * inputs.betaStride },
          biasGradient: bias))
      du = target.reading
      dlse = carriedGradient.map { UnsafePointer($0) }
    }
  }
}
