import CTorch

/// A multi-dimensional array of libtorch's, with its place in the autograd graph.
///
/// A tensor is a reference: copies of the variable name the same memory, and `===` means the same
/// tensor. The memory is freed when the last reference to it, Swift's or the graph's, goes.
/// Operations are methods that return a new tensor, or a view of this one's memory where libtorch
/// does. Those that change the tensor return nothing: `addInPlace`, `copy(from:)`, `fill`, `zero`.
///
/// Shapes, dtypes and devices that do not fit an operation stop the program with a message that
/// names the operation and shows the shapes. Use ``ATen/call(_:_:named:)`` to have an error
/// thrown instead.
public final class Tensor {
  /// libtorch's handle, alive as long as this object.
  package let handle: ct_tensor

  /// Takes over a handle that the caller owns.
  package init(owning handle: ct_tensor) {
    self.handle = handle
  }

  deinit {
    ct_tensor_free(handle)
  }
}

// MARK: - What a tensor is

extension Tensor {
  /// The number of axes.
  public var rank: Int { ct_tensor_rank(handle) }

  /// The extent of every axis.
  public var shape: [Int] { axes(ct_tensor_sizes(handle)) }

  /// The distance in elements between neighbors on every axis.
  public var strides: [Int] { axes(ct_tensor_strides(handle)) }

  /// The number of elements.
  public var count: Int { Int(ct_tensor_count(handle)) }

  /// The distance in elements of the first element from the start of the storage.
  public var storageOffset: Int { Int(ct_tensor_storage_offset(handle)) }

  /// Bytes that the elements take when stored without gaps.
  public var byteCount: Int { count * dtype.byteCount }

  /// The type of the elements.
  public var dtype: DType {
    let code = ct_tensor_dtype(handle)
    guard let dtype = DType(rawValue: code) else {
      stop("A tensor of shape \(shape) has libtorch's element type \(code), which is unsupported.")
    }
    return dtype
  }

  /// Where the memory is.
  public var device: Device { Device(ct_tensor_device(handle)) }

  /// Whether the elements lie in order without gaps.
  public var isContiguous: Bool { ct_tensor_is_contiguous(handle) }

  /// The extent of `axis`; negative axes count from the last.
  public func size(_ axis: Int) -> Int {
    let index = axis < 0 ? axis + rank : axis
    guard index >= 0 && index < rank else { stop("Axis \(axis) of a tensor of shape \(shape)") }
    return Int(ct_tensor_sizes(handle)[index])
  }

  private func axes(_ pointer: UnsafePointer<Int64>?) -> [Int] {
    UnsafeBufferPointer(start: pointer, count: rank).map(Int.init)
  }
}

extension Tensor: CustomStringConvertible {
  /// The type, shape and device, and the elements where they are few.
  public var description: String {
    let place = device == .cpu ? "" : ", \(device)"
    let head = "Tensor(\(shape), \(dtype)\(place)"
    guard count > 0 && count <= 16 else { return head + ")" }
    return head + ": " + array(Double.self).map { "\($0)" }.joined(separator: " ") + ")"
  }
}
