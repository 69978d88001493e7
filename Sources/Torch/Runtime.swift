import CTorch

#if canImport(Glibc)
  import Glibc
#elseif canImport(Darwin)
  import Darwin
#endif

/// The library and the process it runs in.
public enum Runtime {
  /// The version of libtorch that this program was built against.
  public static var version: String { String(cString: ct_compiled_version()) }

  /// Checks that the libtorch that was loaded is the one this program was built against.
  ///
  /// - Throws: ``TorchError`` that says what to do.
  public static func checkLibrary() throws {
    let loaded = ct_loaded_version()
    let (major, minor) = (loaded >> 16, loaded & 0xffff)
    guard loaded != 0, !version.hasPrefix("\(major).\(minor).") else { return }
    throw TorchError(
      "This program was built against libtorch \(version) but \(major).\(minor) was loaded: "
        + "run `make setup` and build again.")
  }

  /// Asks libtorch to put large tensors on huge pages, before the first one is made.
  ///
  /// Fresh memory is touched page by page: with pages of 2 MiB a new tensor of 32 MiB costs 16 page
  /// faults instead of 8192. Every operation gains; the kernel must allow it (`madvise`).
  public static func useHugePages() { setenv("THP_MEM_ALLOC_ENABLE", "1", 0) }

  /// Tensor handles that are alive in this process.
  public static var liveTensorCount: Int { Int(ct_live_tensors()) }

  /// Threads that an operation may use on the CPU.
  public static var threadCount: Int {
    get { Int(ct_thread_count()) }
    set { expect("threadCount = \(newValue)") { try check(ct_set_thread_count(Int32(newValue))) } }
  }

  /// Runs `task(i)` for every i below `count` on libtorch's own threads and waits for all.
  ///
  /// A thread that becomes free takes the next index, so tasks of unequal size balance. Tasks run
  /// at the same time and in no order: each may write only what no other touches.
  public static func parallelFor(_ count: Int, _ task: @Sendable (Int) -> Void) {
    withoutActuallyEscaping(task) { task in
      var payload: @Sendable (Int) -> Void = task
      withUnsafeMutablePointer(to: &payload) { pointer in
        ct_parallel_for(
          count,
          { payload, index in
            payload?.assumingMemoryBound(to: (@Sendable (Int) -> Void).self).pointee(index)
          }, pointer)
      }
    }
  }
}

// MARK: - CUDA

extension Runtime {
  /// Whether libtorch sees a GPU.
  public static var isCUDAAvailable: Bool { ct_cuda_is_available() }

  /// GPUs that libtorch sees.
  public static var cudaDeviceCount: Int { Int(ct_cuda_device_count()) }

  /// Waits until everything queued on `device` is done.
  public static func synchronize(_ device: Device) {
    expect("synchronize(\(device))") { try check(ct_synchronize(device.raw)) }
  }

  /// The `cudaStream_t` on which libtorch launches; nil is the default stream.
  ///
  /// - Throws: ``TorchError`` if this libtorch has no CUDA.
  public static func currentCUDAStream(device index: Int) throws -> UnsafeMutableRawPointer? {
    var stream: UnsafeMutableRawPointer?
    try check(ct_current_cuda_stream(Int32(index), &stream))
    return stream
  }

  /// Bytes that libtorch's allocator holds on an accelerator.
  public struct Memory: Sendable {
    /// In tensors now.
    public let allocated: Int
    /// The most that was in tensors since the start or the last reset.
    public let peakAllocated: Int
    /// Taken from the device, tensors and cache.
    public let reserved: Int
  }

  /// The allocator's figures for `device`.
  ///
  /// - Throws: ``TorchError`` for the CPU, whose allocator keeps none, and before libtorch 2.9.
  public static func memory(of device: Device) throws -> Memory {
    var raw = ct_memory()
    try check(ct_memory_statistics(device.raw, &raw))
    return Memory(
      allocated: Int(raw.allocated), peakAllocated: Int(raw.peak_allocated),
      reserved: Int(raw.reserved))
  }

  /// Starts the peak of ``memory(of:)`` anew from what is allocated now.
  public static func resetPeakMemory(of device: Device) throws {
    try check(ct_reset_peak_memory(device.raw))
  }

  /// Returns the allocator's unused memory to the device.
  public static func emptyCache(of device: Device) throws {
    try check(ct_empty_cache(device.raw))
  }
}
