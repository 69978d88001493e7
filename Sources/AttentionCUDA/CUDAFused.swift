import Folding

/// Two short passes that one launch runs: those of the two lowest modes, whose fibers together are
/// n_{m−1}·n_m consecutive tokens that a cluster of blocks owns.
///
/// q, k and v come from memory once; what the lower pass returns goes from block to block.
public struct CUDAFusedShape: Sendable, Hashable {
  /// The pass of the lowest mode.
  public let lower: CUDAPassShape
  /// The pass of the mode above it.
  public let upper: CUDAPassShape
  /// Whether the lower pass's u' and ℓ' are written, as a backward pass needs them.
  public let saves: Bool
  /// Whether the upper pass's ℓ' is written. Where nobody reads it, it would be 6 % of the writes to L2.
  public let returnsLSE: Bool
  /// Blocks of 64 rows that own the fibers of both modes.
  let cluster: Int

  /// Blocks that share memory: 16 is what an H100-class GPU allows.
  static let largestCluster = 16
  private static let rows = 64
  /// A part of a GPU with fewer multiprocessors may have no sixteen that share memory.
  private static let leastMultiprocessors = 4 * largestCluster

  /// Creates the pair, or nil if the two passes need a launch each: on other GPUs than Hopper's, in f32 and with
  /// wide heads (where fewer blocks fit a multiprocessor and nothing has been measured), on a slice of a GPU
  /// that may not hold a cluster, with sliding
  /// windows (which leave the tokens of a block), with fibers of more than 64 positions, with more than
  /// 1024 tokens in a block of both modes, or where more than half of a cluster's rows would be idle.
  ///
  /// - Parameters:
  ///   - returnsLSE: whether the upper pass has a ``CUDAPass/lse``.
  ///   - capability: ``CUDADriver/Device/capability``.
  ///   - sharedMemory: ``CUDADriver/Device/sharedMemory``.
  ///   - multiprocessors: ``CUDADriver/Device/multiprocessors``.
  public init?(
    lower: CUDAPassShape, upper: CUDAPassShape, saves: Bool, returnsLSE: Bool = true,
    capability: Int = 90,
    sharedMemory: Int = 227 * 1024, multiprocessors: Int = 132
  ) {
    let (x, y) = (upper.mode.size, lower.mode.size)
    guard capability == 90, multiprocessors >= Self.leastMultiprocessors, lower.element != .float32,
      lower.headWidth <= 128,
      lower.support != .slidingCausal, lower.support == upper.support,
      lower.mode.stride == 1, upper.mode.stride == y, x <= Self.rows, y <= Self.rows
    else { return nil }
    let lowerFibers = Self.rows / Self.packed(y)
    let upperFibers = Self.rows / Self.packed(x)
    let blocks = max(
      (x + lowerFibers - 1) / lowerFibers, (y + upperFibers - 1) / upperFibers)
    let cluster = Self.packed(blocks)
    // Half of the rows at least should be tokens.
    guard cluster <= Self.largestCluster, 2 * x * y >= cluster * Self.rows else { return nil }
    self.lower = lower
    self.upper = upper
    self.saves = saves
    self.returnsLSE = returnsLSE
    self.cluster = cluster
    // A cluster must fit a part of the GPU with some 16 multiprocessors twice, or it may wait for long.
    let most = [forwardPlan.sharedMemory, saves ? backwardClusterPlan.sharedMemory : 0].max() ?? 0
    guard cluster * most * 2 <= 16 * sharedMemory, most <= sharedMemory,
      !saves || backwardPlan.sharedMemory <= sharedMemory
    else { return nil }
  }

  private static func packed(_ count: Int) -> Int {
    var size = 1
    while size < count { size *= 2 }
    return size
  }

  private var tokensPerCluster: Int { upper.mode.size * lower.mode.size }

  /// Blocks of both modes that a head's tokens make.
  var blocksPerHead: Int { (lower.tokens + tokensPerCluster - 1) / tokensPerCluster }

  /// The first dimension of a launch.
  var blocks: Int { blocksPerHead * cluster }

  func plan(
    _ file: String, _ entry: String, sharedMemory: Int, _ extra: [String: Int]
  ) -> LaunchPlan {
    var macros = extra
    macros["FUSED"] = 1
    macros["LOWER"] = Self.packed(lower.mode.size)
    macros["UPPER"] = Self.packed(upper.mode.size)
    macros["LOWER_SIZE"] = lower.mode.size
    macros["UPPER_SIZE"] = upper.mode.size
    macros["LOWER_BIAS"] = lower.hasBias ? 1 : 0
    macros["UPPER_BIAS"] = upper.hasBias ? 1 : 0
    macros["CLUSTER"] = cluster
    macros["GROUPED"] = lower.heads > lower.keyHeads ? 1 : 0
    var plan = upper.plan(file, entry, rows: Self.rows, sharedMemory: sharedMemory, macros)
    plan.cluster = cluster
    return plan
  }

  private static let forwardPlans = PlanMemo<CUDAFusedShape, LaunchPlan>()
  private static let clusterPlans = PlanMemo<CUDAFusedShape, LaunchPlan?>()
  private static let backwardClusterPlans = PlanMemo<CUDAFusedShape, LaunchPlan>()

  /// The kernel of both forward passes.
  package var forwardPlan: LaunchPlan { Self.forwardPlans(self) { formForwardPlan() } }

  private func formForwardPlan() -> LaunchPlan {
    let memory = Self.rows * (3 * lower.rowBytes + 12) + 8
    return plan(
      "ForwardFused", "forwardFused", sharedMemory: memory,
      ["SAVE": saves ? 1 : 0, "BLOCKS": min(4, 227 * 1024 / (memory + 1024))])
  }

  /// The kernel of both forward passes whose blocks stay and take one cluster's tokens after the other, or nil
  /// where it has none: with rotary positions, other head widths than 64 and 128, fewer than 128 rows, and small
  /// clusters with rows that are no tokens, where blocks that come and go are faster (5·13: 0.70 ms, not 0.83).
  package var clusterPlan: LaunchPlan? { Self.clusterPlans(self) { formClusterPlan() } }

  private func formClusterPlan() -> LaunchPlan? {
    let width = lower.headWidth
    guard !lower.isRotary, width == 64 || width == 128, cluster > 1,
      cluster > 2 || tokensPerCluster == cluster * Self.rows
    else { return nil }
    // Fourteen tiles of 64 rows; ℓ', marks and barriers.
    let memory = 14 * 64 * width * 2 + 2304
    var plan = plan(
      "ForwardCluster", "forwardCluster", sharedMemory: memory,
      ["SAVE": saves ? 1 : 0, "LSE": returnsLSE ? 1 : 0, "TILES": cluster, "TOP": 0])
    plan.cluster = cluster / 2
    plan.macros.removeAll { $0.hasPrefix("CLUSTER=") }
    plan.useWarpgroups(4)
    return plan
  }

  /// The kernel of both backward passes.
  package var backwardPlan: LaunchPlan { backwardWarpgroupPlan ?? backwardClusterPlan }

  /// The kernel of both backward passes whose blocks come and go.
  package var backwardClusterPlan: LaunchPlan {
    Self.backwardClusterPlans(self) { formBackwardClusterPlan() }
  }

  private func formBackwardClusterPlan() -> LaunchPlan {
    let span = max(16, Self.packed(max(lower.mode.size, upper.mode.size)))
    let tiles = Self.rows * (2 * lower.rowBytes + 2 * max(lower.rowBytes, (span + 8) * 2))
    let memory = tiles + Self.rows * 8 + 64
    // Sums over a group's heads stay in registers.
    let limit = lower.heads > lower.keyHeads ? 2 : 3
    return plan(
      "Backward", "backwardFused", sharedMemory: memory,
      [
        "TILES": tiles,
        "BLOCKS": min(limit, 227 * 1024 / (memory + 1024)),
      ])
  }

  /// Bytes of scratch memory that ``CUDAKernels/backwardFused(_:lower:_:upper:_:stream:)`` needs.
  ///
  /// - Parameter lseRow: tokens a row of ℓ holds.
  public func workspaceBytes(lseRow: Int) -> Int {
    lower.batch * lower.heads * (lseRow + blocks) * 4
  }
}

extension CUDAKernels {
  /// Launches the forward passes of the two lowest modes as one.
  ///
  /// - Parameters:
  ///   - lower: the pass of the lowest mode; its output and ℓ' are written if the shape ``CUDAFusedShape/saves``.
  ///   - upper: the pass above; its values are not read, and its ℓ' is written if the shape
  ///     ``CUDAFusedShape/returnsLSE``.
  /// - Throws: ``CUDAError``.
  /// - Precondition: as for ``forward(_:stream:)``; both passes want all queries.
  /// - Complexity: the operations of both passes; q, k, v read once and u' of the upper pass written once.
  public func forwardFused(
    _ shape: CUDAFusedShape, lower: CUDAPass, upper: CUDAPass, stream: CUDADriver.Stream
  ) throws {
    precondition(
      lower.firstQuery == 0 && upper.firstQuery == 0, "Fused passes write every token's row.")
    let device = try driver.device()
    let kernel = try kernels(.forwardFused(shape), on: device)[0]
    let lines = shape.lower.batch * shape.lower.heads
    var grid = (shape.blocks, lines)
    if kernel.plan.entry == "forwardCluster" {
      let clusters = try activeClusters(of: kernel, on: device)
      grid = (min(clusters, shape.blocksPerHead * lines) * kernel.plan.cluster, 1)
    }
    try driver.launch(
      kernel.function, grid: grid,
      threads: kernel.plan.threads, sharedMemory: kernel.plan.sharedMemory, stream: stream,
      overlaps: device.overlapsLaunches,
      parameters: FusedParameters(
        lower: try parameters(of: lower, on: device), upper: try parameters(of: upper, on: device)))
  }

  /// Launches the backward passes of the two lowest modes as one.
  ///
  /// - Parameters:
  ///   - lower: the pass of the lowest mode with its saved u' and ℓ'; `lowerGradients` takes as ∂/∂u' what
  ///     `upperGradients` leaves as ∂/∂u. Where keys are not grouped, that may be the memory of ∂/∂v.
  ///   - upper: the pass above.
  /// - Throws: ``CUDAError``.
  /// - Precondition: as for ``backward(_:_:stream:)``; `lowerGradients` accumulates.
  public func backwardFused(
    _ shape: CUDAFusedShape, lower: CUDAPass, _ lowerGradients: CUDAPassGradients,
    upper: CUDAPass, _ upperGradients: CUDAPassGradients, stream: CUDADriver.Stream
  ) throws {
    precondition(
      lowerGradients.accumulates && lowerGradients.output == upperGradients.values,
      "The lower pass goes on where the upper one stops.")
    let device = try driver.device()
    let isBulk = shape.hasBulkCopies(
      lower: lower, lowerGradients, upper: upper, upperGradients, on: device)
    let kernels = try kernels(
      isBulk ? .backwardFusedBulk(shape) : .backwardFused(shape), on: device)
    var parameters = FusedParameters(
      lower: try parameters(of: lower, lowerGradients, on: device),
      upper: try parameters(of: upper, upperGradients, on: device))
    let plan = kernels[0].plan
    let lines = shape.lower.batch * shape.lower.keyHeads
    var grid = (shape.blocks, lines)
    if plan.entry != "backwardFused" {
      let clusters = try activeClusters(of: kernels[0], on: device)
      grid = (min(clusters, shape.blocks / shape.cluster * lines) * plan.cluster, 1)
    }
    if isBulk {
      // It forms D itself, and asks a counter in its place for stretches of tokens.
      parameters.lower.dot = try walkCounter(on: device)
      try driver.launch(
        kernels[0].function, grid: grid, threads: plan.threads, sharedMemory: plan.sharedMemory,
        stream: stream, overlaps: device.overlapsLaunches,
        parameters: FusedBulkParameters(
          both: parameters,
          lower: try maps(of: lower, lowerGradients, fiber: lower.shape.mode.size),
          upper: try maps(of: upper, upperGradients, fiber: upper.shape.mode.size)))
    } else {
      try driver.launch(
        kernels[0].function, grid: grid, threads: plan.threads, sharedMemory: plan.sharedMemory,
        stream: stream, overlaps: device.overlapsLaunches, parameters: parameters)
    }
    guard shape.upper.hasBeta else { return }
    try driver.launch(
      kernels[1].function, grid: (shape.upper.heads, 1), threads: 256, sharedMemory: 0,
      stream: stream,
      overlaps: device.overlapsLaunches,
      parameters: Reduction(
        parameters.upper, count: shape.upper.batch * shape.blocks, to: upperGradients,
        shape.upper.element))
  }
}
