/// Measures device work with events, each run after the second-level cache has been overwritten.
public final class CUDATimer {
  private typealias Create = @convention(c) (UnsafeMutablePointer<UInt>, UInt32) -> Int32
  private typealias Record = @convention(c) (UInt, UInt) -> Int32
  private typealias Wait = @convention(c) (UInt) -> Int32
  private typealias Elapsed = @convention(c) (UnsafeMutablePointer<Float>, UInt, UInt) -> Int32

  private let driver: CUDADriver
  private let stream: CUDADriver.Stream
  private let create: Create
  private let destroy: Wait
  private let record: Record
  private let synchronize: Wait
  private let elapsed: Elapsed
  private let flushed: CUDADriver.Address

  /// Several times the second-level cache of any current GPU.
  private static let flushBytes = 256 << 20

  /// Prepares measurements on a stream of the current device.
  ///
  /// - Throws: ``CUDAError``, for one if there is no room for the buffer that flushes the cache.
  public init(driver: CUDADriver, stream: CUDADriver.Stream) throws(CUDAError) {
    self.driver = driver
    self.stream = stream
    create = try driver.symbol("cuEventCreate")
    destroy = try driver.symbol("cuEventDestroy_v2")
    record = try driver.symbol("cuEventRecord")
    synchronize = try driver.symbol("cuEventSynchronize")
    elapsed = try driver.symbol("cuEventElapsedTime")
    flushed = try driver.allocate(bytes: Self.flushBytes)
  }

  deinit { try? driver.free(flushed) }

  /// The median time of `body` in milliseconds.
  ///
  /// - Parameters:
  ///   - runs: how often it is measured, after a quarter as many unmeasured runs.
  ///   - flushing: whether the cache is overwritten before each run.
  ///   - body: queues the work on the timer's stream; given the number of the run, so that it can rotate
  ///     among inputs.
  public func median(runs: Int, flushing: Bool = true, _ body: (Int) throws -> Void) throws
    -> Double
  {
    for run in 0..<max(1, runs / 4) { try body(run) }
    var pairs: [(UInt, UInt)] = []
    defer {
      for (start, end) in pairs {
        _ = destroy(start)
        _ = destroy(end)
      }
    }
    for run in 0..<runs {
      if flushing { try driver.clear(flushed, bytes: Self.flushBytes, stream: stream) }
      var (start, end): (UInt, UInt) = (0, 0)
      try driver.check(create(&start, 0), "cuEventCreate")
      try driver.check(create(&end, 0), "cuEventCreate")
      pairs.append((start, end))
      try driver.check(record(start, stream), "cuEventRecord")
      try body(run)
      try driver.check(record(end, stream), "cuEventRecord")
    }
    var times: [Double] = []
    for (start, end) in pairs {
      try driver.check(synchronize(end), "cuEventSynchronize")
      var milliseconds: Float = 0
      try driver.check(elapsed(&milliseconds, start, end), "cuEventElapsedTime")
      times.append(Double(milliseconds))
    }
    return times.sorted()[runs / 2]
  }
}
