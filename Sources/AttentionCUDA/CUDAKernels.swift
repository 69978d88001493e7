import AttentionCore
import Folding
import Foundation
import Synchronization

/// The compiled kernels of one process, launched on streams of the caller's choice.
///
/// A kernel is compiled by NVRTC for the device that is there when a shape first needs it, stored on disk
/// and kept loaded. Launches are asynchronous; the tensors must live until the stream has passed them.
public final class CUDAKernels: Sendable {
  /// The driver under the kernels.
  public let driver: CUDADriver
  let cache: KernelCache
  private let functions = Mutex<[FunctionKey: UInt]>([:])
  private let tables = Mutex<[TableKey: Table]>([:])

  private struct FunctionKey: Hashable {
    var plan: LaunchPlan
    var device: Int
  }

  /// What a launch looks up: cheaper to hash than a plan.
  enum Request: Hashable {
    case forward(CUDAPassShape)
    case forwardWarpgroup(CUDAPassShape)
    case backward(CUDAPassShape)
    case backwardWarpgroup(CUDAPassShape)
    case backwardTurned(CUDAPassShape)
    case backwardWindow(CUDAPassShape, turned: Bool)
    case backwardShortWarpgroup(CUDAPassShape)
    case biasGradient(CUDAPassShape)
    case forwardFused(CUDAFusedShape)
    case forwardChain(CUDAChainShape)
    case forwardFollowedPair(CUDAFollowedPairShape)
    case forwardLongPair(CUDALongPairShape)
    case backwardFused(CUDAFusedShape)
    case backwardFusedBulk(CUDAFusedShape)
    case decode(CUDADecode.Variant, clusters: Bool)
  }

  /// A plan with its function.
  struct Kernel {
    var plan: LaunchPlan
    var function: UInt
  }

  private struct RequestKey: Hashable {
    var request: Request
    var device: Int
  }

  private let kernels = Mutex<[RequestKey: [Kernel]]>([:])
  private static let mostRequests = 4096
  let walkCounters = Mutex<[Int: WalkCounters]>([:])
  private let clusterCounts = Mutex<[FunctionKey: Int]>([:])

  private struct TableKey: Hashable {
    var anglesPerPlace: [Double]
    var device: Int
  }

  private struct Table {
    var address: CUDADriver.Address
    var rows: Int
  }

  private static let instance = Mutex<Result<CUDAKernels, CUDAError>?>(nil)

  /// The process's kernels.
  ///
  /// - Throws: ``CUDAError`` without a driver or device.
  public static func shared() throws(CUDAError) -> CUDAKernels {
    let result = instance.withLock { cached in
      if let cached { return cached }
      let result = Result { () throws(CUDAError) in
        CUDAKernels(driver: try CUDADriver.shared(), cache: KernelCache())
      }
      cached = result
      return result
    }
    return try result.get()
  }

  package init(driver: CUDADriver, cache: KernelCache) {
    self.driver = driver
    self.cache = cache
  }

  /// The function of a plan, compiled and loaded if this is its first use.
  func function(_ plan: LaunchPlan, on device: CUDADriver.Device) throws -> UInt {
    let key = FunctionKey(plan: plan, device: device.ordinal)
    if let function = functions.withLock({ $0[key] }) { return function }
    try load([plan], on: device)
    guard let function = functions.withLock({ $0[key] }) else {
      preconditionFailure("The kernel \(plan.entry) was loaded but is not there.")
    }
    return function
  }

  /// Compiles and loads the kernels that the process lacks.
  func load(_ plans: [LaunchPlan], on device: CUDADriver.Device) throws {
    let missing = functions.withLock { functions in
      plans.filter { functions[FunctionKey(plan: $0, device: device.ordinal)] == nil }
    }
    guard !missing.isEmpty else { return }
    for (plan, cubin) in try cubins(missing, architecture: device.architecture) {
      let function = try driver.function(
        cubin: cubin, entry: plan.entry, sharedMemory: plan.sharedMemory, cluster: plan.cluster)
      functions.withLock { $0[FunctionKey(plan: plan, device: device.ordinal)] = function }
    }
  }

  /// Whether a request has its kernels.
  func isLoaded(_ request: Request, on device: CUDADriver.Device) -> Bool {
    kernels.withLock { $0[RequestKey(request: request, device: device.ordinal)] != nil }
  }

  /// The kernels of a request, in the order in which they run; `plans` is asked on first use of one that
  /// does not know its own.
  func kernels(
    _ request: Request, on device: CUDADriver.Device, plans: () -> [LaunchPlan] = { [] }
  ) throws -> [Kernel] {
    let key = RequestKey(request: request, device: device.ordinal)
    if let kernels = kernels.withLock({ $0[key] }) { return kernels }
    let plans = request.plans ?? plans()
    try load(plans, on: device)
    let loaded = try plans.map { Kernel(plan: $0, function: try function($0, on: device)) }
    // A new length at every call must not fill the memory; functions stay loaded.
    kernels.withLock {
      if $0.count >= Self.mostRequests { $0.removeAll() }
      $0[key] = loaded
    }
    return loaded
  }

  /// How many of a kernel's clusters run at once: as many as a launch of blocks that stay should have.
  func activeClusters(of kernel: Kernel, on device: CUDADriver.Device) throws -> Int {
    let key = FunctionKey(plan: kernel.plan, device: device.ordinal)
    if let known = clusterCounts.withLock({ $0[key] }) { return known }
    let count = try driver.activeClusters(
      of: kernel.function, cluster: kernel.plan.cluster, threads: kernel.plan.threads,
      sharedMemory: kernel.plan.sharedMemory)
    clusterCounts.withLock { $0[key] = max(count, 1) }
    return max(count, 1)
  }

  /// The device's rotary table with at least `rows` positions. A table that grows keeps its
  /// predecessor alive, since kernels in flight may still read it.
  func rotaryTable(_ angles: RotaryAngles, rows: Int, on device: CUDADriver.Device) throws
    -> CUDADriver.Address
  {
    let key = TableKey(anglesPerPlace: angles.perPlace, device: device.ordinal)
    return try tables.withLock { tables in
      if let table = tables[key], table.rows >= rows { return table.address }
      let values = Self.turns(angles, rows: rows)
      let address = try driver.allocate(bytes: values.count * 4)
      try driver.upload(values, to: address)
      tables[key] = Table(address: address, rows: rows)
      return address
    }
  }
}

extension CUDAKernels {
  /// Pairs (cos, sin) for the first `rows` places, `[rows, D/2, 2]`, formed in f64. Only distances matter,
  /// so places count from a tile's own first key and a position of a million costs no precision.
  private static func turns(_ angles: RotaryAngles, rows: Int) -> [Float] {
    var values: [Float] = []
    values.reserveCapacity(rows * angles.perPlace.count * 2)
    for place in 0..<rows {
      for step in angles.perPlace {
        values.append(Float(cos(Double(place) * step)))
        values.append(Float(sin(Double(place) * step)))
      }
    }
    return values
  }

  /// Launches the forward pass:  u'(t) = Σ softmax(z(t, ·)) u(·),  ℓ'(t) = logsumexp z(t, ·).
  ///
  /// Rows of padded tokens become 0 and −∞. u' is rounded to the element type, sums are f32.
  ///
  /// - Parameters:
  ///   - pass: the tensors, all on the device of the current context.
  ///   - stream: where the launch is queued.
  /// - Throws: ``CUDAError``.
  /// - Precondition: ``CUDAPassShape/objection(backward:biasGradient:)`` is nil and every tensor is
  ///   ``DeviceTensor/isAligned(for:)``.
  /// - Complexity: B·H·N·n_k·4D operations; q, k, u read and u' written once.
  public func forward(_ pass: CUDAPass, stream: CUDADriver.Stream) throws {
    let shape = pass.shape
    precondition(shape.objection() == nil, "No kernel runs this pass: \(shape.objection() ?? "").")
    guard pass.firstQuery < shape.tokens else { return }
    let device = try driver.device()
    var parameters = try self.parameters(of: pass, on: device)
    let request = Self.forwardRequest(shape, on: device, scale: parameters.scale)
    if case .forwardWarpgroup = request {
      return try forwardWarpgroup(pass, parameters, on: device, stream: stream)
    }
    let kernel = try kernels(request, on: device)[0]
    let plan = kernel.plan
    let fibers = skipRows(of: pass, &parameters, positions: plan.fiber == nil)
    let positions = shape.fiberLength - Int(parameters.firstPosition)
    let grid = Self.grid(plan, fibers: fibers, positions: positions, rows: &parameters)
    try driver.launch(
      kernel.function, grid: (grid, shape.batch * shape.heads),
      threads: plan.threads, sharedMemory: plan.sharedMemory, stream: stream,
      overlaps: device.overlapsLaunches, parameters: parameters)
  }

  /// Launches the forward pass of long fibers on a Hopper GPU.
  private func forwardWarpgroup(
    _ pass: CUDAPass, _ parameters: PassParameters, on device: CUDADriver.Device,
    stream: CUDADriver.Stream
  ) throws {
    let shape = pass.shape
    let kernel = try kernels(.forwardWarpgroup(shape), on: device)[0]
    var parameters = parameters
    let fibers = skipRows(of: pass, &parameters, positions: true)
    let schedule = shape.walkSchedule(
      fibers: fibers, skipped: Int(parameters.firstPosition),
      multiprocessors: device.multiprocessors)
    var walk = WalkParameters(parameters, schedule: schedule, fibers: fibers)
    if schedule.order == .acrossFibers { walk.dotsBelow = try walkCounter(on: device) }
    try driver.launch(
      kernel.function, grid: (schedule.blocks, 1), threads: kernel.plan.threads,
      sharedMemory: kernel.plan.sharedMemory, stream: stream,
      overlaps: device.overlapsLaunches, parameters: try tensorWalk(walk, of: pass))
  }

  /// Sets where the rows of the first query begin, since tokens before it need no row of their own, and
  /// returns how many fibers remain.
  ///
  /// - Parameter positions: whether the kernel may start inside a fiber.
  private func skipRows(
    of pass: CUDAPass, _ parameters: inout PassParameters, positions: Bool
  ) -> Int {
    let shape = pass.shape
    guard pass.firstQuery > 0 else { return shape.fibers }
    if shape.isSliding {
      if positions { parameters.firstPosition = Int32(pass.firstQuery / shape.mode.stride) }
      return shape.fibers
    }
    let block = shape.mode.size * shape.mode.stride
    parameters.firstFiber = Int32(pass.firstQuery / block * shape.mode.stride)
    return shape.fibers - Int(parameters.firstFiber)
  }

  /// Launches the backward pass of `pass` (see `Backward.cu` for the formulas).
  ///
  /// Every gradient has one writer and sums run in a fixed order, so two runs agree bit by bit.
  ///
  /// - Returns: what the pass below has to know.
  /// - Throws: ``CUDAError``.
  /// - Precondition: as for ``forward(_:stream:)``, with `backward: true`; `pass` holds the saved u' and ℓ'.
  /// - Complexity: 2.5 to 3.5 times the forward pass's operations.
  @discardableResult
  public func backward(
    _ pass: CUDAPass, _ gradients: CUDAPassGradients, stream: CUDADriver.Stream
  ) throws -> CUDAHandover {
    let shape = pass.shape
    precondition(
      shape.objection(backward: true) == nil,
      "No kernel runs this backward pass: \(shape.objection(backward: true) ?? "").")
    let device = try driver.device()
    var parameters = try self.parameters(of: pass, gradients, on: device)
    let request = Self.backwardRequest(shape, on: device, scale: parameters.scale)
    if case .backwardWarpgroup = request {
      return try backwardWarpgroup(pass, parameters, gradients, on: device, stream: stream)
    }
    let stays = request == .backwardShortWarpgroup(shape)
    let kernels = try kernels(request, on: device)
    for kernel in kernels where kernel.plan.entry != shape.reductionEntry {
      let plan = kernel.plan
      let heads = plan.entry == "backwardLongQuery" ? shape.heads : shape.keyHeads
      let grid = Self.grid(
        plan, fibers: shape.fibers, positions: shape.fiberLength, rows: &parameters)
      // Blocks that stay take one tile after the other.
      let blocks =
        stays
        ? (min(grid * shape.batch * heads, device.multiprocessors), 1) : (grid, shape.batch * heads)
      var own = parameters
      // They form D themselves, and ask a counter in its place for tiles.
      if stays { own.dot = try walkCounter(on: device) }
      try driver.launch(
        kernel.function, grid: blocks, threads: plan.threads,
        sharedMemory: plan.sharedMemory, stream: stream, overlaps: device.overlapsLaunches,
        parameters: own)
      if let reduction = kernels.last, shape.hasBeta, plan.entry != "backwardLongKey" {
        try driver.launch(
          reduction.function, grid: (shape.heads, 1), threads: 256,
          sharedMemory: 0, stream: stream,
          overlaps: device.overlapsLaunches,
          parameters: Reduction(parameters, count: shape.batch * grid, to: gradients, shape.element)
        )
      }
    }
    if gradients.bias != 0 {
      try biasGradient(
        shape, parameters, biasHeads: pass.biasStride == 0 ? 1 : shape.heads, out: gradients.bias,
        scratch: gradients.workspace + UInt64(shape.workspaceBytes(lseRow: pass.lseRow)),
        on: device, stream: stream)
    }
    return CUDAHandover()
  }

  func parameters(
    of pass: CUDAPass, _ gradients: CUDAPassGradients, on device: CUDADriver.Device
  ) throws -> PassParameters {
    var parameters = try self.parameters(of: pass, on: device)
    parameters.dout = gradients.output.address
    parameters.doStrides = gradients.output.strides
    parameters.dlseOut = gradients.lse
    parameters.dq = gradients.queries.address
    parameters.dqStrides = gradients.queries.strides
    parameters.dk = gradients.keys.address
    parameters.dkStrides = gradients.keys.strides
    parameters.du = gradients.values.address
    parameters.duStrides = gradients.values.strides
    parameters.dlseIn = gradients.carriedLSE
    parameters.accumulate = gradients.accumulates ? 1 : 0
    parameters.dot = gradients.workspace
    let rows = pass.shape.batch * pass.shape.heads * pass.lseRow
    parameters.dbeta = gradients.workspace + UInt64(rows * 4)
    return parameters
  }

  /// The parameter of `reducePartials`.
  struct Reduction {
    private var partials: CUDADriver.Address
    private var out: CUDADriver.Address
    private var lowest: CUDADriver.Address
    private var count: Int32
    private var element: Int32

    /// The sum of the `count` parts of ∂/∂β that a pass has left of every head.
    init(
      _ parameters: PassParameters, count: Int, to gradients: CUDAPassGradients,
      _ element: CUDAElement
    ) {
      partials = parameters.dbeta
      out = gradients.beta
      lowest = gradients.lowestBeta
      self.count = Int32(count)
      self.element = Int32(element.rawValue)
    }
  }

  /// The first dimension of a launch, which also sets the tiles of a fiber.
  private static func grid(
    _ plan: LaunchPlan, fibers: Int, positions: Int, rows parameters: inout PassParameters
  ) -> Int {
    if let fiber = plan.fiber {
      let packed = plan.rows / fiber
      parameters.tilesPerFiber = 1
      return (fibers + packed - 1) / packed
    }
    let tiles = (positions + plan.rows - 1) / plan.rows
    parameters.tilesPerFiber = Int32(tiles)
    return tiles * fibers
  }

  func parameters(of pass: CUDAPass, on device: CUDADriver.Device) throws
    -> PassParameters
  {
    let shape = pass.shape
    for tensor in [pass.queries, pass.keys, pass.values, pass.output] {
      precondition(
        tensor.isAligned(for: shape.element),
        "Token rows must start at multiples of 16 bytes, got \(tensor).")
    }
    var scale = pass.scale
    var parameters = PassParameters()
    if let rotary = pass.rotary, shape.isRotary {
      parameters.rotary = try rotaryTable(rotary, rows: shape.rotaryRows, on: device)
      // Queries and keys both carry the magnitude; the table stays a pure rotation.
      scale *= Float(rotary.magnitude * rotary.magnitude)
    }
    parameters.q = pass.queries.address
    parameters.qStrides = pass.queries.strides
    parameters.k = pass.keys.address
    parameters.kStrides = pass.keys.strides
    parameters.u = pass.values.address
    parameters.uStrides = pass.values.strides
    parameters.out = pass.output.address
    parameters.oStrides = pass.output.strides
    parameters.lseIn = pass.carriedLSE
    parameters.lseOut = pass.lse
    parameters.lseRow = Int64(pass.lseRow)
    parameters.lengths = pass.lengths
    parameters.beta = pass.beta
    parameters.bias = pass.bias
    parameters.biasStride = Int32(pass.biasStride)
    parameters.heads = Int32(shape.heads)
    parameters.ratioK = Int32(shape.heads / shape.keyHeads)
    parameters.ratioU = Int32(shape.heads / shape.valueHeads)
    parameters.tokens = Int32(shape.tokens)
    parameters.size = Int32(shape.mode.size)
    parameters.stride = Int32(clamping: shape.mode.stride)
    parameters.fibers = Int32(shape.fibers)
    parameters.firstQuery = Int32(pass.firstQuery)
    parameters.batch = Int32(shape.batch)
    parameters.scale = scale * 1.442_695_040_888_963_4
    parameters.rawScale = scale
    return parameters
  }
}

extension CUDAKernels {
  /// Launches a kernel that does nothing: what any launch costs.
  public func launchNothing(stream: CUDADriver.Stream) throws {
    try driver.launch(
      try function(.reduction("nothing"), on: try driver.device()), grid: (1, 1), threads: 32,
      sharedMemory: 0, stream: stream, parameters: Int32(0))
  }
}

extension CUDAPassShape {
  /// Bytes of scratch memory that ``CUDAKernels/backward(_:_:stream:)`` needs: D(t) of every row and
  /// the partial sums of dβ and of a mode bias's gradient.
  ///
  /// - Parameters:
  ///   - lseRow: tokens a row of ℓ holds.
  ///   - biasHeads: the heads of a mode bias whose gradient is wanted, else 0. Its sums take at most
  ///     9 MB or the size of the gradient itself, whatever is more.
  public func workspaceBytes(lseRow: Int, biasHeads: Int = 0) -> Int {
    let blocks = backwardPlans.map { plan -> Int in
      if let fiber = plan.fiber { return (fibers + plan.rows / fiber - 1) / (plan.rows / fiber) }
      return (fiberLength + plan.rows - 1) / plan.rows * fibers
    }
    let rows = batch * heads * lseRow, parts = heads * batch * (blocks.max() ?? 0)
    let warpgroups =
      backwardWarpgroupPlans == nil ? 0 : 2 * rows + heads * betaParts(inWindow: hasBackwardWindow)
    return max(rows + parts, warpgroups) * 4
      + (biasHeads > 0 ? biasSums(heads: biasHeads).bytes : 0)
  }
}
