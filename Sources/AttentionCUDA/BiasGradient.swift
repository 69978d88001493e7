import Folding

/// The kernels' `struct BiasGradient`.
package struct BiasParameters {
  var pass: PassParameters
  var parts: CUDADriver.Address
  var shared: Int32
  var splits: Int32
  var tiles: Int32
  var extent: Int32
}

/// The kernels' `struct BiasReduction`.
private struct BiasReductionParameters {
  var parts: CUDADriver.Address
  var out: CUDADriver.Address
  var plane: Int64
  var count: Int32
  var extent: Int32
  var rows: Int32
  var size: Int32
}

/// How the gradient of a mode bias is divided among blocks.
///
/// Nothing here depends on the GPU, so that the order of every sum is the same on all of them.
struct BiasSums: Equatable {
  /// Heads of the bias: H, or 1 if the query heads share it.
  var heads: Int
  /// Tiles along an axis of the bias.
  var tiles: Int
  /// Blocks that own different places of one head.
  var owners: Int
  /// Blocks that share the fibers of an owner.
  var splits: Int
  /// Places along an axis that the parts hold.
  var extent: Int
  /// Parts that add up to the gradient of a head.
  var parts: Int
  /// Elements of a part.
  var plane: Int
  /// Rows of a head's gradient: n_k, or 1 by distance.
  var rows: Int
  /// n_k.
  var size: Int

  /// Whether the only part is the gradient itself.
  var isWhole: Bool { parts == 1 && plane == rows * size }
  /// The scratch memory of the parts in bytes.
  var bytes: Int { isWhole ? 0 : heads * parts * plane * 4 }
}

extension CUDAPassShape {
  private var biasRows: Int { element == .float32 && headWidth > 128 ? 32 : 64 }

  private var packsBias: Bool { fiberLength <= biasRows }

  /// The kernel of the mode bias's gradient.
  package var biasPlan: LaunchPlan {
    let rows = biasRows
    let memory = rows * (4 * rowBytes + 8)
    // 96 sums a thread stay in registers: three blocks of 128 threads.
    let blocks = max(1, min(isWide ? 1 : 3, 227 * 1024 / memory))
    return plan(
      "BiasGradient", "biasGradient", rows: rows, sharedMemory: memory,
      fiber: packsBias ? packedFiber : nil,
      packsBias ? ["SHORT": 1, "BLOCKS": blocks] : ["BLOCKS": blocks])
  }

  /// The work of a bias of `biasHeads` heads.
  func biasSums(heads biasHeads: Int) -> BiasSums {
    let rows = biasRows
    let places = isSliding ? min(fiberLength, mode.size) : fiberLength
    let tiles = (places + rows - 1) / rows
    let isTiled = !packsBias
    // A long sliding fiber's query tiles lie 0 … tiles tiles after their keys.
    let owners = isTiled ? (isSliding ? tiles + 1 : tiles * tiles) : 1
    let packed = isTiled ? 1 : rows / packedFiber
    let windows = isTiled && isSliding ? (fiberLength + rows - 1) / rows : 1
    let items = batch * (biasHeads == 1 ? heads : 1) * windows * ((fibers + packed - 1) / packed)
    // Four blocks a multiprocessor of an H200.
    let wanted = 528 / max(1, owners * biasHeads)
    let splits = max(1, min(wanted, items))
    let extent = isTiled && isSliding ? tiles * rows : places
    return BiasSums(
      heads: biasHeads, tiles: tiles, owners: owners, splits: splits, extent: extent,
      parts: splits * (isTiled && isSliding ? 2 : 1),
      plane: isSliding ? extent : extent * extent, rows: isSliding ? 1 : mode.size,
      size: mode.size)
  }
}

extension CUDAKernels {
  /// Launches the gradient of a mode bias after the other gradients of the same pass:
  /// dbias(i, j) = Σ dz(t, t') over what shares the entry, in a fixed order.
  ///
  /// - Parameters:
  ///   - pass: the backward pass's parameters, D(t) in place.
  ///   - out: the packed gradient, f32.
  ///   - scratch: ``BiasSums/bytes`` bytes.
  /// - Complexity: 4·D operations a visible pair, the tensors of a pass read once for every tile of
  ///   the bias that a fiber meets.
  func biasGradient(
    _ shape: CUDAPassShape, _ pass: PassParameters, biasHeads: Int, out: CUDADriver.Address,
    scratch: CUDADriver.Address, on device: CUDADriver.Device, stream: CUDADriver.Stream
  ) throws {
    let kernels = try kernels(.biasGradient(shape), on: device)
    let sums = shape.biasSums(heads: biasHeads)
    let plan = kernels[0].plan
    var parameters = BiasParameters(
      pass: pass, parts: sums.isWhole ? out : scratch,
      shared: biasHeads == 1 && shape.heads > 1 ? 1 : 0, splits: Int32(sums.splits),
      tiles: Int32(sums.tiles), extent: Int32(sums.extent))
    parameters.pass.tilesPerFiber = Int32((shape.fiberLength + plan.rows - 1) / plan.rows)
    try driver.launch(
      kernels[0].function, grid: (sums.owners * sums.splits, biasHeads), threads: plan.threads,
      sharedMemory: plan.sharedMemory, stream: stream, overlaps: device.overlapsLaunches,
      parameters: parameters)
    guard !sums.isWhole else { return }
    try driver.launch(
      kernels[1].function, grid: ((sums.rows * sums.size + 255) / 256, biasHeads), threads: 256,
      sharedMemory: 0, stream: stream,
      overlaps: device.overlapsLaunches,
      parameters: BiasReductionParameters(
        parts: scratch, out: out, plane: Int64(sums.plane), count: Int32(sums.parts),
        extent: Int32(sums.extent), rows: Int32(sums.rows), size: Int32(sums.size)))
  }
}
