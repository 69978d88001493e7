import Folding

// The backward pass of sliding windows on Hopper in one launch (`BackwardWindow.cu`): when it runs, and its launch.

extension CUDAPassShape {
  /// The kernel that takes the place of both roles where no sequence is padded and the pass above has left D, or nil where it
  /// has none: windows of 65 to 128 tokens, heads of 128 channels with keys and values of their own, fibers of
  /// whole tiles.
  ///
  /// - Parameter turned: whether the pass above has left ∂/∂q turned, which this one turns back and adds to.
  package func backwardWindowPlan(turned: Bool) -> LaunchPlan? {
    guard hasBackwardWindow, !turned || backwardTurnedPlan != nil else { return nil }
    // Two tiles of q and of du', four of k and of u, four panels of dz; D, ℓ' and ℓ of the queries; two turns; what
    // consumers hold; barriers.
    let memory = 14 * 64 * headWidth * 2 + 2 * 768 + 2 * headWidth * 4 + 8 * 16 + 344
    var plan = plan(
      "BackwardWindow", "backwardWarpgroupWindow", rows: 128, sharedMemory: memory,
      [
        "STAGES": 4, "WINDOW": 1, "ROLES": 0, "TURNED": turned ? 1 : 0,
        "BELOW": mode.isLowest ? 0 : 1,
      ])
    plan.useWarpgroups(4)
    return plan
  }

  /// Whether the kernel has been written for such windows.
  var hasBackwardWindow: Bool {
    isSliding && headWidth == 128 && (65...128).contains(mode.size) && fiberLength > mode.size
      && keyHeads == heads && valueHeads == heads && fiberLength % 64 == 0
      && tokens == fiberLength * fibers && backwardWarpgroupPlans != nil
  }

  /// Every block has a stretch of tiles of 64 positions. A walk's start reads the window before it once more, and the
  /// rotary table has 8448 rows.
  package func backwardWindowSchedule(multiprocessors: Int) -> WalkSchedule {
    let tiles = fiberLength / 64, walks = batch * heads * fibers * tiles
    return WalkSchedule(
      order: .stretches, walkSteps: 2 * WalkSchedule.longest - 2, chunks: tiles, walks: walks,
      blocks: min(multiprocessors, walks))
  }
}

extension CUDAKernels {
  /// The kernel of a window's backward pass in one launch, where the device has room for it.
  func backwardWindow(
    _ shape: CUDAPassShape, turned: Bool, on device: CUDADriver.Device
  ) throws -> Kernel? {
    guard let plan = shape.backwardWindowPlan(turned: turned),
      plan.sharedMemory <= device.sharedMemory
    else { return nil }
    return try kernels(.backwardWindow(shape, turned: turned), on: device)[0]
  }
}
