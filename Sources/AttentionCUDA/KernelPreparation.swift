import Dispatch
import Synchronization

extension CUDAKernels.Request {
  /// The kernels of a pass, in the order in which they run; nil where the caller knows them.
  var plans: [LaunchPlan]? {
    switch self {
    case .forward(let shape): [shape.forwardPlan]
    case .forwardWarpgroup(let shape): [shape.warpgroupPlan].compactMap { $0 }
    case .backward(let shape): shape.backwardPlans + (shape.hasBeta ? [shape.reductionPlan] : [])
    case .backwardWarpgroup(let shape):
      (shape.backwardWarpgroupPlans ?? []) + shape.backwardWholePlans
        + (shape.hasBeta ? [shape.reductionPlan] : [])
    case .backwardTurned(let shape): [shape.backwardTurnedPlan].compactMap { $0 }
    case .backwardWindow(let shape, let turned):
      [shape.backwardWindowPlan(turned: turned)].compactMap { $0 }
    case .backwardShortWarpgroup(let shape):
      [shape.backwardShortWarpgroupPlan].compactMap { $0 }
        + (shape.hasBeta ? [shape.reductionPlan] : [])
    case .forwardFused(let shape): [shape.clusterPlan ?? shape.forwardPlan]
    case .forwardChain(let shape): [shape.plan].compactMap { $0 }
    case .forwardFollowedPair(let shape): shape.plans
    case .forwardLongPair(let shape): [shape.plan]
    case .backwardFused(let shape):
      [shape.backwardPlan] + (shape.upper.hasBeta ? [shape.upper.reductionPlan] : [])
    case .backwardFusedBulk(let shape):
      [shape.backwardBulkPlan].compactMap { $0 }
        + (shape.upper.hasBeta ? [shape.upper.reductionPlan] : [])
    case .biasGradient(let shape): [shape.biasPlan, .reduction("reduceBias")]
    default: nil
    }
  }
}

extension CUDAKernels {
  /// What runs a forward pass on a device. The warpgroup kernels of long fibers compare dot products before
  /// they are scaled, so the scale must be positive.
  static func forwardRequest(
    _ shape: CUDAPassShape, on device: CUDADriver.Device, scale: Float = 1
  ) -> Request {
    shape.hasWarpgroups(
      capability: device.capability, sharedMemory: device.sharedMemory, scale: scale)
      ? .forwardWarpgroup(shape) : .forward(shape)
  }

  /// What runs a backward pass on a device.
  static func backwardRequest(
    _ shape: CUDAPassShape, on device: CUDADriver.Device, scale: Float = 1
  ) -> Request {
    if hasShortBackwardWarpgroups(shape, on: device) { return .backwardShortWarpgroup(shape) }
    return hasBackwardWarpgroups(shape, on: device) && scale.isNormal && scale > 0
      ? .backwardWarpgroup(shape) : .backward(shape)
  }

  /// Compiles and loads what the passes of a call need and the process lacks, as many kernels at a time as
  /// there are cores: a first call waits for its slowest kernel instead of for all of them in turn.
  ///
  /// - Parameters:
  ///   - shapes: the passes.
  ///   - fused: the first two of them as one launch, if they are.
  ///   - chain: the first three forward passes as one launch, if they are.
  ///   - followed: the first two and the third in launches that overlap, if they are.
  ///   - longPair: the first two forward passes as one launch, if they are and not `fused`.
  ///   - backward: whether gradients will be wanted.
  ///   - biasGradient: for every pass, whether its mode bias wants one.
  ///   - isPadded: whether sequences have lengths of their own.
  /// - Throws: ``CUDAError``.
  public func prepare(
    _ shapes: [CUDAPassShape], fused: CUDAFusedShape? = nil, chain: CUDAChainShape? = nil,
    followed: CUDAFollowedPairShape? = nil, longPair: CUDALongPairShape? = nil,
    backward: Bool = false, biasGradient: [Bool] = [], isPadded: Bool = false
  ) throws {
    let device = try driver.device()
    let isPaired = fused != nil || longPair != nil
    let isTriple = chain != nil || followed != nil
    var requests = shapes.dropFirst(isTriple ? 3 : isPaired ? 2 : 0).map {
      Self.forwardRequest($0, on: device)
    }
    if let chain {
      requests.append(.forwardChain(chain))
    } else if let followed {
      requests.append(.forwardFollowedPair(followed))
    } else if let fused {
      requests.append(.forwardFused(fused))
    } else if let longPair {
      requests.append(.forwardLongPair(longPair))
    }
    let alone = { Self.backwardRequest($0, on: device) }
    if backward, let fused, !biasGradient.prefix(2).contains(true) {
      let isBulk = !isPadded && fused.backwardBulkPlan != nil
      requests +=
        shapes.dropFirst(2).map(alone)
        + [isBulk ? .backwardFusedBulk(fused) : .backwardFused(fused)]
    } else if backward {
      requests += shapes.map(alone)
    }
    let takesTurned =
      !isPadded && fused == nil && shapes.count > 1 && shapes[0].takesTurned(from: shapes[1])
    if backward, takesTurned { requests.append(.backwardTurned(shapes[0])) }
    if backward, !isPadded {
      // Those below another pass have D from it.
      for (index, shape) in shapes.dropLast().enumerated() where fused == nil || index > 1 {
        let turned = index == 0 && takesTurned
        if shape.backwardWindowPlan(turned: turned) != nil {
          requests.append(.backwardWindow(shape, turned: turned))
        }
      }
    }
    requests += zip(shapes, biasGradient).compactMap { $1 ? .biasGradient($0) : nil }
    requests.removeAll { isLoaded($0, on: device) }
    guard !requests.isEmpty else { return }
    try load(requests.flatMap { $0.plans ?? [] }, on: device)
    for request in requests { _ = try kernels(request, on: device) }
  }

  /// The kernels' machine code from the cache on disk, compiled side by side where it is missing.
  func cubins(_ plans: [LaunchPlan], architecture: String) throws -> [LaunchPlan: [UInt8]] {
    let compiler = try NVRTC.shared()
    let plans = Array(Set(plans))
    let results = Mutex<[LaunchPlan: Result<[UInt8], any Error>]>([:])
    DispatchQueue.concurrentPerform(iterations: plans.count) { index in
      let plan = plans[index]
      let result = Result {
        let source = KernelSources.source(of: plan.file)
        let options = plan.options(architecture: architecture)
        let key = KernelCache.key(
          source: source, options: options, compiler: compiler.version, driver: driver.version)
        return try cache.cubin(key: key) {
          try compiler.compile(source: source, name: plan.file + ".cu", options: options)
        }
      }
      results.withLock { $0[plan] = result }
    }
    return try results.withLock { try $0.mapValues { try $0.get() } }
  }
}
