import Foundation
import Synchronization

/// NVIDIA's run-time compiler, loaded with `dlopen`: kernels are compiled for the GPU that is there.
///
/// It is looked for, in this order, at `TENSATTN_NVRTC`, among the libraries that are already loaded or
/// on the loader's path (libtorch's CUDA build brings it), and in the Python packages beside libtorch.
public struct NVRTC: Sendable {
  private typealias Create =
    @convention(c) (
      UnsafeMutablePointer<UInt>, UnsafePointer<CChar>, UnsafePointer<CChar>, Int32,
      UnsafeRawPointer?, UnsafeRawPointer?
    ) -> Int32
  private typealias Compile =
    @convention(c) (
      UInt, Int32, UnsafePointer<UnsafePointer<CChar>?>?
    ) -> Int32
  private typealias Size = @convention(c) (UInt, UnsafeMutablePointer<Int>) -> Int32
  private typealias Read = @convention(c) (UInt, UnsafeMutablePointer<CChar>) -> Int32
  private typealias Destroy = @convention(c) (UnsafeMutablePointer<UInt>) -> Int32
  private typealias Version =
    @convention(c) (
      UnsafeMutablePointer<Int32>, UnsafeMutablePointer<Int32>
    ) -> Int32

  private let create: Create
  private let compileProgram: Compile
  private let logSize: Size
  private let readLog: Read
  private let cubinSize: Size
  private let readCubin: Read
  private let destroy: Destroy
  /// For example `13.0`.
  public let version: String

  private static let loaded = Mutex<Result<NVRTC, CUDAError>?>(nil)

  /// The process's compiler, loaded on first use.
  ///
  /// - Throws: ``CUDAError/noCompiler(tried:)``.
  public static func shared() throws(CUDAError) -> NVRTC {
    let result = loaded.withLock { cached in
      if let cached { return cached }
      let result = Result { () throws(CUDAError) in try NVRTC() }
      cached = result
      return result
    }
    return try result.get()
  }

  /// The names to try, given the environment.
  static func candidates(environment: [String: String]) -> [String] {
    var names: [String] = []
    if let named = environment["TENSATTN_NVRTC"], !named.isEmpty { names.append(named) }
    names += ["libnvrtc.so.13", "libnvrtc.so.12"]
    // <site-packages>/torch → <site-packages>/nvidia/cu13/lib and …/nvidia/cuda_nvrtc/lib
    if let torch = environment["LIBTORCH"], !torch.isEmpty {
      let packages = URL(fileURLWithPath: torch).deletingLastPathComponent().path
      names += [
        packages + "/nvidia/cu13/lib/libnvrtc.so.13",
        packages + "/nvidia/cuda_nvrtc/lib/libnvrtc.so.12",
      ]
    }
    return names
  }

  private init() throws(CUDAError) {
    let names = Self.candidates(environment: ProcessInfo.processInfo.environment)
    // NVRTC opens its built-ins by bare name, which fails from a Python package's folder unless they
    // are loaded already.
    for name in names where name.contains("/") {
      let folder = URL(fileURLWithPath: name).deletingLastPathComponent().path
      let files = (try? FileManager.default.contentsOfDirectory(atPath: folder)) ?? []
      let builtins = files.filter {
        $0.hasPrefix("libnvrtc-builtins.so") && !$0.contains("alt")
      }
      _ = DynamicLibrary(firstOf: builtins.map { folder + "/" + $0 }, global: true)
    }
    guard let library = DynamicLibrary(firstOf: names) else { throw .noCompiler(tried: names) }
    func load<Function>(_ symbol: String, as type: Function.Type = Function.self) throws(CUDAError)
      -> Function
    {
      guard let function = library.function(symbol, as: type) else {
        throw CUDAError.noCompiler(tried: ["\(library.name) (it lacks \(symbol))"])
      }
      return function
    }
    create = try load("nvrtcCreateProgram")
    compileProgram = try load("nvrtcCompileProgram")
    logSize = try load("nvrtcGetProgramLogSize")
    readLog = try load("nvrtcGetProgramLog")
    cubinSize = try load("nvrtcGetCUBINSize")
    readCubin = try load("nvrtcGetCUBIN")
    destroy = try load("nvrtcDestroyProgram")
    let getVersion: Version = try load("nvrtcVersion")
    var (major, minor): (Int32, Int32) = (0, 0)
    _ = getVersion(&major, &minor)
    version = "\(major).\(minor)"
  }

  /// Compiles one source to a cubin.
  ///
  /// - Throws: ``CUDAError/compilation(kernel:options:log:)`` with the compiler's log.
  public func compile(source: String, name: String, options: [String]) throws(CUDAError) -> [UInt8]
  {
    var program: UInt = 0
    guard create(&program, source, name, 0, nil, nil) == 0 else {
      throw .compilation(kernel: name, options: options, log: "nvrtcCreateProgram failed")
    }
    defer { _ = destroy(&program) }
    let copies = options.map { strdup($0) }
    defer { copies.forEach { free($0) } }
    let code = copies.map { UnsafePointer($0) }.withUnsafeBufferPointer {
      compileProgram(program, Int32(options.count), $0.baseAddress)
    }
    guard code == 0 else {
      throw .compilation(kernel: name, options: options, log: log(of: program))
    }
    var size = 0
    guard cubinSize(program, &size) == 0, size > 0 else {
      throw .compilation(kernel: name, options: options, log: "no cubin for this architecture")
    }
    var cubin = [UInt8](repeating: 0, count: size)
    let read = cubin.withUnsafeMutableBytes { bytes in
      bytes.bindMemory(to: CChar.self).baseAddress.map { readCubin(program, $0) } ?? 1
    }
    guard read == 0 else {
      throw .compilation(kernel: name, options: options, log: "the cubin could not be read")
    }
    return cubin
  }

  private func log(of program: UInt) -> String {
    var size = 0
    guard logSize(program, &size) == 0, size > 1 else { return "no log" }
    var text = [CChar](repeating: 0, count: size)
    guard readLog(program, &text) == 0 else { return "no log" }
    return String(decoding: text.prefix { $0 != 0 }.map(UInt8.init(bitPattern:)), as: UTF8.self)
  }
}
