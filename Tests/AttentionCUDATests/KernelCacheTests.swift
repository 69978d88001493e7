import Foundation
import Synchronization
import Testing

import AttentionCUDA

@Suite("Kernel cache")
struct KernelCacheTests {
  private static let elf: [UInt8] = [0x7f, 0x45, 0x4c, 0x46, 1, 2, 3]

  private func cache() -> KernelCache {
    KernelCache(
      folder: FileManager.default.temporaryDirectory.appendingPathComponent(
        "tensattn-\(UInt64.random(in: 0 ... .max))"))
  }

  @Test("a stored kernel is not compiled again")
  func reuse() throws {
    let cache = cache()
    defer { try? FileManager.default.removeItem(at: cache.folder) }
    #expect(try cache.cubin(key: "k") { Self.elf } == Self.elf)
    #expect(
      try cache.cubin(key: "k") {
        Issue.record("compiled twice")
        return []
      } == Self.elf)
    #expect(try FileManager.default.contentsOfDirectory(atPath: cache.folder.path) == ["k.cubin"])
  }

  @Test("a damaged file is compiled anew")
  func damage() throws {
    let cache = cache()
    defer { try? FileManager.default.removeItem(at: cache.folder) }
    _ = try cache.cubin(key: "k") { Self.elf }
    try Data([1, 2]).write(to: cache.folder.appendingPathComponent("k.cubin"))
    #expect(try cache.cubin(key: "k") { Self.elf } == Self.elf)
  }

  @Test("writers that start together all succeed and leave one file")
  func race() async throws {
    let cache = cache()
    defer { try? FileManager.default.removeItem(at: cache.folder) }
    try await withThrowingTaskGroup(of: [UInt8].self) { group in
      for _ in 0..<16 { group.addTask { try cache.cubin(key: "k") { Self.elf } } }
      for try await cubin in group { #expect(cubin == Self.elf) }
    }
    #expect(try FileManager.default.contentsOfDirectory(atPath: cache.folder.path) == ["k.cubin"])
  }

  @Test("everything that decides the code is in the key")
  func keys() {
    func key(
      _ source: String = "s", _ options: [String] = ["-DA=1", "-DB=2"], _ compiler: String = "13.0",
      _ driver: Int = 13_000
    ) -> String {
      KernelCache.key(source: source, options: options, compiler: compiler, driver: driver)
    }
    let keys = [
      key(), key("t"), key("s", ["-DA=1-DB=2"]), key("s", ["-DB=2", "-DA=1"]),
      key("s", ["-DA=1", "-DB=2"], "12.8"), key("s", ["-DA=1", "-DB=2"], "13.0", 13_010),
    ]
    #expect(Set(keys).count == keys.count)
    #expect(keys.allSatisfy { $0.count == 32 })
    #expect(key() == key())
  }

  @Test("an unusable folder is named")
  func unusable() {
    let cache = KernelCache(folder: URL(fileURLWithPath: "/dev/null/kernels"))
    #expect {
      try cache.cubin(key: "k") { Self.elf }
    } throws: {
      "\($0)".contains("/dev/null/kernels") && "\($0)".contains("TENSATTN_CACHE")
    }
  }

  @Test(
    "the folder follows the environment",
    arguments: [
      (["TENSATTN_CACHE": "/a"], "/a"), (["XDG_CACHE_HOME": "/b"], "/b/tensattn"),
      (["HOME": "/c"], "/c/.cache/tensattn"),
    ])
  func folder(environment: [String: String], path: String) {
    #expect(KernelCache(environment: environment).folder.path == path)
  }

  @Test(
    "every error says what to do",
    arguments: [
      (CUDAError.noDriver(detail: "x"), "--device cpu"), (.noDevice, "nvidia-smi"),
      (.oldDriver(found: 11_080, needed: 12_000), "11.8"),
      (.oldDevice(name: "Tesla", capability: "7.0"), "Tesla"),
      (.noCompiler(tried: ["libnvrtc.so.13"]), "TENSATTN_NVRTC"),
      (.compilation(kernel: "f", options: ["-DA"], log: "line 3"), "line 3"),
      (.outOfMemory(wanted: 1 << 30, free: 1 << 20, total: 1 << 31), "1024 MiB"),
      (.driver(call: "cuX", code: 700, message: "illegal address"), "illegal address"),
      (.cache(path: "/p", detail: "full"), "/p"),
    ])
  func sentences(error: CUDAError, part: String) {
    #expect(error.description.contains(part))
    #expect(error.description.hasSuffix(".") || error.description.contains("\n"))
  }
}
