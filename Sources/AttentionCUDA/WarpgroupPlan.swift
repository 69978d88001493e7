import Folding

// The forward pass of long fibers on Hopper (`ForwardWarpgroup.cu`): when it runs, and how its blocks share
// the work.

/// Who walks where: what `struct WalkedPass` holds besides the pass.
package struct WalkParameters {
  var pass: PassParameters
  var schedule: Int32 = 0
  var walkSteps: Int32 = 0
  var walks: Int32 = 0
  var chunks: Int32 = 0
  var byFibers = Division(1)
  var byChunks = Division(1)
  var byHeads = Division(1)
  var byStride = Division(1)
  /// Where the key role writes ⟨∂/∂u, u⟩ of its rows, or 0; forward, see ``CUDAKernels/walkCounter(on:)``.
  var dotsBelow: UInt64 = 0

  /// ⌊n / d⌋ as `n · factor >> shift` for n < 2³¹.
  package struct Division {
    package var factor: UInt32
    package var shift: Int32

    /// factor = ⌈2^shift / d⌉ with shift = 31 + ⌈log₂ d⌉, which is below 2³² and exact for n < 2³¹.
    package init(_ divisor: Int) {
      let bits = divisor <= 1 ? 0 : Int.bitWidth - (divisor - 1).leadingZeroBitCount
      shift = Int32(31 + bits)
      factor = UInt32(((UInt64(1) << UInt64(shift)) + UInt64(divisor) - 1) / UInt64(divisor))
    }
  }
}

/// How a launch is cut into walks.
package struct WalkSchedule: Sendable, Hashable {
  /// How walks are dealt out to the blocks.
  package enum Order: Int, Sendable {
    /// Every block has one stretch of the steps of all fibers.
    case stretches = 0
    /// In turn, the walks of a fiber side by side: blocks that run together share its keys in L2.
    case fiberByFiber = 1
    /// In turn, neighboring fibers side by side: blocks that run together read neighboring rows.
    case acrossFibers = 2
  }

  /// How walks are dealt out.
  package var order: Order
  /// The steps, of 128 queries, that a walk has at most.
  package var walkSteps: Int
  /// The walks of a fiber; its steps for ``Order/stretches``.
  package var chunks: Int
  /// All walks; all steps for ``Order/stretches``.
  package var walks: Int
  /// The blocks that are launched.
  package var blocks: Int

  /// The most steps of a walk: turns add up from row to row.
  static let longest = 64
}

extension CUDAPassShape {
  /// The tiles, of 64 keys and values, that the ring in shared memory holds.
  private var ringTiles: Int { headWidth == 128 ? 5 : 11 }

  /// The tiles before a query's own that its window reaches.
  private var windowTiles: Int { (mode.size + 62) / 64 }

  /// The shared memory that the forward pass's kernel on a Hopper GPU needs, or nil where it has none: f32,
  /// other head widths, and fibers that a short kernel packs.
  var warpgroupMemory: Int? {
    guard element != .float32, headWidth == 64 || headWidth == 128, fiberLength > 64 else {
      return nil
    }
    // The ring, two blocks of queries, two of staged output rows, and barriers.
    return (2 * ringTiles + 4) * 64 * headWidth * 2 + 512
  }

  /// The kernel of the forward pass on a Hopper GPU, or nil where it has none.
  package var warpgroupPlan: LaunchPlan? {
    guard let memory = warpgroupMemory else { return nil }
    let fiberTiles = (fiberLength + 63) / 64
    let seen = isSliding ? min(fiberTiles, windowTiles + 1) : fiberTiles
    let hasWindow = isSliding && fiberLength > mode.size
    // Turning rows in their own type errs more: only where it gains enough.
    var plan = plan(
      "ForwardWarpgroup", "forwardWarpgroup", rows: 128, sharedMemory: memory,
      [
        "STAGES": ringTiles, "TILES": seen > 4 ? 0 : max(seen, 2), "WINDOW": hasWindow ? 1 : 0,
        "EVEN": hasWindow && !hasBias && mode.size % 64 == 0 && seen <= 4 ? 1 : 0,
        "PACKED": isRotary && !hasWindow && headWidth == 128 ? 1 : 0,
      ])
    plan.useWarpgroups(4)
    return plan
  }

  /// How the warpgroup kernel goes about a pass whose first `skipped` positions of every fiber have no query
  /// and which has `fibers` fibers a head.
  ///
  /// A window or a fiber that fits the ring is walked in many steps, which read every key once. What does
  /// not fit is walked step by step: each reads all keys that it sees.
  ///
  /// - Parameters:
  ///   - heads: those that walks are dealt by; nil for the query heads.
  ///   - ringTiles: the tiles that the ring holds; nil for those of the forward pass, 0 where none may stay.
  package func walkSchedule(
    fibers: Int, skipped: Int, multiprocessors: Int, heads: Int? = nil, ringTiles: Int? = nil
  ) -> WalkSchedule {
    let lines = batch * (heads ?? self.heads) * fibers
    let isForward = ringTiles == nil
    let ringTiles = ringTiles ?? self.ringTiles
    let steps = max(1, (fiberLength - skipped / 64 * 64 + 127) / 128)
    if (fiberLength + 63) / 64 <= ringTiles {
      return .init(
        order: .acrossFibers, walkSteps: steps, chunks: 1, walks: lines,
        blocks: min(multiprocessors, lines))
    }
    if isSliding, windowTiles < ringTiles {
      // A walk's start reads the window before it once more, and turns must not add up for more than 8192
      // positions. Where a fiber's rows are neighbors, a block takes a long stretch; else
      // walks stay side by side, so that neighboring rows are read at about the same time.
      if mode.stride == 1 {
        let most = min(multiprocessors, lines * steps)
        // Equal stretches, if hardly fewer blocks have them.
        let even = (max(1, most * 31 / 32)...most).last { lines * steps % $0 == 0 }
        return .init(
          order: .stretches, walkSteps: WalkSchedule.longest, chunks: steps, walks: lines * steps,
          blocks: isForward ? even ?? most : most)
      }
      let walkSteps = min(steps, 16)
      let chunks = (steps + walkSteps - 1) / walkSteps
      return .init(
        order: .acrossFibers, walkSteps: walkSteps, chunks: chunks, walks: lines * chunks,
        blocks: min(multiprocessors, lines * chunks))
    }
    // Steps of a causal fiber differ in work. A number of blocks that shares no divisor with the steps gives each block
    // all kinds of them.
    var blocks = min(multiprocessors, lines * steps)
    while blocks > 1, Self.greatestCommonDivisor(blocks, steps) > 1 { blocks -= 1 }
    return .init(
      order: .fiberByFiber, walkSteps: 1, chunks: steps, walks: lines * steps, blocks: blocks)
  }

  private static func greatestCommonDivisor(_ a: Int, _ b: Int) -> Int {
    b == 0 ? a : greatestCommonDivisor(b, a % b)
  }
}

extension WalkParameters {
  init(_ pass: PassParameters, schedule: WalkSchedule, fibers: Int, heads: Int? = nil) {
    self.pass = pass
    self.schedule = Int32(schedule.order.rawValue)
    walkSteps = Int32(schedule.walkSteps)
    walks = Int32(clamping: schedule.walks)
    chunks = Int32(schedule.chunks)
    byFibers = Division(fibers)
    byChunks = Division(schedule.chunks)
    byHeads = Division(heads ?? Int(pass.heads))
    byStride = Division(Int(pass.stride))
  }
}
