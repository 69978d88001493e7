/// One kernel of a pass: its source, macros and shared memory.
///
/// Numbers come from the registers and shared memory of an H100-class multiprocessor: 65 536 registers
/// and 227 KiB. `BLOCKS` asks the compiler for as many resident blocks as shared memory allows without
/// pushing accumulators (D/2 registers a thread for every 16 × D product) out of the registers.
package struct LaunchPlan: Sendable, Hashable {
  /// The resource that holds the kernel.
  package var file: String
  /// The kernel's name.
  package var entry: String
  /// `-D` options without the prefix, sorted.
  package var macros: [String]
  /// Bytes of dynamic shared memory a block.
  package var sharedMemory: Int
  /// Token rows a block owns.
  package var rows: Int
  /// Threads a block.
  package var threads: Int
  /// Positions that a short kernel packs as one fiber; nil for the long ones.
  package var fiber: Int?
  /// Blocks that share memory.
  package var cluster = 1

  /// NVRTC's options for an architecture. Without the third it takes generic lambdas for code of the host.
  package func options(architecture: String) -> [String] {
    [
      "--gpu-architecture=\(architecture)", "--std=c++17", "--device-as-default-execution-space",
    ] + macros.map { "-D" + $0 }
  }

  /// Gives a block this many warpgroups.
  mutating func useWarpgroups(_ count: Int) {
    threads = count * 128
    macros.removeAll { $0.hasPrefix("WARPS=") }
    macros.append("WARPS=\(count * 4)")
    macros.sort()
  }

  /// A kernel of `Reduce.cu`, which no shape changes.
  static func reduction(_ entry: String) -> LaunchPlan {
    LaunchPlan(
      file: "Reduce", entry: entry,
      macros: [
        "BETA=0", "BIAS=0", "CAUSAL=0", "D=64", "DTYPE=0", "JOINT=0", "ROTARY=0", "SLIDING=0",
        "WARPS=8",
      ], sharedMemory: 0, rows: 128, threads: 256, fiber: nil)
  }
}

extension CUDAPassShape {
  /// Bytes between token rows of a tile in shared memory: padded so that eight rows meet all banks.
  var rowBytes: Int {
    element == .float32 ? (headWidth + 4) * 4 : ((headWidth + 15) / 16 * 16 + 8) * 2
  }

  var isWide: Bool { element == .float32 || headWidth > 128 }

  func plan(
    _ file: String, _ entry: String, rows: Int, sharedMemory: Int, fiber: Int? = nil,
    _ extra: [String: Int]
  ) -> LaunchPlan {
    var macros = extra
    macros["DTYPE"] = element.rawValue
    macros["D"] = headWidth
    macros["ROTARY"] = isRotary ? 1 : 0
    macros["JOINT"] = isJoint ? 1 : 0
    macros["BETA"] = hasBeta ? 1 : 0
    macros["BIAS"] = hasBias ? 1 : 0
    macros["CAUSAL"] = support.isCausal ? 1 : 0
    macros["SLIDING"] = isSliding ? 1 : 0
    macros["WARPS"] = rows / 16
    if let fiber { macros["FIBER"] = fiber }
    return LaunchPlan(
      file: file, entry: entry, macros: macros.map { "\($0.key)=\($0.value)" }.sorted(),
      sharedMemory: sharedMemory, rows: rows, threads: rows * 2, fiber: fiber)
  }

  /// The smallest power of two that holds a fiber.
  var packedFiber: Int {
    var size = 1
    while size < fiberLength { size *= 2 }
    return size
  }

  private static let forwardPlans = PlanMemo<CUDAPassShape, LaunchPlan>()
  private static let backwardPlans = PlanMemo<CUDAPassShape, [LaunchPlan]>()

  /// The kernel of the forward pass.
  package var forwardPlan: LaunchPlan { Self.forwardPlans(self) { formForwardPlan() } }

  private func formForwardPlan() -> LaunchPlan {
    if fiberLength <= 64 {
      let memory = 64 * (3 * rowBytes + 8)
      let limit = headWidth > 128 ? 2 : headWidth > 64 ? 4 : 5
      return plan(
        "Forward", "forwardShort", rows: 64, sharedMemory: memory, fiber: packedFiber,
        ["SHORT": 1, "BLOCKS": max(1, min(limit, 227 * 1024 / memory))])
    }
    let (rows, keys) = isWide ? (64, 32) : (128, 64)
    return plan(
      "Forward", "forwardLong", rows: rows, sharedMemory: (rows + 4 * keys) * rowBytes,
      ["LONG": 1, "KT": keys, "BLOCKS": isWide ? 1 : 2])
  }

  /// The kernels of the backward pass, in the order in which they run.
  package var backwardPlans: [LaunchPlan] { Self.backwardPlans(self) { formBackwardPlans() } }

  private func formBackwardPlans() -> [LaunchPlan] {
    let widest = element == .float32 && headWidth > 128
    let rows = widest ? 32 : 64
    if fiberLength <= rows {
      let span = max(16, packedFiber)
      let product = element == .float32 ? (span + 4) * 4 : (span + 8) * 2
      let tiles = rows * (2 * rowBytes + 2 * max(rowBytes, product))
      let memory = tiles + rows * 4 + 64
      let limit = isWide ? 1 : headWidth > 64 ? 3 : 4
      return [
        plan(
          "Backward", "backwardShort", rows: rows, sharedMemory: memory, fiber: packedFiber,
          [
            "SHORT": 1, "TILES": tiles, "GROUPED": heads > keyHeads ? 1 : 0,
            "BLOCKS": max(1, min(limit, 227 * 1024 / memory)),
          ])
      ]
    }
    // Sixteen warps a multiprocessor hide more latency than eight with twice the registers.
    let (queryRows, queryStep) = widest ? (64, 16) : isWide ? (64, 32) : (128, 32)
    let keyStep = widest ? 16 : 32
    let blocks = isWide ? 1 : 2
    let query = plan(
      "BackwardLong", "backwardLongQuery", rows: queryRows,
      sharedMemory: (2 * queryRows + 4 * queryStep) * rowBytes + 64,
      ["QUERY": 1, "KT": queryStep, "BLOCKS": blocks])
    return [query]
      + (headWidth > 128 ? [1, 2] : [0]).map { part in
        plan(
          "BackwardLong", "backwardLongKey", rows: 64,
          sharedMemory: (128 + 4 * keyStep) * rowBytes + 12 * keyStep,
          ["KEY": 1, "KT": keyStep, "PART": part, "BLOCKS": blocks])
      }
  }

  var reductionEntry: String { "reducePartials" }

  /// The fixed-order sum of the partial sums of dβ.
  package var reductionPlan: LaunchPlan { .reduction(reductionEntry) }

  /// The rows of the rotary table that the kernels of this pass may read: positions relative to the first
  /// key of a tile; to the first row of a walk in a backward pass on a Hopper GPU.
  package var rotaryRows: Int {
    guard isSliding else { return fiberLength + 256 }
    let walk = backwardWarpgroupPlans == nil ? 0 : 128 * WalkSchedule.longest
    return min(fiberLength, max(mode.size + 192, walk)) + 256
  }
}
