import Folding

/// The passes of the three lowest block modes in one launch: a head's pass over the third mode comes soon
/// after its two lower ones, so that L2 serves what it reads.
public struct CUDAChainShape: Sendable, Hashable {
  /// The passes of the two lowest modes.
  public let pair: CUDAFusedShape
  /// The pass of the third mode.
  public let top: CUDAPassShape

  /// Bytes of q, k and u that the L2 of an H200 (50 MB) keeps beside what is under way until the third pass has read
  /// them: so much of a whole head, or else so much of a larger one.
  private static let (wholeHead, partOfHead) = (26_000_000, 20_000_000)
  /// Four blocks of 128 rows for each of 132 multiprocessors. At 32 k rows the chain took 4 % longer than two
  /// launches, at 128 k and 256 k it took 21 % and 15 % less.
  private static let leastRows = 4 * 132 * 128

  /// Creates the chain, or nil if the third pass needs a launch of its own: where the two lowest modes do not
  /// run in clusters that stay, with fibers of more than 64 positions, where the third mode does not
  /// span all tokens, and with so little work that clusters would wait for each other most of the time.
  public init?(pair: CUDAFusedShape, top: CUDAPassShape) {
    let (lower, upper) = (pair.lower, pair.upper)
    let tokens = lower.mode.size * upper.mode.size
    guard pair.clusterPlan != nil, top.mode.stride == tokens, top.mode.size <= 64,
      top.tokens <= top.mode.size * tokens, top.support == upper.support,
      top.isJoint == upper.isJoint, top.hasBeta == upper.hasBeta, !top.isRotary,
      top.batch * top.heads * top.tokens >= Self.leastRows
    else { return nil }
    self.pair = pair
    self.top = top
  }

  /// The kernel of the three passes.
  package var plan: LaunchPlan? {
    guard var plan = pair.clusterPlan else { return nil }
    plan.macros.removeAll { $0.hasPrefix("TOP=") }
    plan.macros += [
      "TOP=\(top.packedFiber)", "TOP_SIZE=\(top.mode.size)", "TOP_BIAS=\(top.hasBias ? 1 : 0)",
    ]
    plan.macros.sort()
    return plan
  }

  /// Bytes of scratch memory that ``CUDAKernels/forwardChain(_:lower:upper:top:workspace:stream:)`` needs.
  public var workspaceBytes: Int { top.batch * top.heads * 4 }

  /// Bytes of q, k and u of a block, and of a head.
  private var blockBytes: Int {
    pair.lower.mode.size * pair.upper.mode.size * top.headWidth * 6
  }
  private var headBytes: Int { pair.blocksPerHead * blockBytes }

  /// The first of a head's blocks that L2 should keep until the third pass has read them: 0 where it keeps whole heads,
  /// else the last ones, which are read soonest after they came.
  package var keptFrom: Int {
    headBytes <= Self.wholeHead ? 0 : max(1, pair.blocksPerHead - Self.partOfHead / blockBytes)
  }

  /// When a head's third pass comes: `delay` heads later, behind `lag` of that head's blocks. Together they are as
  /// many blocks as are under way at once where third passes and blocks take turns: more would leave L2, fewer would be
  /// waited for. They are a fifth fewer where heads nearly fill what L2 keeps and the pair saves, whose writes need room
  /// there too. Two heads and more are whole heads: a few blocks of one more took up to 15 % longer. Where a whole third
  /// pass follows, nothing else hides the wait, and they are nearly twice as many.
  package func order(clusters: Int) -> (lag: Int, delay: Int) {
    let blocks = pair.blocksPerHead
    var ahead = clusters + 1
    if keptFrom > 0 {
      ahead = clusters * 9 / 5 + 1
    } else if pair.saves && headBytes > Self.partOfHead {
      ahead = max(1, clusters * 4 / 5)
    } else if ahead >= blocks * 2 {
      ahead -= ahead % blocks
    }
    let delay = (ahead - 1) / blocks + 1
    return (ahead - (delay - 1) * blocks, delay)
  }
}

/// The kernels' `struct Chain` with a third pass.
package struct ChainParameters {
  var lower: PassParameters
  var upper: PassParameters
  var top: PassParameters
  var finished: UInt64 = 0
  var lag: Int32 = 0
  var delay: Int32 = 0
  var keptFrom: Int32 = 0
  var padding: Int32 = 0
}

extension CUDAKernels {
  /// Launches the forward passes of the three lowest modes as one.
  ///
  /// - Parameters:
  ///   - lower: the pass of the lowest mode; its output and ℓ' are written if the pair ``CUDAFusedShape/saves``.
  ///   - upper: the pass above; its values are not read.
  ///   - top: the third pass, whose values and carried ℓ are what `upper` writes.
  ///   - workspace: ``CUDAChainShape/workspaceBytes`` of device memory.
  /// - Throws: ``CUDAError``.
  /// - Precondition: as for ``forward(_:stream:)``; all passes want all queries.
  /// - Complexity: the operations of the passes; q, k, v read and the result written once, and what is
  ///   between them as far as L2 forgets it.
  public func forwardChain(
    _ shape: CUDAChainShape, lower: CUDAPass, upper: CUDAPass, top: CUDAPass,
    workspace: CUDADriver.Address, stream: CUDADriver.Stream
  ) throws {
    precondition(
      lower.firstQuery == 0 && upper.firstQuery == 0 && top.firstQuery == 0,
      "Chained passes write every token's row.")
    let device = try driver.device()
    let kernel = try kernels(.forwardChain(shape), on: device)[0]
    let lines = shape.top.batch * shape.top.heads
    let clusters = min(
      try activeClusters(of: kernel, on: device), shape.pair.blocksPerHead * lines)
    let (lag, delay) = shape.order(clusters: clusters)
    try driver.clear(workspace, bytes: shape.workspaceBytes, stream: stream)
    // Clusters wait for each other's rows: all of them must be there.
    try driver.launch(
      kernel.function, grid: (clusters * kernel.plan.cluster, 1), threads: kernel.plan.threads,
      sharedMemory: kernel.plan.sharedMemory, stream: stream, isCooperative: true,
      parameters: ChainParameters(
        lower: try parameters(of: lower, on: device), upper: try parameters(of: upper, on: device),
        top: try parameters(of: top, on: device), finished: workspace, lag: Int32(lag),
        delay: Int32(clamping: delay), keptFrom: Int32(shape.keptFrom)))
  }
}
