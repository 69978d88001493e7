import Foundation

/// Compiled kernels on disk, one file for each combination of source, options, compiler, driver and
/// architecture.
///
/// Two processes that start at once both compile and both rename a temporary file of their own onto the
/// same name: the content is equal, a rename is atomic, and no reader sees half a file.
package struct KernelCache: Sendable {
  /// The folder, created when the first kernel is stored.
  package let folder: URL

  /// Opens the cache at `TENSATTN_CACHE`, `XDG_CACHE_HOME/tensattn` or `~/.cache/tensattn`.
  package init(environment: [String: String] = ProcessInfo.processInfo.environment) {
    if let named = environment["TENSATTN_CACHE"], !named.isEmpty {
      folder = URL(fileURLWithPath: named)
    } else if let cache = environment["XDG_CACHE_HOME"], !cache.isEmpty {
      folder = URL(fileURLWithPath: cache).appendingPathComponent("tensattn")
    } else {
      let home = environment["HOME"] ?? NSTemporaryDirectory()
      folder = URL(fileURLWithPath: home).appendingPathComponent(".cache/tensattn")
    }
  }

  /// A cache in a folder of the caller's choice.
  package init(folder: URL) { self.folder = folder }

  /// The name of a kernel: a 128-bit hash of everything that decides the machine code.
  package static func key(source: String, options: [String], compiler: String, driver: Int)
    -> String
  {
    var (a, b): (UInt64, UInt64) = (0xcbf2_9ce4_8422_2325, 0x9e37_79b9_7f4a_7c15)
    func mix(_ text: String) {
      // FNV-1a, and a multiply–xorshift chain with another constant; the final 0xff separates fields.
      for byte in Array(text.utf8) + [0xff] {
        a = (a ^ UInt64(byte)) &* 0x0000_0100_0000_01b3
        b = (b &+ UInt64(byte)) &* 0xff51_afd7_ed55_8ccd
        b ^= b >> 32
      }
    }
    mix(source)
    options.forEach(mix)
    mix(compiler)
    mix(String(driver))
    return [a, b].map { value in
      let digits = String(value, radix: 16)
      return String(repeating: "0", count: 16 - digits.count) + digits
    }.joined()
  }

  /// The stored cubin, or what `compile` returns, which is then stored.
  ///
  /// - Throws: what `compile` throws, and ``CUDAError/cache(path:detail:)`` if the folder is unusable.
  package func cubin(key: String, compile: () throws -> [UInt8]) throws -> [UInt8] {
    // Threads that want the same kernel wait for the first of them; others rarely share its gate.
    return try Self.gates[Int(key.hashValue.magnitude % UInt(Self.gates.count))].withLock {
      try stored(key: key, compile: compile)
    }
  }

  private static let gates = (0..<64).map { _ in NSLock() }

  private func stored(key: String, compile: () throws -> [UInt8]) throws -> [UInt8] {
    let file = folder.appendingPathComponent(key + ".cubin")
    // Every cubin is an ELF file; anything else is a damaged entry and is compiled anew.
    if let data = try? Data(contentsOf: file), data.starts(with: [0x7f, 0x45, 0x4c, 0x46]) {
      return [UInt8](data)
    }
    let cubin = try compile()
    do {
      try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
      let temporary = folder.appendingPathComponent(
        ".\(key).\(ProcessInfo.processInfo.processIdentifier).\(UInt32.random(in: 0 ... .max))")
      try Data(cubin).write(to: temporary)
      guard rename(temporary.path, file.path) == 0 else {
        try? FileManager.default.removeItem(at: temporary)
        throw CUDAError.cache(path: folder.path, detail: "a file could not be renamed")
      }
    } catch let error as CUDAError {
      throw error
    } catch {
      throw CUDAError.cache(path: folder.path, detail: error.localizedDescription)
    }
    return cubin
  }
}
