// What copies by tensor memory access know of a pass's tensors.

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

/// The kernels' `struct WalkedForward`: a walk and, from a multiple of 64 bytes on, its tensors.
package struct ForwardWalkParameters {
  var walk: WalkParameters
  /// How many whole multiples of the stride the maps cover; 0 if there are none.
  var rows: Int32 = 0
  /// Behind a pair's launch that may not have ended: what a head's counter says when its rows are there, the counters,
  /// and which blocks begin when nearly all heads are there.
  var arrivals: Int32 = 0
  var finished: UInt64 = 0
  var lateFrom: Int32 = 0
  var lateTo: Int32 = 0
  var padding: (UInt64, UInt64, UInt64) = (0, 0, 0)
  var queries = TensorMap()
  var keys = TensorMap()
  var values = TensorMap()
  var output = TensorMap()
}

/// The kernels' `struct WalkedBackward`, whose maps begin at a multiple of 64 bytes.
package struct BackwardWalkParameters {
  var walk: WalkParameters
  /// The positions of every fiber that the maps cover; 0 where there are none.
  var rows: Int32
  /// How the pass above has left ∂/∂q turned, if it has: a token's turn is that of place ⌊t / stride⌋ mod `turnedSize`.
  var turnedSize: Int32 = 0
  var turned: UInt64 = 0
  var byTurnedStride = WalkParameters.Division(1)
  var byTurnedSize = WalkParameters.Division(1)
  var padding: (UInt64, UInt64) = (0, 0)
  var maps: BulkMaps

  init(walk: WalkParameters, rows: Int32, maps: BulkMaps, turned: CUDATurned? = nil) {
    (self.walk, self.rows, self.maps) = (walk, rows, maps)
    if let turned {
      (turnedSize, self.turned) = (Int32(turned.size), turned.table)
      byTurnedStride = WalkParameters.Division(turned.stride)
      byTurnedSize = WalkParameters.Division(turned.size)
    }
  }
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
  /// and sequences, copied in boxes of 64 channels of `rows` rows into 128-byte swizzled panels. Tokens behind the last
  /// whole multiple of the mode's stride are left out.
  ///
  /// - Parameters:
  ///   - fiber: how many positions of a fiber a box has, a divisor of `rows`; neighboring fibers fill it.
  ///   - rows: the rows of a box.
  func tensorMap(
    _ tensor: DeviceTensor, heads: Int, shape: CUDAPassShape, fiber: Int, rows: Int = 64
  ) throws(CUDAError) -> TensorMap {
    let stride = shape.mode.stride
    let sizes = [shape.headWidth, shape.tokens / stride, stride, heads, shape.batch]
    // A dimension of one element may have any stride that the driver takes.
    let strides = [
      stride * tensor.tokenStride, tensor.tokenStride, tensor.headStride, tensor.batchStride,
    ].map { max($0 * shape.element.size, 16) }
    let box = stride == 1 ? [64, rows, 1, 1, 1] : [64, fiber, rows / fiber, 1, 1]
    var map = TensorMap()
    // CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, …_FLOAT16; a 128-byte swizzle; 128 bytes at a time into L2, as wide as a box is:
    // with 256, every panel of 64 channels asks for its neighbor's half of the row, too.
    let code = withUnsafeTemporaryAllocation(
      byteCount: MemoryLayout<TensorMap>.size, alignment: 64
    ) { place -> Int32 in
      guard let base = place.baseAddress else { return 1 }
      let code = encodeMap(
        base, shape.element == .bfloat16 ? 9 : 6, 5, tensor.address, sizes.map(UInt64.init),
        strides.map(UInt64.init), box.map(UInt32.init), [1, 1, 1, 1, 1], 0, 3, 2, 0)
      map = base.loadUnaligned(as: TensorMap.self)
      return code
    }
    try check(code, "cuTensorMapEncodeTiled of \(tensor), \(sizes)")
    return map
  }
}

extension CUDAKernels {
  /// The maps of a pass's tensors and their gradients, in boxes of `fiber` positions of a fiber.
  func maps(
    of pass: CUDAPass, _ gradients: CUDAPassGradients, fiber: Int
  ) throws(CUDAError) -> BulkMaps {
    let shape = pass.shape
    func map(_ tensor: DeviceTensor, _ heads: Int) throws(CUDAError) -> TensorMap {
      try driver.tensorMap(tensor, heads: heads, shape: shape, fiber: fiber)
    }
    return BulkMaps(
      queries: try map(pass.queries, shape.heads), keys: try map(pass.keys, shape.keyHeads),
      values: try map(pass.values, shape.valueHeads),
      outputGradient: try map(gradients.output, shape.heads),
      queryGradient: try map(gradients.queries, shape.heads),
      keyGradient: try map(gradients.keys, shape.keyHeads),
      valueGradient: try map(gradients.values, shape.valueHeads))
  }

  /// A walk with the maps of a long pass's tensors, or without them where heads or sequences share memory.
  ///
  /// - Parameter outputRows: the rows of u' that are taken to memory at a time.
  func tensorWalk(
    _ walk: WalkParameters, of pass: CUDAPass, outputRows: Int = 16
  ) throws(CUDAError) -> ForwardWalkParameters {
    let shape = pass.shape
    var parameters = ForwardWalkParameters(walk: walk)
    guard shape.mappedRows > 0, pass.areInputsSpread,
      pass.output.isSpread(heads: shape.heads, batch: shape.batch)
    else { return parameters }
    func map(_ tensor: DeviceTensor, _ heads: Int, _ rows: Int) throws(CUDAError) -> TensorMap {
      try driver.tensorMap(tensor, heads: heads, shape: shape, fiber: rows, rows: rows)
    }
    parameters.rows = Int32(shape.mappedRows)
    parameters.queries = try map(pass.queries, shape.heads, 64)
    parameters.keys = try map(pass.keys, shape.keyHeads, 64)
    parameters.values = try map(pass.values, shape.valueHeads, 64)
    parameters.output = try map(pass.output, shape.heads, outputRows)
    return parameters
  }
}

extension DeviceTensor {
  /// Whether heads and sequences lie at strides of their own, as a ``TensorMap`` needs them.
  func isSpread(heads: Int, batch: Int) -> Bool {
    tokenStride > 0 && (heads == 1 || headStride > 0) && (batch == 1 || batchStride > 0)
  }
}

extension CUDAPass {
  /// Whether q, k and u can have maps.
  var areInputsSpread: Bool {
    queries.isSpread(heads: shape.heads, batch: shape.batch)
      && keys.isSpread(heads: shape.keyHeads, batch: shape.batch)
      && values.isSpread(heads: shape.valueHeads, batch: shape.batch)
  }
}

extension CUDAPassGradients {
  /// Whether these gradients of a pass can have maps.
  func areSpread(for shape: CUDAPassShape) -> Bool {
    output.isSpread(heads: shape.heads, batch: shape.batch)
      && queries.isSpread(heads: shape.heads, batch: shape.batch)
      && keys.isSpread(heads: shape.keyHeads, batch: shape.batch)
      && values.isSpread(heads: shape.valueHeads, batch: shape.batch)
  }
}

extension CUDAPassShape {
  /// The positions of every long fiber that maps in boxes of 64 cover: whole multiples of the stride, or 0 if there
  /// are fewer than a box.
  var mappedRows: Int { tokens >= 64 * mode.stride ? tokens / mode.stride : 0 }
}
