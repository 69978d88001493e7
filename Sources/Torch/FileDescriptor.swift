#if canImport(Glibc)
  import Glibc
#elseif canImport(Musl)
  import Musl
#else
  import Darwin
#endif

/// An open file, closed with the object. Errors carry the path and the system's reason.
final class FileDescriptor {
  private let descriptor: Int32
  private let path: String

  private init(_ descriptor: Int32, _ path: String) {
    self.descriptor = descriptor
    self.path = path
  }

  deinit {
    close(descriptor)
  }

  /// The reason of the last system call's failure.
  private static var reason: String { String(cString: strerror(errno)) }

  /// Calls `body` again while a signal interrupts it.
  private static func uninterrupted(_ body: () -> Int) -> Int {
    while true {
      let result = body()
      if result >= 0 || errno != EINTR { return result }
    }
  }
}

// MARK: - Reading

extension FileDescriptor {
  convenience init(reading path: String) throws {
    let descriptor = open(path, O_RDONLY | O_CLOEXEC)
    guard descriptor >= 0 else {
      throw SafetensorsError.unreadable(path: path, reason: Self.reason)
    }
    self.init(descriptor, path)
  }

  /// The size of the file, which must be a regular one.
  func byteCount() throws -> Int {
    var status = stat()
    guard fstat(descriptor, &status) == 0 else {
      throw SafetensorsError.unreadable(path: path, reason: Self.reason)
    }
    guard status.st_mode & S_IFMT == S_IFREG else {
      throw SafetensorsError.unreadable(path: path, reason: "it is not a regular file")
    }
    return Int(status.st_size)
  }

  func read(_ range: Range<Int>) throws -> [UInt8] {
    var bytes = [UInt8](repeating: 0, count: range.count)
    try bytes.withUnsafeMutableBytes { try read(into: $0, at: range.lowerBound) }
    return bytes
  }

  /// Fills `bytes` from the file's byte `offset` on; a file that ends before is an error.
  func read(into bytes: UnsafeMutableRawBufferPointer, at offset: Int) throws {
    var done = 0
    while done < bytes.count {
      let rest = UnsafeMutableRawBufferPointer(rebasing: bytes[done...])
      let count = Self.uninterrupted {
        pread(descriptor, rest.baseAddress, rest.count, off_t(offset + done))
      }
      guard count > 0 else {
        let reason = count == 0 ? "it became shorter while it was read" : Self.reason
        throw SafetensorsError.unreadable(path: path, reason: reason)
      }
      done += count
    }
  }
}

// MARK: - Writing

extension FileDescriptor {
  /// Writes a new file and puts it in the place of `path` when it is complete and on the disk.
  static func replace(_ path: String, _ body: (FileDescriptor) throws -> Void) throws {
    let partial = path + ".partial"
    let descriptor = open(partial, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0o644)
    guard descriptor >= 0 else { throw SafetensorsError.unwritable(path: path, reason: reason) }
    do {
      let file = FileDescriptor(descriptor, path)
      try body(file)
      try file.synchronize()
      guard rename(partial, path) == 0 else {
        throw SafetensorsError.unwritable(path: path, reason: reason)
      }
    } catch {
      unlink(partial)
      throw error
    }
    synchronizeFolder(of: path)
  }

  func write(_ bytes: UnsafeRawBufferPointer) throws {
    var rest = bytes
    while !rest.isEmpty {
      let count = Self.uninterrupted { writeSome(rest) }
      guard count >= 0 else {
        throw SafetensorsError.unwritable(path: path, reason: Self.reason)
      }
      rest = UnsafeRawBufferPointer(rebasing: rest[count...])
    }
  }

  private func writeSome(_ bytes: UnsafeRawBufferPointer) -> Int {
    #if canImport(Glibc)
      Glibc.write(descriptor, bytes.baseAddress, bytes.count)
    #elseif canImport(Musl)
      Musl.write(descriptor, bytes.baseAddress, bytes.count)
    #else
      Darwin.write(descriptor, bytes.baseAddress, bytes.count)
    #endif
  }

  private func synchronize() throws {
    guard fsync(descriptor) == 0 else {
      throw SafetensorsError.unwritable(path: path, reason: Self.reason)
    }
  }

  /// Makes the new name itself last. Not every file system can, and the file is complete anyway.
  private static func synchronizeFolder(of path: String) {
    let folder = path.lastIndex(of: "/").map { String(path[...$0]) } ?? "."
    let descriptor = open(folder, O_RDONLY | O_CLOEXEC)
    guard descriptor >= 0 else { return }
    fsync(descriptor)
    close(descriptor)
  }
}
