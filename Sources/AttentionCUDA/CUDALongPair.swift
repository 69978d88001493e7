import Folding

/// The passes of the two lowest block modes in one launch, where the upper one's fibers are long: each block of both modes
/// meets its upper pass soon after its lower one, so that L2 serves q, k and what the lower pass returned.
///
/// Eight tensor moves of the two become four where L2 keeps everything.
public struct CUDALongPairShape: Sendable, Hashable {
  /// The pass of the lowest mode.
  public let lower: CUDAPassShape
  /// The pass of the mode above it.
  public let upper: CUDAPassShape

  /// Positions of a tile.
  private static let tile = 64
  /// The bytes of q, of k and of u that a block of both modes may have: L2 holds three times as much, beside as much that
  /// is under way.
  private static let mostBytes = 4 << 20
  /// The least bytes of a walk's queries: with half of that, 128·64 at head width 64, the pair took 10 to 20 % longer than
  /// two launches.
  private static let leastBytes = 32 << 10
  /// As much as has been measured to gain (128·64 at 4 heads × 8192 tokens: 3 %, at 8 heads 14 %).
  private static let leastRows = 1 << 15

  /// Creates the pair, or nil if the two passes need a launch each: on other GPUs than Hopper's, in f32 and with head
  /// widths other than 64 and 128, with rotary positions (instructions bind those passes, not the memory), biases
  /// or sliding windows; where tiles of 64 positions do not cover whole fibers, where a fiber does not fit the ring beside
  /// results on their way, where the passes have no walks of the same size (the lower mode must have 64 positions, or both
  /// modes the same number; there `block` gains nothing), where a block of both modes leaves L2, and with little work.
  ///
  /// - Parameters:
  ///   - capability: ``CUDADriver/Device/capability``.
  ///   - sharedMemory: ``CUDADriver/Device/sharedMemory``.
  public init?(
    lower: CUDAPassShape, upper: CUDAPassShape, capability: Int = 90,
    sharedMemory: Int = 227 * 1024
  ) {
    let (x, y) = (upper.mode.size, lower.mode.size)
    let bytes = x * y * lower.headWidth * lower.element.size
    guard capability == 90, lower.element != .float32, [64, 128].contains(lower.headWidth),
      lower.support != .slidingCausal, lower.support == upper.support,
      lower.mode.stride == 1, upper.mode.stride == y, upper.valueHeads == upper.heads,
      !lower.isRotary, !upper.isRotary, !lower.hasBias, !upper.hasBias, !lower.isJoint,
      !lower.hasBeta,
      x > Self.tile, x % Self.tile == 0,
      y == Self.tile || (x == y && lower.support == .blockCausal),
      x <= Self.tile * Self.mostTiles(lower.headWidth), bytes <= Self.mostBytes,
      x * lower.headWidth * lower.element.size >= Self.leastBytes,
      upper.batch * upper.heads * upper.tokens >= Self.leastRows
    else { return nil }
    self.lower = lower
    self.upper = upper
    guard plan.sharedMemory <= sharedMemory else { return nil }
  }

  /// The tiles of a fiber that fit the ring.
  private static func mostTiles(_ width: Int) -> Int { width == 128 ? 3 : 4 }

  /// The tiles of keys and values in the ring: no more than keep the memory busy, as L2 has to hold what is under way.
  private var ringTiles: Int { lower.headWidth == 128 ? upper.mode.size / Self.tile + 1 : 6 }

  private static let plans = PlanMemo<CUDALongPairShape, LaunchPlan>()

  /// The kernel of both passes.
  package var plan: LaunchPlan { Self.plans(self) { formPlan() } }

  private func formPlan() -> LaunchPlan {
    // The ring, two blocks of queries, staged results of either pass of two consumers; barriers and ℓ'.
    let memory = (2 * ringTiles + 6) * Self.tile * lower.headWidth * 2 + 1792
    var plan = upper.plan(
      "ForwardWarpgroup", "forwardWarpgroup", rows: 128, sharedMemory: memory,
      [
        "STAGES": ringTiles, "TILES": upper.mode.size / Self.tile,
        "WINDOW": 0, "BOTH": 1, "APART": lower.mode.size == Self.tile ? 1 : 0,
      ])
    plan.useWarpgroups(4)
    return plan
  }

  /// Consecutive tokens that no fiber of either mode leaves.
  private var unit: Int { lower.mode.size * upper.mode.size }

  var unitsPerHead: Int { (upper.tokens + unit - 1) / unit }

  /// Blocks of both modes of all heads.
  var units: Int { unitsPerHead * upper.batch * upper.heads }

  /// The walks that either pass has for one block of both modes.
  package var unitWalks: Int { lower.mode.size }

  /// How many walks the upper pass is behind the lower one: those that run at once, and a quarter more than a block of both
  /// modes has. Less would be waited for (with 122 instead of 130 to 145 walks, 128·64 took 6 % longer), more leaves L2
  /// (with 200, 5 %).
  ///
  /// - Parameter blocks: those that are launched.
  package func lag(blocks: Int) -> Int {
    max(blocks + blocks / 16, unitWalks + blocks / 4)
  }

  /// Bytes of scratch memory that ``CUDAKernels/forwardLongPair(_:lower:upper:workspace:stream:)`` needs.
  public var workspaceBytes: Int { units * 4 }
}

/// The kernels' `struct PairedForward`.
package struct PairedForwardParameters {
  var lower: ForwardWalkParameters
  var upper: ForwardWalkParameters
  var finished: UInt64
  var byWalks: WalkParameters.Division
  var byUnits: WalkParameters.Division
  var unitWalks: Int32
  var unitsPerHead: Int32
  var walks: Int32
  var lag: Int32
  var padding: (UInt64, UInt64, UInt64) = (0, 0, 0)
}

extension CUDAKernels {
  /// Launches the forward passes of the two lowest modes, the upper one's fibers being long, as one.
  ///
  /// - Parameters:
  ///   - lower: the pass of the lowest mode.
  ///   - upper: the pass above, whose values are what `lower` writes; it may write over them.
  ///   - workspace: ``CUDALongPairShape/workspaceBytes`` of device memory.
  /// - Throws: ``CUDAError``.
  /// - Precondition: as for ``forward(_:stream:)``; both passes want all queries and have a positive scale.
  /// - Complexity: the operations of the passes; q, k, v read and the result written once, and what is
  ///   between them as far as L2 forgets it.
  public func forwardLongPair(
    _ shape: CUDALongPairShape, lower: CUDAPass, upper: CUDAPass, workspace: CUDADriver.Address,
    stream: CUDADriver.Stream
  ) throws {
    precondition(
      lower.firstQuery == 0 && upper.firstQuery == 0, "Paired passes write every token's row.")
    let device = try driver.device()
    let kernel = try kernels(.forwardLongPair(shape), on: device)[0]
    let walks = shape.units * shape.unitWalks
    let blocks = min(device.multiprocessors, walks)
    // A walk of the lower pass has as many rows as one of the upper pass.
    var below = try tensorWalk(walk(of: lower, on: device), of: lower, outputRows: 64)
    below.walk.pass.size = Int32(upper.shape.mode.size)
    try driver.clear(workspace, bytes: shape.workspaceBytes, stream: stream)
    // Walks wait for rows of others: all blocks must be there.
    try driver.launch(
      kernel.function, grid: (blocks, 1), threads: kernel.plan.threads,
      sharedMemory: kernel.plan.sharedMemory, stream: stream, isCooperative: true,
      parameters: PairedForwardParameters(
        lower: below, upper: try tensorWalk(walk(of: upper, on: device), of: upper, outputRows: 64),
        finished: workspace, byWalks: .init(shape.unitWalks), byUnits: .init(shape.unitsPerHead),
        unitWalks: Int32(shape.unitWalks), unitsPerHead: Int32(shape.unitsPerHead),
        walks: Int32(walks), lag: Int32(shape.lag(blocks: blocks))))
  }

  /// A pass whose walks follow from those of the pair.
  private func walk(of pass: CUDAPass, on device: CUDADriver.Device) throws -> WalkParameters {
    WalkParameters(
      try parameters(of: pass, on: device),
      schedule: .init(order: .acrossFibers, walkSteps: 1, chunks: 1, walks: 0, blocks: 0), fibers: 1
    )
  }
}
