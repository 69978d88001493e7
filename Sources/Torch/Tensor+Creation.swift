import CTorch

extension Tensor {
  // MARK: - From Swift values

  /// A tensor with a copy of `elements`, in row-major order.
  ///
  /// - Parameters:
  ///   - elements: as many as `shape` has.
  ///   - shape: the extents; one axis of all elements by default.
  ///   - dtype: the type to convert to; that of the elements by default.
  ///   - device: where the tensor goes.
  public convenience init<Element: TensorElement>(
    _ elements: [Element], shape: [Int]? = nil, dtype: DType? = nil, device: Device = .cpu
  ) {
    let made = elements.withUnsafeBytes { bytes in
      Tensor.copying(bytes, shape: shape ?? [elements.count], dtype: Element.dtype)
    }
    let placed = made.to(dtype: dtype, device: device)
    // A class initializer cannot return another object, so this one takes a handle of its own.
    self.init(owning: ct_tensor_retain(placed.handle))
  }

  /// A tensor without axes.
  public convenience init<Element: TensorElement>(
    scalar: Element, dtype: DType? = nil, device: Device = .cpu
  ) {
    self.init([scalar], shape: [], dtype: dtype, device: device)
  }

  /// A tensor on the CPU with a copy of `bytes`, which are its elements in row-major order.
  public static func copying(
    _ bytes: UnsafeRawBufferPointer, shape: [Int], dtype: DType
  ) -> Tensor {
    expect("copying \(bytes.count) bytes to \(dtype)\(shape)") {
      var result: ct_tensor?
      try check(
        ct_tensor_from_bytes(
          bytes.baseAddress, bytes.count, shape.map(Int64.init), shape.count, dtype.rawValue,
          &result))
      return try Tensor(checking: result)
    }
  }

  /// A tensor over memory that something else owns, without a copy.
  ///
  /// - Parameters:
  ///   - memory: the address of the first element, valid while `owner` lives.
  ///   - shape: the extents.
  ///   - strides: elements between neighbors on each axis; row-major by default.
  ///   - dtype: the type of the elements.
  ///   - device: where the memory is.
  ///   - owner: kept alive until the last tensor over the memory is gone.
  public static func borrowing(
    _ memory: UnsafeMutableRawPointer, shape: [Int], strides: [Int]? = nil, dtype: DType,
    device: Device = .cpu, owner: AnyObject
  ) -> Tensor {
    let strides = strides ?? rowMajorStrides(shape)
    if strides.count != shape.count { stop("Strides \(strides) do not fit the shape \(shape)") }
    return expect("borrowing \(dtype)\(shape)") {
      let retained = Unmanaged.passRetained(owner)
      var result: ct_tensor?
      try check(
        ct_tensor_from_blob(
          memory, shape.map(Int64.init), strides.map(Int64.init), shape.count, dtype.rawValue,
          device.raw, { if let owner = $0 { Unmanaged<AnyObject>.fromOpaque(owner).release() } },
          retained.toOpaque(), &result))
      return try Tensor(checking: result)
    }
  }

  /// The strides of a tensor of this shape that lies in order without gaps.
  static func rowMajorStrides(_ shape: [Int]) -> [Int] {
    var strides = [Int](repeating: 1, count: shape.count)
    for axis in shape.indices.dropLast().reversed() {
      strides[axis] = strides[axis + 1] * Swift.max(shape[axis + 1], 1)
    }
    return strides
  }

  // MARK: - Filled

  /// A tensor whose elements are not set to anything.
  public static func empty(
    _ shape: [Int], dtype: DType = .float32, device: Device = .cpu
  ) -> Tensor {
    ATen.tensor("aten::empty.memory_format", [.ints(shape)], named: options(dtype, device))
  }

  /// A tensor with chosen strides whose elements are not set to anything.
  public static func empty(
    _ shape: [Int], strides: [Int], dtype: DType = .float32, device: Device = .cpu
  ) -> Tensor {
    ATen.tensor(
      "aten::empty_strided", [.ints(shape), .ints(strides)], named: options(dtype, device))
  }

  /// A tensor of zeros.
  public static func zeros(
    _ shape: [Int], dtype: DType = .float32, device: Device = .cpu
  ) -> Tensor {
    ATen.tensor("aten::zeros", [.ints(shape)], named: options(dtype, device))
  }

  /// A tensor of ones.
  public static func ones(
    _ shape: [Int], dtype: DType = .float32, device: Device = .cpu
  ) -> Tensor {
    ATen.tensor("aten::ones", [.ints(shape)], named: options(dtype, device))
  }

  /// A tensor whose elements are all `value`.
  public static func full(
    _ shape: [Int], _ value: some ScalarOperand, dtype: DType = .float32, device: Device = .cpu
  ) -> Tensor {
    ATen.tensor("aten::full", [.ints(shape), value.operand], named: options(dtype, device))
  }

  /// The integers from `start` up to but not including `end`, `step` apart.
  public static func arange(
    _ start: Int = 0, _ end: Int, step: Int = 1, dtype: DType = .int64, device: Device = .cpu
  ) -> Tensor {
    ATen.tensor(
      "aten::arange.start_step", [.int(start), .int(end), .int(step)],
      named: options(dtype, device))
  }

  /// The identity matrix [size, size].
  public static func identity(
    _ size: Int, dtype: DType = .float32, device: Device = .cpu
  ) -> Tensor {
    ATen.tensor("aten::eye", [.int(size)], named: options(dtype, device))
  }

  /// Zeros of this tensor's shape, dtype and device.
  public func zerosLike() -> Tensor { ATen.tensor("aten::zeros_like", [.tensor(self)]) }

  /// Ones of this tensor's shape, dtype and device.
  public func onesLike() -> Tensor { ATen.tensor("aten::ones_like", [.tensor(self)]) }

  /// A tensor like this one whose elements are not set to anything.
  public func emptyLike() -> Tensor { ATen.tensor("aten::empty_like", [.tensor(self)]) }

  // MARK: - Random

  /// Numbers drawn evenly from [0, 1), from `generator` or the device's default one.
  public static func rand(
    _ shape: [Int], generator: Generator? = nil, dtype: DType = .float32, device: Device = .cpu
  ) -> Tensor {
    ATen.tensor(
      "aten::rand.generator", [.ints(shape), .optional(generator)],
      named: options(dtype, device))
  }

  /// Numbers drawn from the normal distribution of mean 0 and variance 1.
  public static func randn(
    _ shape: [Int], generator: Generator? = nil, dtype: DType = .float32, device: Device = .cpu
  ) -> Tensor {
    ATen.tensor(
      "aten::randn.generator", [.ints(shape), .optional(generator)],
      named: options(dtype, device))
  }

  /// Integers drawn evenly from `range`.
  public static func randint(
    _ range: Range<Int>, _ shape: [Int], generator: Generator? = nil, dtype: DType = .int64,
    device: Device = .cpu
  ) -> Tensor {
    ATen.tensor(
      "aten::randint.low_generator",
      [.int(range.lowerBound), .int(range.upperBound), .ints(shape), .optional(generator)],
      named: options(dtype, device))
  }

  /// The integers below `count` in random order.
  public static func randperm(
    _ count: Int, generator: Generator? = nil, device: Device = .cpu
  ) -> Tensor {
    ATen.tensor(
      "aten::randperm.generator", [.int(count), .optional(generator)],
      named: options(.int64, device))
  }

  private static func options(
    _ dtype: DType, _ device: Device
  ) -> KeyValuePairs<String, Value> {
    ["dtype": .dtype(dtype), "device": .device(device)]
  }
}
