import Foundation
import Synchronization

/// The part of the CUDA driver API that the kernels need, loaded with `dlopen`.
///
/// Handles and device addresses are plain integers. Work is launched into the calling thread's
/// current context; a thread without one (no libtorch) gets the device's primary context, the one that
/// libtorch uses too.
public struct CUDADriver: Sendable {
  /// The address of device memory.
  public typealias Address = UInt64
  /// A stream's handle; 0 is the default stream.
  public typealias Stream = UInt

  /// The oldest driver that runs cubins of the NVRTC versions that are looked for.
  static let oldestVersion = 12_000

  private typealias Integers = @convention(c) (UnsafeMutablePointer<Int32>) -> Int32
  private typealias ErrorName =
    @convention(c) (
      Int32, UnsafeMutablePointer<UnsafePointer<CChar>?>
    ) -> Int32
  private typealias Attribute = @convention(c) (UnsafeMutablePointer<Int32>, Int32, Int32) -> Int32
  private typealias DeviceName = @convention(c) (UnsafeMutablePointer<CChar>, Int32, Int32) -> Int32
  private typealias Get = @convention(c) (UnsafeMutablePointer<UInt>) -> Int32
  private typealias GetDevice = @convention(c) (UnsafeMutablePointer<Int32>) -> Int32
  private typealias Retain = @convention(c) (UnsafeMutablePointer<UInt>, Int32) -> Int32
  private typealias SetContext = @convention(c) (UInt) -> Int32
  private typealias LoadModule =
    @convention(c) (UnsafeMutablePointer<UInt>, UnsafeRawPointer) ->
    Int32
  private typealias GetFunction =
    @convention(c) (
      UnsafeMutablePointer<UInt>, UInt, UnsafePointer<CChar>
    ) -> Int32
  private typealias SetAttribute = @convention(c) (UInt, Int32, Int32) -> Int32
  private typealias Launch =
    @convention(c) (
      UnsafeRawPointer, UInt, UnsafeMutablePointer<UnsafeMutableRawPointer?>,
      UnsafeMutableRawPointer?
    ) -> Int32
  private typealias Allocate = @convention(c) (UnsafeMutablePointer<UInt64>, Int) -> Int32
  private typealias Free = @convention(c) (UInt64) -> Int32
  private typealias Upload = @convention(c) (UInt64, UnsafeRawPointer, Int) -> Int32
  private typealias Download = @convention(c) (UnsafeMutableRawPointer, UInt64, Int) -> Int32
  private typealias Fill = @convention(c) (UInt64, UInt8, Int, UInt) -> Int32
  private typealias MemoryInfo =
    @convention(c) (
      UnsafeMutablePointer<Int>, UnsafeMutablePointer<Int>
    ) -> Int32
  private typealias Synchronize = @convention(c) () -> Int32
  typealias EncodeMap =
    @convention(c) (
      UnsafeMutableRawPointer, Int32, UInt32, UInt64, UnsafePointer<UInt64>, UnsafePointer<UInt64>,
      UnsafePointer<UInt32>, UnsafePointer<UInt32>, Int32, Int32, Int32, Int32
    ) -> Int32

  private let library: DynamicLibrary
  private let errorString: ErrorName
  private let attribute: Attribute
  private let deviceName: DeviceName
  private let currentContext: Get
  private let currentDevice: GetDevice
  private let retainPrimary: Retain
  private let setContext: SetContext
  private let loadModule: LoadModule
  private let getFunction: GetFunction
  private let setAttribute: SetAttribute
  private let launchKernel: Launch
  private let allocateMemory: Allocate
  private let freeMemory: Free
  private let copyToDevice: Upload
  private let copyToHost: Download
  private let fillMemory: Fill
  private let memoryInfo: MemoryInfo
  private let synchronizeContext: Synchronize
  let encodeMap: EncodeMap

  /// The CUDA version that the driver supports, e.g. 13000 for 13.0.
  public let version: Int
  /// The number of devices.
  public let deviceCount: Int

  private static let loaded = Mutex<Result<CUDADriver, CUDAError>?>(nil)

  /// The process's driver, loaded on first use.
  ///
  /// - Throws: ``CUDAError`` without a driver, with an old one, or without a device.
  public static func shared() throws(CUDAError) -> CUDADriver {
    let result = loaded.withLock { cached in
      if let cached { return cached }
      let result = Result { () throws(CUDAError) in try CUDADriver() }
      cached = result
      return result
    }
    return try result.get()
  }

  private init() throws(CUDAError) {
    guard let library = DynamicLibrary(firstOf: ["libcuda.so.1", "libcuda.so"]) else {
      throw .noDriver(detail: DynamicLibrary.lastError)
    }
    func load<Function>(_ symbol: String, as type: Function.Type = Function.self) throws(CUDAError)
      -> Function
    {
      guard let function = library.function(symbol, as: type) else {
        throw CUDAError.noDriver(detail: "\(library.name) lacks \(symbol)")
      }
      return function
    }
    self.library = library
    errorString = try load("cuGetErrorString")
    attribute = try load("cuDeviceGetAttribute")
    deviceName = try load("cuDeviceGetName")
    currentContext = try load("cuCtxGetCurrent")
    currentDevice = try load("cuCtxGetDevice")
    retainPrimary = try load("cuDevicePrimaryCtxRetain")
    setContext = try load("cuCtxSetCurrent")
    loadModule = try load("cuModuleLoadData")
    getFunction = try load("cuModuleGetFunction")
    setAttribute = try load("cuFuncSetAttribute")
    launchKernel = try load("cuLaunchKernelEx")
    allocateMemory = try load("cuMemAlloc_v2")
    freeMemory = try load("cuMemFree_v2")
    copyToDevice = try load("cuMemcpyHtoD_v2")
    copyToHost = try load("cuMemcpyDtoH_v2")
    fillMemory = try load("cuMemsetD8Async")
    memoryInfo = try load("cuMemGetInfo_v2")
    synchronizeContext = try load("cuCtxSynchronize")
    encodeMap = try load("cuTensorMapEncodeTiled")

    let initialize: @convention(c) (UInt32) -> Int32 = try load("cuInit")
    let getVersion: Integers = try load("cuDriverGetVersion")
    let getCount: Integers = try load("cuDeviceGetCount")
    var number: Int32 = 0
    guard getVersion(&number) == 0 else {
      throw .noDriver(detail: "cuDriverGetVersion failed")
    }
    version = Int(number)
    guard version >= Self.oldestVersion else {
      throw .oldDriver(found: version, needed: Self.oldestVersion)
    }
    var count: Int32 = 0
    guard initialize(0) == 0, getCount(&count) == 0, count > 0 else { throw .noDevice }
    deviceCount = Int(count)
  }
}

extension CUDADriver {
  /// What the kernels need to know about a device.
  public struct Device: Sendable, Hashable {
    /// The ordinal among the visible devices.
    public let ordinal: Int
    /// For example `NVIDIA H200`.
    public let name: String
    /// Compute capability times 10, e.g. 90.
    public let capability: Int
    /// The number of streaming multiprocessors.
    public let multiprocessors: Int
    /// The shared memory that one block may ask for, in bytes.
    public let sharedMemory: Int

    /// Whether a launch may begin while the one before it ends (see ``CUDADriver/launch``'s `overlaps`); not
    /// while the driver's `CUDA_LAUNCH_BLOCKING` asks for one launch after the other.
    var overlapsLaunches: Bool { capability >= 90 && !Self.launchesBlock }

    private static let launchesBlock =
      ProcessInfo.processInfo.environment["CUDA_LAUNCH_BLOCKING"] == "1"

    /// The architecture to compile for, e.g. `sm_90a`.
    public var architecture: String { capability == 90 ? "sm_90a" : "sm_\(capability)" }
  }

  /// The device of the calling thread's context. Gives the thread device 0's primary context if it
  /// has none.
  ///
  /// - Throws: ``CUDAError/oldDevice(name:capability:)`` below compute capability 8.0.
  public func device() throws(CUDAError) -> Device {
    var context: UInt = 0
    try check(currentContext(&context), "cuCtxGetCurrent")
    if context == 0 {
      try check(retainPrimary(&context, 0), "cuDevicePrimaryCtxRetain")
      try check(setContext(context), "cuCtxSetCurrent")
    }
    var ordinal: Int32 = 0
    try check(currentDevice(&ordinal), "cuCtxGetDevice")
    if let known = Self.devices.withLock({ $0[ordinal] }) { return known }
    var text = [CChar](repeating: 0, count: 256)
    try check(deviceName(&text, 256, ordinal), "cuDeviceGetName")
    let name = String(decoding: text.prefix { $0 != 0 }.map(UInt8.init(bitPattern:)), as: UTF8.self)
    let (major, minor) = (try value(75, ordinal), try value(76, ordinal))
    guard major >= 8 else { throw .oldDevice(name: name, capability: "\(major).\(minor)") }
    let device = Device(
      ordinal: Int(ordinal), name: name, capability: major * 10 + minor,
      multiprocessors: try value(16, ordinal), sharedMemory: try value(97, ordinal))
    Self.devices.withLock { $0[ordinal] = device }
    return device
  }

  private static let devices = Mutex<[Int32: Device]>([:])

  /// Runs `body` with the primary context of a device current on this thread.
  public func withDevice<Result>(_ ordinal: Int, _ body: () throws -> Result) throws -> Result {
    var previous: UInt = 0
    try check(currentContext(&previous), "cuCtxGetCurrent")
    if previous != 0 {
      var current: Int32 = 0
      try check(currentDevice(&current), "cuCtxGetDevice")
      if Int(current) == ordinal { return try body() }
    }
    var context: UInt = 0
    try check(retainPrimary(&context, Int32(ordinal)), "cuDevicePrimaryCtxRetain(\(ordinal))")
    try check(setContext(context), "cuCtxSetCurrent")
    defer { _ = setContext(previous) }
    return try body()
  }

  private func value(_ index: Int32, _ ordinal: Int32) throws(CUDAError) -> Int {
    var result: Int32 = 0
    try check(attribute(&result, index, ordinal), "cuDeviceGetAttribute(\(index))")
    return Int(result)
  }

  /// A function of the driver that only some callers need.
  func symbol<Function>(_ name: String, as type: Function.Type = Function.self) throws(CUDAError)
    -> Function
  {
    guard let function = library.function(name, as: type) else {
      throw .noDriver(detail: "\(library.name) lacks \(name)")
    }
    return function
  }

  func check(_ code: Int32, _ call: @autoclosure () -> String) throws(CUDAError) {
    guard code != 0 else { return }
    var text: UnsafePointer<CChar>?
    _ = errorString(code, &text)
    throw .driver(
      call: call(), code: Int(code), message: text.map { String(cString: $0) } ?? "unknown error")
  }

  /// Loads a cubin and returns its function `entry`, allowed to use `sharedMemory` bytes a block and clusters
  /// of `cluster` blocks.
  func function(
    cubin: [UInt8], entry: String, sharedMemory: Int, cluster: Int = 1
  ) throws(CUDAError) -> UInt {
    var module: UInt = 0
    let code = cubin.withUnsafeBytes { bytes in
      bytes.baseAddress.map { loadModule(&module, $0) } ?? 1
    }
    try check(code, "cuModuleLoadData(\(entry))")
    var function: UInt = 0
    try check(getFunction(&function, module, entry), "cuModuleGetFunction(\(entry))")
    // CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
    try check(
      setAttribute(function, 8, Int32(sharedMemory)),
      "cuFuncSetAttribute(\(entry), \(sharedMemory) bytes of shared memory)")
    if cluster > 8 {
      // CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED
      try check(
        setAttribute(function, 14, 1), "cuFuncSetAttribute(\(entry), clusters of \(cluster) blocks)"
      )
    }
    return function
  }

  /// `CUlaunchConfig` of the driver API.
  private struct LaunchConfiguration {
    var grid: (UInt32, UInt32, UInt32)
    var block: (UInt32, UInt32, UInt32)
    var sharedMemory: UInt32
    var stream: UInt
    var attributes: UnsafePointer<LaunchAttribute>?
    var attributeCount: UInt32
  }

  /// `CUlaunchAttribute` of the driver API: an identifier and 64 bytes of a value.
  private struct LaunchAttribute {
    var identifier: UInt32
    var padding: UInt32 = 0
    var value: (UInt64, UInt64, UInt64, UInt64, UInt64, UInt64, UInt64, UInt64)

    /// CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION
    static let overlap = LaunchAttribute(identifier: 6, value: (1, 0, 0, 0, 0, 0, 0, 0))

    /// CU_LAUNCH_ATTRIBUTE_COOPERATIVE
    static let cooperative = LaunchAttribute(identifier: 2, value: (1, 0, 0, 0, 0, 0, 0, 0))

    /// CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION: three 32-bit numbers.
    static func clusters(of blocks: Int) -> LaunchAttribute {
      LaunchAttribute(identifier: 4, value: (UInt64(blocks) | 1 << 32, 1, 0, 0, 0, 0, 0, 0))
    }
  }

  /// Launches a function whose only parameter is the value `parameters`.
  ///
  /// - Parameter overlaps: whether its blocks may be placed while the stream's last launch ends, which hides
  ///   what a launch costs. Such a kernel calls `followPrevious()` before it touches memory; the device
  ///   is a ``Device/overlapsLaunches`` one.
  /// - Parameter isCooperative: whether blocks wait for each other, so that all must run at once. Such a launch
  ///   does not overlap with the one before.
  func launch<Parameters>(
    _ function: UInt, grid: (Int, Int), threads: Int, sharedMemory: Int, stream: Stream,
    overlaps: Bool = false, isCooperative: Bool = false, parameters: Parameters
  ) throws(CUDAError) {
    var copy = parameters
    let code = withUnsafeMutableBytes(of: &copy) { bytes -> Int32 in
      var pointer: UnsafeMutableRawPointer? = bytes.baseAddress
      return withUnsafePointer(
        to: isCooperative ? LaunchAttribute.cooperative : .overlap
      ) { attribute in
        var configuration = LaunchConfiguration(
          grid: (UInt32(grid.0), UInt32(grid.1), 1), block: (UInt32(threads), 1, 1),
          sharedMemory: UInt32(sharedMemory), stream: stream, attributes: attribute,
          attributeCount: overlaps || isCooperative ? 1 : 0)
        return launchKernel(&configuration, function, &pointer, nil)
      }
    }
    try check(code, "cuLaunchKernelEx with a grid of \(grid.0) × \(grid.1) blocks")
  }

  /// How many clusters of `cluster` blocks of a function an idle device runs at once.
  func activeClusters(
    of function: UInt, cluster: Int, threads: Int, sharedMemory: Int
  ) throws(CUDAError) -> Int {
    let occupancy: @convention(c) (UnsafeMutablePointer<Int32>, UInt, UnsafeRawPointer) -> Int32 =
      try symbol(
        "cuOccupancyMaxActiveClusters")
    var count: Int32 = 0
    let code = withUnsafePointer(to: LaunchAttribute.clusters(of: cluster)) { attribute in
      var configuration = LaunchConfiguration(
        grid: (UInt32(cluster), 1, 1), block: (UInt32(threads), 1, 1),
        sharedMemory: UInt32(sharedMemory), stream: 0, attributes: attribute, attributeCount: 1)
      return occupancy(&count, function, &configuration)
    }
    try check(code, "cuOccupancyMaxActiveClusters(clusters of \(cluster) blocks)")
    return Int(count)
  }

  /// Allocates device memory that lives until ``free(_:)``.
  public func allocate(bytes: Int) throws(CUDAError) -> Address {
    var address: UInt64 = 0
    let code = allocateMemory(&address, max(bytes, 1))
    if code == 2 {
      var (free, total) = (0, 0)
      _ = memoryInfo(&free, &total)
      throw .outOfMemory(wanted: bytes, free: free, total: total)
    }
    try check(code, "cuMemAlloc(\(bytes) bytes)")
    return address
  }

  /// Returns memory from ``allocate(bytes:)``.
  public func free(_ address: Address) throws(CUDAError) {
    try check(freeMemory(address), "cuMemFree")
  }

  /// Copies an array to device memory and waits for it.
  public func upload<Element: BitwiseCopyable>(_ values: [Element], to address: Address)
    throws(CUDAError)
  {
    let code = values.withUnsafeBytes { bytes in
      bytes.baseAddress.map { copyToDevice(address, $0, bytes.count) } ?? 0
    }
    try check(code, "cuMemcpyHtoD(\(values.count) values)")
  }

  /// Copies device memory into an array after the work of all streams.
  public func download<Element: BitwiseCopyable>(
    _ values: inout [Element], from address: Address
  ) throws(CUDAError) {
    try check(synchronizeContext(), "cuCtxSynchronize")
    let code = values.withUnsafeMutableBytes { bytes in
      bytes.baseAddress.map { copyToHost($0, address, bytes.count) } ?? 0
    }
    try check(code, "cuMemcpyDtoH(\(values.count) values)")
  }

  /// Sets `bytes` bytes to zero on a stream.
  func clear(_ address: Address, bytes: Int, stream: Stream) throws(CUDAError) {
    try check(fillMemory(address, 0, bytes, stream), "cuMemsetD8Async(\(bytes) bytes)")
  }
}
