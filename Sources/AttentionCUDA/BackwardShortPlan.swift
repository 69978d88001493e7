// The backward passes of short fibers on Hopper (`BackwardShortWarpgroup.cu`, `BackwardFusedWarpgroup.cu`): when
// they run.

extension CUDAPassShape {
  /// The sets of four tiles (q, k, u and the gradient of u') that are loaded ahead; odd in number.
  private var tileSets: Int { headWidth == 128 ? 3 : 5 }

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

  /// Tiles; p and dz of both tiles that are worked on; marks and ℓ' of a set's rows; barriers; parts of dβ.
  fileprivate var backwardTilesMemory: Int {
    tileSets * 4 * 64 * headWidth * 2 + 2 * 16_384 + tileSets * (512 + 32) + 64
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

extension CUDAKernels {
  /// Whether a device runs the backward pass of short fibers through the warpgroup kernel.
  static func hasShortBackwardWarpgroups(
    _ shape: CUDAPassShape, on device: CUDADriver.Device
  ) -> Bool {
    guard device.capability == 90, let plan = shape.backwardShortWarpgroupPlan else { return false }
    return plan.sharedMemory <= device.sharedMemory
  }
}
