import Folding

/// The passes of the two lowest block modes in one launch and the long pass above them in another one that does not wait
/// for its end.
///
/// Clusters of blocks cannot have all multiprocessors and do not end at the same time. On those that they leave idle,
/// the long pass begins with the heads whose rows they have written.
///
/// Blocks of the long pass wait for rows while they hold a multiprocessor, but never for blocks that need one:
/// `griddepcontrol.launch_dependents` lets a launch begin when *all* blocks of the one before have executed it or
/// ended. All blocks of the pair do so as they begin, behind their own wait for what came before. They have
/// their multiprocessors then, stay on them, wait for nobody but each other, and sooner or later have written all heads,
/// whatever other streams or processes keep the rest of the device busy with. Where launches do not overlap (in a
/// debugger, behind a tool that serializes them), the pair has ended before.
public struct CUDAFollowedPairShape: Sendable, Hashable {
  /// The passes of the two lowest modes.
  public let pair: CUDAFusedShape
  /// The pass of the third mode.
  public let top: CUDAPassShape

  /// As much as has been measured to gain: 2 to 4 % with 2 to 8 heads, 1 to 2 % with more. One head took up to 7 % longer.
  private static let (leastHeads, leastRows) = (2, 1 << 16)
  /// 128·32·32 with 32 heads gained 0.3 to 0.4 % by late blocks, with 16 heads and fewer it lost up to 0.6 %.
  private static let manyHeads = 16

  /// Creates both launches, or nil if the second one has to wait for the first one's end: where the two lowest modes do not
  /// run in clusters that stay, where the third pass is a short one, carries ℓ or has fibers that do not fit
  /// the ring, and with so little work or so few heads that clearing their counters would cost more than is gained.
  ///
  /// - Parameter sharedMemory: ``CUDADriver/Device/sharedMemory``.
  public init?(pair: CUDAFusedShape, top: CUDAPassShape, sharedMemory: Int = 227 * 1024) {
    guard let memory = top.warpgroupMemory, memory <= sharedMemory, pair.clusterPlan != nil,
      top.support == pair.upper.support, !top.isJoint, !top.isRotary,
      top.walkSchedule(fibers: top.fibers, skipped: 0, multiprocessors: 1).order == .acrossFibers,
      top.batch * top.heads >= Self.leastHeads,
      top.batch * top.heads * top.tokens >= Self.leastRows
    else { return nil }
    self.pair = pair
    self.top = top
  }

  /// The kernels of both launches.
  package var plans: [LaunchPlan] {
    guard var first = pair.clusterPlan, var second = top.warpgroupPlan else { return [] }
    first.macros = (first.macros + ["TELLS=1"]).sorted()
    second.macros = (second.macros + ["FOLLOWS=1"]).sorted()
    return [first, second]
  }

  /// Which blocks of the long pass wait until nearly all heads are there: with many heads a third of those on multiprocessors
  /// that clusters leave idle. All of them would slow the clusters down by more than they do meanwhile.
  package func lateBlocks(idle: Int) -> (from: Int32, to: Int32) {
    top.batch * top.heads > Self.manyHeads ? (Int32(idle * 2 / 3), Int32(idle)) : (0, 0)
  }

  /// Bytes of scratch memory that ``CUDAKernels/forwardFollowedPair(_:lower:upper:top:workspace:stream:)`` needs: a counter
  /// a head.
  public var workspaceBytes: Int { top.batch * top.heads * 4 }
}

/// The kernels' `struct Chain` of a pair that says when a head's rows are there.
package struct FollowedPairParameters {
  var lower: PassParameters
  var upper: PassParameters
  var finished: UInt64
}

extension CUDAKernels {
  /// Launches the forward passes of the two lowest modes as one, and the long one above them behind.
  ///
  /// - Parameters:
  ///   - lower: the pass of the lowest mode; its output and ℓ' are written if the pair ``CUDAFusedShape/saves``.
  ///   - upper: the pass above; its values are not read.
  ///   - top: the third pass, whose values are what `upper` writes.
  ///   - workspace: ``CUDAFollowedPairShape/workspaceBytes`` of device memory.
  /// - Throws: ``CUDAError``.
  /// - Precondition: as for ``forward(_:stream:)``; all passes want all queries and have a positive scale.
  /// - Complexity: that of ``forwardFused(_:lower:upper:stream:)`` and ``forward(_:stream:)``.
  public func forwardFollowedPair(
    _ shape: CUDAFollowedPairShape, lower: CUDAPass, upper: CUDAPass, top: CUDAPass,
    workspace: CUDADriver.Address, stream: CUDADriver.Stream
  ) throws {
    let first = [lower, upper, top].map(\.firstQuery)
    require(
      first == [0, 0, 0],
      "Passes of launches that overlap write every token's row; their first queries are \(first).")
    let device = try driver.device()
    let kernels = try kernels(.forwardFollowedPair(shape), on: device)
    let lines = shape.top.batch * shape.top.heads
    let clusters = min(
      try activeClusters(of: kernels[0], on: device), shape.pair.blocksPerHead * lines)
    try driver.clear(workspace, bytes: shape.workspaceBytes, stream: stream)
    try driver.launch(
      kernels[0].function, grid: (clusters * kernels[0].plan.cluster, 1),
      threads: kernels[0].plan.threads, sharedMemory: kernels[0].plan.sharedMemory, stream: stream,
      overlaps: device.overlapsLaunches,
      parameters: FollowedPairParameters(
        lower: try parameters(of: lower, on: device), upper: try parameters(of: upper, on: device),
        finished: workspace))
    let schedule = shape.top.walkSchedule(
      fibers: shape.top.fibers, skipped: 0, multiprocessors: device.multiprocessors)
    var walk = WalkParameters(
      try parameters(of: top, on: device), schedule: schedule, fibers: shape.top.fibers)
    walk.dotsBelow = try walkCounter(on: device)
    var parameters = try tensorWalk(walk, of: top)
    // Every block of a cluster counts every task.
    parameters.arrivals = Int32(shape.pair.blocksPerHead * kernels[0].plan.cluster)
    parameters.finished = workspace
    (parameters.lateFrom, parameters.lateTo) = shape.lateBlocks(
      idle: device.multiprocessors - clusters * kernels[0].plan.cluster)
    try driver.launch(
      kernels[1].function, grid: (schedule.blocks, 1), threads: kernels[1].plan.threads,
      sharedMemory: kernels[1].plan.sharedMemory, stream: stream,
      overlaps: device.overlapsLaunches, parameters: parameters)
  }
}
