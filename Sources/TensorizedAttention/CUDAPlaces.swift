import AttentionCUDA
import AttentionCore
import Torch

/// Where the passes of a call leave rows for the next one: results that are written last, and buffers beside them.
private struct Places {
  private(set) var all: [DeviceTensor]
  /// The buffers, which have to live as long as the launches are not queued.
  private(set) var kept: [Tensor] = []
  private let layout: Layout
  private let buffer: () -> Tensor

  init(_ results: [DeviceTensor], layout: Layout, buffer: @escaping () -> Tensor) {
    all = results
    self.layout = layout
    self.buffer = buffer
  }

  /// That very place if a pass may write what it reads, and if not, or if no rows of that size fit there, another one.
  mutating func next(to place: DeviceTensor, inPlace: Bool) -> DeviceTensor {
    if inPlace, all.contains(place) { return place }
    if let other = all.first(where: { $0 != place }) { return other }
    kept.append(buffer())
    all.append(DeviceTensor(kept[kept.count - 1], layout: layout))
    return all[all.count - 1]
  }
}

extension CUDAPlan {
  /// Where every forward pass writes u', the last one the output, and the tensors that this takes beside that.
  ///
  /// Where blocks read the rows that they write, u' may replace u and both be the output: in short passes, along whole
  /// fibers and in a long pair. Windows, and fibers that are streamed, need u beside it.
  ///
  /// - Parameter isPaired: whether the two lowest passes are a long pair.
  func places(of output: Tensor, isPaired: Bool) -> (places: [DeviceTensor], kept: [Tensor]) {
    let gpu = try? CUDAKernels.shared().driver.device()
    let last = DeviceTensor(output, layout: layout)
    var free = Places([last], layout: layout) {
      .empty(output.shape, dtype: dtype, device: device)
    }
    var places = [last]
    for index in stride(from: pattern.fold.order - 1, to: 0, by: -1) {
      let worksInPlace =
        index == 1 && isPaired
        || passShape(index).worksInPlace(
          capability: gpu?.capability ?? 0, sharedMemory: gpu?.sharedMemory ?? 0, scale: scale)
      places.append(free.next(to: places[places.count - 1], inPlace: worksInPlace))
    }
    return (places.reversed(), free.kept)
  }

  /// Where every backward pass writes ∂/∂u, the lowest one ∂/∂v, and the tensors that this takes beside that.
  ///
  /// Short passes and fused ones have read a row before they write it, so that they may find ∂/∂u' where they leave ∂/∂u.
  /// ∂/∂v has no room for ∂/∂u if fewer heads have values. A bias's gradient needs ∂/∂u' when its pass is done.
  ///
  /// - Parameters:
  ///   - isFused: whether the two lowest passes share a launch.
  ///   - biasGradients: of every pass's mode bias, or nil where none is wanted.
  func places(
    ofGradient dv: Tensor, isFused: Bool, biasGradients: [Tensor?]
  ) -> (places: [DeviceTensor], kept: [Tensor]) {
    let lowest = DeviceTensor(dv, layout: layout)
    var free = Places(shape.heads == shape.keyHeads ? [lowest] : [], layout: .headsFirst) {
      empty(shape.heads)
    }
    var places = [lowest]
    for below in 0..<pattern.fold.order - 1 {
      let worksInPlace =
        below == 0 && isFused
        || passShape(below).backwardWorksInPlace && biasGradients[below] == nil
      places.append(free.next(to: places[below], inPlace: worksInPlace))
    }
    return (places, free.kept)
  }

  /// What the kernels of a backward pass write for each other; passes that come one after the other share it.
  func workspace(_ biasGradients: [Tensor?], fused: CUDAFusedShape?) -> Tensor {
    var bytes = zip(passShapes, biasGradients).map { pass, bias in
      pass.workspaceBytes(lseRow: shape.tokens, biasHeads: bias?.size(0) ?? 0)
    }
    if let fused { bytes.append(fused.workspaceBytes(lseRow: shape.tokens)) }
    return .empty([(bytes.max() ?? 0) / 4], dtype: .float32, device: device)
  }
}
