// What copies by tensor memory access know of the tensors of a short backward pass.

/// `CUtensorMap` of the driver API, whose contents are the driver's business.
package struct TensorMap {
  private typealias Words = (
    UInt64, UInt64, UInt64, UInt64, UInt64, UInt64, UInt64, UInt64,
    UInt64, UInt64, UInt64, UInt64, UInt64, UInt64, UInt64, UInt64
  )
  private var words: Words = (0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
}

/// The kernels' `struct Maps`: a pass's tensors and their gradients.
package struct BulkMaps {
  var queries = TensorMap()
  var keys = TensorMap()
  var values = TensorMap()
  var outputGradient = TensorMap()
  var queryGradient = TensorMap()
  var keyGradient = TensorMap()
  var valueGradient = TensorMap()
}

/// The kernels' `struct FusedBulk`, whose maps begin at a multiple of 64 bytes.
package struct FusedBulkParameters {
  var both: FusedParameters
  var padding: (UInt64, UInt64) = (0, 0)
  var lower: BulkMaps
  var upper: BulkMaps
}

extension CUDADriver {
  /// Describes a [B, heads, N, D] tensor as channels, positions along the fibers of a mode, neighboring fibers, heads
  /// and sequences, copied in boxes of 64 channels of 64 rows (whole fibers) into 128-byte swizzled panels.
  ///
  /// - Parameter fiber: the mode's size, a divisor of 64.
  /// - Precondition: the tokens are whole blocks of the mode.
  func tensorMap(
    _ tensor: DeviceTensor, heads: Int, shape: CUDAPassShape, fiber: Int
  ) throws(CUDAError) -> TensorMap {
    let stride = shape.mode.stride
    let sizes = [shape.headWidth, shape.tokens / stride, stride, heads, shape.batch]
    // A dimension of one element may have any stride that the driver takes.
    let strides = [
      stride * tensor.tokenStride, tensor.tokenStride, tensor.headStride, tensor.batchStride,
    ].map { max($0 * shape.element.size, 16) }
    let box = stride == 1 ? [64, 64, 1, 1, 1] : [64, fiber, 64 / fiber, 1, 1]
    var map = TensorMap()
    // CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, …_FLOAT16; a 128-byte swizzle; 256 bytes at a time into L2.
    let code = withUnsafeTemporaryAllocation(
      byteCount: MemoryLayout<TensorMap>.size, alignment: 64
    ) { place -> Int32 in
      guard let base = place.baseAddress else { return 1 }
      let code = encodeMap(
        base, shape.element == .bfloat16 ? 9 : 6, 5, tensor.address, sizes.map(UInt64.init),
        strides.map(UInt64.init), box.map(UInt32.init), [1, 1, 1, 1, 1], 0, 3, 3, 0)
      map = base.loadUnaligned(as: TensorMap.self)
      return code
    }
    try check(code, "cuTensorMapEncodeTiled of \(tensor), \(sizes)")
    return map
  }
}

extension CUDAKernels {
  /// The maps of a short pass's tensors.
  func maps(of pass: CUDAPass, _ gradients: CUDAPassGradients) throws(CUDAError) -> BulkMaps {
    let shape = pass.shape
    func map(_ tensor: DeviceTensor, _ heads: Int) throws(CUDAError) -> TensorMap {
      try driver.tensorMap(tensor, heads: heads, shape: shape, fiber: shape.mode.size)
    }
    return BulkMaps(
      queries: try map(pass.queries, shape.heads), keys: try map(pass.keys, shape.keyHeads),
      values: try map(pass.values, shape.valueHeads),
      outputGradient: try map(gradients.output, shape.heads),
      queryGradient: try map(gradients.queries, shape.heads),
      keyGradient: try map(gradients.keys, shape.keyHeads),
      valueGradient: try map(gradients.values, shape.valueHeads))
  }
}

extension DeviceTensor {
  /// Whether heads and sequences lie at strides of their own, as a ``TensorMap`` needs them.
  func isSpread(heads: Int, batch: Int) -> Bool {
    tokenStride > 0 && (heads == 1 || headStride > 0) && (batch == 1 || batchStride > 0)
  }
}
