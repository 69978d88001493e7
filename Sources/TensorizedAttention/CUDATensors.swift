import AttentionCUDA
import AttentionCore
import Torch

// libtorch's tensors as the kernels see them.

extension CUDAElement {
  /// The kernels' name of a type; nil if they have none.
  init?(_ dtype: DType) {
    switch dtype {
    case .bfloat16: self = .bfloat16
    case .float16: self = .float16
    case .float32: self = .float32
    default: return nil
    }
  }
}

extension DeviceTensor {
  /// A tensor of four axes with contiguous channels, whose heads are axis 1 or 2.
  package init(_ tensor: Tensor, layout: Layout = .headsFirst) {
    let strides = tensor.strides
    let (head, token) = layout == .headsFirst ? (1, 2) : (2, 1)
    self.init(
      address: tensor.address, batchStride: strides[0], headStride: strides[head],
      tokenStride: strides[token])
  }
}

extension Tensor {
  /// Where the elements start, as the driver counts; 0 if there are none.
  var address: CUDADriver.Address { UInt64(UInt(bitPattern: dataPointer)) }

  /// This tensor if the kernels can read its rows, else a contiguous copy.
  func readable(_ element: CUDAElement, layout: Layout) -> Tensor {
    let fits = strides[3] == 1 && DeviceTensor(self, layout: layout).isAligned(for: element)
    return fits ? self : contiguous()
  }
}
