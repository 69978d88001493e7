/// What can keep the GPU path from running. Every sentence says what was expected, what was found and
/// what to do about it; the CPU path is never affected.
public enum CUDAError: Error, Equatable, CustomStringConvertible {
  /// No NVIDIA driver library could be loaded.
  case noDriver(detail: String)
  /// The driver is present and lists no device.
  case noDevice
  /// The driver is too old for the kernels.
  case oldDriver(found: Int, needed: Int)
  /// The device lacks asynchronous copies and bf16 tensor cores.
  case oldDevice(name: String, capability: String)
  /// No NVRTC library could be loaded.
  case noCompiler(tried: [String])
  /// NVRTC refused a kernel.
  case compilation(kernel: String, options: [String], log: String)
  /// The device has too little free memory.
  case outOfMemory(wanted: Int, free: Int, total: Int)
  /// Any other refusal of the driver.
  case driver(call: String, code: Int, message: String)
  /// The cache folder cannot be used.
  case cache(path: String, detail: String)

  /// The sentence for the user.
  public var description: String {
    switch self {
    case .noDriver(let detail):
      "Expected the NVIDIA driver library libcuda.so.1 and could not load it (\(detail)). Install the "
        + "NVIDIA driver, or \(Self.elsewhere)."
    case .noDevice:
      "Expected a CUDA device and the driver lists none. Check `nvidia-smi` and CUDA_VISIBLE_DEVICES, "
        + "or \(Self.elsewhere)."
    case .oldDriver(let found, let needed):
      "Expected a driver for CUDA \(Self.version(needed)) or later and found one for CUDA "
        + "\(Self.version(found)). Update the NVIDIA driver, or \(Self.elsewhere)."
    case .oldDevice(let name, let capability):
      "Expected a GPU of compute capability 8.0 or later and found \(name) with \(capability). Use a "
        + "newer GPU, or \(Self.elsewhere)."
    case .noCompiler(let tried):
      "Expected the run-time compiler NVRTC and found none of \(tried.joined(separator: ", ")). "
        + "Install the Python package nvidia-cuda-nvrtc (torch's CUDA wheels bring it) and load torch "
        + "first, or name the library in TENSATTN_NVRTC."
    case .compilation(let kernel, let options, let log):
      "NVRTC could not compile the kernel \(kernel) with \(options.joined(separator: " ")). This is a "
        + "defect of this package; please report the log:\n\(log)"
    case .outOfMemory(let wanted, let free, let total):
      "The GPU has \(free >> 20) of \(total >> 20) MiB free and \(wanted >> 20) MiB more are needed. "
        + "Shorten the sequence, lower the batch size, or free the memory that other programs hold."
    case .driver(let call, let code, let message):
      "The CUDA call \(call) failed with error \(code): \(message)."
    case .cache(let path, let detail):
      "Expected to write compiled kernels to \(path): \(detail). Name another folder in "
        + "TENSATTN_CACHE, or make this one writable."
    }
  }

  private static let elsewhere =
    "run on the CPU with --device cpu (attend and check: --backend cpu)"

  private static func version(_ number: Int) -> String { "\(number / 1000).\(number % 1000 / 10)" }
}
