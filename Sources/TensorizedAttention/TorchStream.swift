import AttentionCUDA

#if canImport(Glibc)
  import Glibc
#elseif canImport(Musl)
  import Musl
#else
  import Darwin
#endif

/// The stream on which libtorch queues its work, so that kernels run in the order of the program.
package enum TorchStream {
  private typealias Current =
    @convention(c) (
      Int32, UnsafeMutablePointer<UnsafeMutableRawPointer?>
    ) -> Int32

  /// libtorch's C function, if a CUDA build is loaded.
  private static let current: Current? = {
    guard let symbol = dlsym(dlopen(nil, RTLD_NOW), "aoti_torch_get_current_cuda_stream") else {
      return nil
    }
    return unsafeBitCast(symbol, to: Current.self)
  }()

  /// The current stream of a device.
  ///
  /// - Throws: ``BackendError`` if the libtorch that is loaded knows no CUDA.
  package static func current(device: Int) throws -> CUDADriver.Stream {
    var stream: UnsafeMutableRawPointer?
    guard let current, current(Int32(device), &stream) == 0 else {
      throw BackendError(
        description:
          "Expected a libtorch built for CUDA and found one without; point LIBTORCH at a CUDA "
          + "build, or move the tensors to the CPU.")
    }
    return UInt(bitPattern: stream)
  }
}
