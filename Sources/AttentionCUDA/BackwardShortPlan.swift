// The backward passes of short fibers on Hopper (`BackwardShortWarpgroup.cu`, `BackwardFusedWarpgroup.cu`): when
// they run.

extension CUDAPassShape {
  /// The sets of four tiles (q, k, u and the gradient of u') that are loaded ahead; odd in number.
  fileprivate var tileSets: Int { headWidth == 128 ? 3 : 5 }

  private static let backwardShortWarpgroupPlans = PlanMemo<CUDAPassShape, LaunchPlan?>()

  /// The kernel of the backward pass on a Hopper GPU, or nil where it has none: f32, rotary positions, other head
  /// widths than 64 and 128, and fibers of more than 64 positions.
  package var backwardShortWarpgroupPlan: LaunchPlan? {
    Self.backwardShortWarpgroupPlans(self) { formBackwardShortWarpgroupPlan() }
  }

  private func formBackwardShortWarpgroupPlan() -> LaunchPlan? {
    guard hasShortWarpgroups, fiberLength <= 64 else { return nil }
    var plan = plan(
      "BackwardShortWarpgroup", "backwardShortWarpgroup", rows: 64,
      sharedMemory: backwardTilesMemory, fiber: packedFiber,
      ["GROUPED": heads > keyHeads ? 1 : 0, "SHARED": heads > valueHeads ? 1 : 0])
    plan.useWarpgroups(4)
    return plan
  }

  /// Whether the kernels of short backward passes multiply with `wgmma`. Turning tiles in place and gradients back
  /// costs them more than the older kernels (32 k tokens: 1.10 ms a pass instead of 0.92).
  fileprivate var hasShortWarpgroups: Bool {
    element != .float32 && !isRotary && (headWidth == 64 || headWidth == 128)
  }

  /// Tiles; p and dz of both tiles that are worked on; marks and ℓ' of a set's rows; barriers; parts of dβ; which tiles
  /// come next.
  fileprivate var backwardTilesMemory: Int {
    tileSets * 4 * 64 * headWidth * 2 + 2 * 16_384 + tileSets * (512 + 32) + 96
  }
}

extension CUDAFusedShape {
  /// The kernel of both backward passes whose blocks stay and take one cluster's tokens after the other, or nil where it
  /// has none: with rotary positions and other head widths than 64 and 128.
  package var backwardWarpgroupPlan: LaunchPlan? {
    Self.backwardWarpgroupPlans(self) { formBackwardWarpgroupPlan() }
  }

  private static let backwardWarpgroupPlans = PlanMemo<CUDAFusedShape, LaunchPlan?>()

  private func formBackwardWarpgroupPlan() -> LaunchPlan? {
    guard lower.hasShortWarpgroups else { return nil }
    // A counter a block of the cluster and one more.
    var plan = plan(
      "BackwardFusedWarpgroup", "backwardFusedWarpgroup",
      sharedMemory: lower.backwardTilesMemory + 80, [:])
    plan.useWarpgroups(4)
    return plan
  }
}

extension CUDAFusedShape {
  /// The kernel of both backward passes whose rows tensor memory access copies, or nil where it has none: with what
  /// ``backwardWarpgroupPlan`` lacks, and unless both modes' sizes are powers of two and the tokens are whole blocks of
  /// both. It knows no padding.
  package var backwardBulkPlan: LaunchPlan? {
    Self.backwardBulkPlans(self) { formBackwardBulkPlan() }
  }

  private static let backwardBulkPlans = PlanMemo<CUDAFusedShape, LaunchPlan?>()

  private func formBackwardBulkPlan() -> LaunchPlan? {
    let (x, y) = (upper.mode.size, lower.mode.size)
    guard lower.hasShortWarpgroups, cluster > 1, x * y == cluster * 64,
      x & (x - 1) == 0, y & (y - 1) == 0, lower.tokens % (x * y) == 0
    else { return nil }
    // Tiles; p and dz of both tiles that are worked on; ℓ' of a set's rows; barriers; parts of dβ; a counter a block; which
    // stretches of tokens come next.
    let sets = lower.tileSets
    let memory =
      sets * 4 * 64 * lower.headWidth * 2 + 2 * 16_384 + sets * (256 + 112) + 128 + 4 * cluster
    var plan = plan("BackwardFusedBulk", "backwardFusedBulk", sharedMemory: memory, [:])
    plan.useWarpgroups(3)
    return plan
  }

  /// Whether ``backwardBulkPlan`` can run these passes on a device.
  func hasBulkCopies(
    lower: CUDAPass, _ lowerGradients: CUDAPassGradients, upper: CUDAPass,
    _ upperGradients: CUDAPassGradients, on device: CUDADriver.Device
  ) -> Bool {
    guard lower.lengths == 0, let plan = backwardBulkPlan,
      plan.sharedMemory <= device.sharedMemory
    else { return false }
    return [(lower, lowerGradients), (upper, upperGradients)].allSatisfy { pass, gradients in
      pass.areInputsSpread && gradients.areSpread(for: pass.shape)
    }
  }
}

extension CUDAKernels {
  /// Whether a device runs the backward pass of short fibers through the warpgroup kernel.
  static func hasShortBackwardWarpgroups(
    _ shape: CUDAPassShape, on device: CUDADriver.Device
  ) -> Bool {
    guard device.capability == 90, let plan = shape.backwardShortWarpgroupPlan else { return false }
    return plan.sharedMemory <= device.sharedMemory
  }
}
