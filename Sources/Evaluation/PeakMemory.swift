import Foundation

/// The resident memory of this process.
public enum PeakMemory {
  /// Runs work and returns by how many bytes the resident size grew at most while it ran, over what
  /// was resident before, next to the work's result.
  ///
  /// The kernel keeps the high-water mark (VmHWM), which is reset first through
  /// `/proc/self/clear_refs`; memory that the allocator holds without using it is given back, so
  /// that it does not hide growth. The number is nil where the mark cannot be reset (other systems
  /// than Linux, or a read-only `/proc`).
  public static func growth<Result>(of work: () throws -> Result) rethrows -> (Result, bytes: Int?)
  {
    giveBackFreeMemory()
    guard resetHighWaterMark(), let before = status("VmRSS") else { return (try work(), nil) }
    let result = try work()
    return (result, status("VmHWM").map { max(0, $0 - before) })
  }

  /// The resident size in bytes, nil where the system does not tell.
  public static var resident: Int? { status("VmRSS") }

  /// The bytes that new work could take without swapping, nil where the system does not tell.
  public static var available: Int? { line("MemAvailable", in: "/proc/meminfo") }

  private static func resetHighWaterMark() -> Bool {
    // Opened rather than created: where the file is missing, writing must not make one.
    guard let handle = FileHandle(forWritingAtPath: "/proc/self/clear_refs") else { return false }
    return (try? handle.write(contentsOf: Data("5".utf8))) != nil
  }

  private static func status(_ key: String) -> Int? { line(key, in: "/proc/self/status") }

  /// A line `VmHWM:   12345 kB`, in bytes.
  private static func line(_ key: String, in path: String) -> Int? {
    guard let text = try? String(contentsOfFile: path, encoding: .utf8) else { return nil }
    for line in text.split(separator: "\n") where line.hasPrefix(key + ":") {
      return line.split(whereSeparator: \.isWhitespace).dropFirst().first.flatMap { Int($0) }
        .map { $0 * 1024 }
    }
    return nil
  }

  /// glibc's `malloc_trim(0)`, which Swift's module of the C library leaves out.
  private static func giveBackFreeMemory() {
    guard let symbol = dlsym(dlopen(nil, RTLD_NOW), "malloc_trim") else { return }
    typealias Trim = @convention(c) (Int) -> Int32
    _ = unsafeBitCast(symbol, to: Trim.self)(0)
  }
}
