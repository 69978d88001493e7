import CTorch

// MARK: - Conversion

extension Tensor {
  /// This tensor with another element type or on another device; itself if nothing changes.
  public func to(dtype: DType? = nil, device: Device? = nil) -> Tensor {
    if dtype ?? self.dtype == self.dtype && device ?? self.device == self.device { return self }
    return ATen.tensor(
      "aten::to.dtype_layout", [.tensor(self)],
      named: [
        "dtype": .optional(dtype), "device": device.map(Value.device) ?? .none,
      ])
  }

  /// This tensor with another element type.
  public func to(_ dtype: DType) -> Tensor { to(dtype: dtype) }

  /// This tensor on another device.
  public func to(_ device: Device) -> Tensor { to(device: device) }

  /// This tensor with its elements in row-major order without gaps; itself if they are.
  public func contiguous() -> Tensor { ATen.tensor("aten::contiguous", [.tensor(self)]) }

  /// A copy in new memory, inside the graph.
  public func cloned() -> Tensor { ATen.tensor("aten::clone", [.tensor(self)]) }
}

// MARK: - Elements

extension Tensor {
  /// The only element, converted.
  public func item<Element: TensorElement>(_ type: Element.Type = Double.self) -> Element {
    if count != 1 { stop("item() of a tensor of shape \(shape), which has not one element") }
    return array(type)[0]
  }

  /// The elements in row-major order, converted and copied.
  public func array<Element: TensorElement>(_ type: Element.Type = Float.self) -> [Element] {
    let ready = withNoGrad { to(dtype: Element.dtype, device: .cpu).contiguous() }
    return ready.withUnsafeBytes { Array($0.bindMemory(to: Element.self)) }
  }

  /// The address of the first element: what a kernel reads and writes, with ``strides``.
  ///
  /// It is valid while this tensor lives, which `withExtendedLifetime` makes sure of. For a CUDA
  /// tensor it is an address on the device. Writing through it is not seen by autograd.
  public var dataPointer: UnsafeMutableRawPointer? {
    expect("data of \(dtype)\(shape)") {
      var result: UnsafeMutableRawPointer?
      try check(ct_tensor_data(handle, &result))
      return result
    }
  }

  /// Calls `body` with the elements' memory, which must lie on the CPU in row-major order.
  public func withUnsafeBytes<Result>(
    _ body: (UnsafeRawBufferPointer) throws -> Result
  ) rethrows -> Result {
    try withUnsafeMutableBytes { try body(UnsafeRawBufferPointer($0)) }
  }

  /// Calls `body` with the elements' memory, which must lie on the CPU in row-major order.
  public func withUnsafeMutableBytes<Result>(
    _ body: (UnsafeMutableRawBufferPointer) throws -> Result
  ) rethrows -> Result {
    if !isContiguous || device != .cpu {
      stop("The bytes of a tensor of shape \(shape), strides \(strides) on \(device)")
    }
    return try withExtendedLifetime(self) {
      try body(UnsafeMutableRawBufferPointer(start: dataPointer, count: byteCount))
    }
  }
}
