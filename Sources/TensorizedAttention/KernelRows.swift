import AttentionCPU
import AttentionCore
import Torch

// How the SIMD kernels see tensors: what both operators need to call them.

extension CPUAttention {
  /// The kernels on libtorch's threads.
  static var onTorchThreads: CPUAttention {
    do {
      return try CPUAttention(executor: .torch)
    } catch {
      fatalError(error.description)
    }
  }
}

extension Tensor {
  /// This tensor if its channels are neighbors, as the kernels read rows, else a contiguous copy.
  var withNeighboringChannels: Tensor {
    strides[3] == 1 || size(3) == 1 ? self : contiguous()
  }

  /// The first element of an f32 tensor.
  var floats: UnsafeMutablePointer<Float> {
    // An empty tensor has no memory; nothing is read or written there either.
    dataPointer?.assumingMemoryBound(to: Float.self)
      ?? UnsafeMutablePointer(bitPattern: MemoryLayout<Float>.alignment)
      ?? .allocate(capacity: 0)
  }

  /// The rows of an f32 tensor of four axes with neighboring channels.
  func rows(_ layout: Layout) -> MutableRows<Float> {
    let strides = strides
    let (head, token) = layout == .headsFirst ? (1, 2) : (2, 1)
    return MutableRows(
      floats, batchStride: strides[0], headStride: strides[head], tokenStride: strides[token])
  }
}
