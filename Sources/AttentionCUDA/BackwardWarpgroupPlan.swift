import Folding

// The backward pass of long fibers on Hopper (`BackwardRows.cu`, `BackwardWarpgroup.cu`, `BackwardWhole.cu`, `BackwardWindow.cu`):
// when it runs, and its launches.

extension CUDAPassShape {
  /// The tiles, of 64 rows of two tensors, that the ring in shared memory holds.
  private var backwardRingTiles: Int { headWidth == 128 ? 4 : 9 }

  /// The parts of dβ that a head has: one for every sixteen queries of a fiber, and another one for their dℓ' where a
  /// window's kernel forms the rest.
  func betaParts(inWindow: Bool) -> Int {
    hasBeta ? batch * fibers * ((fiberLength + 63) / 64) * (inWindow ? 8 : 4) : 0
  }

  private static let backwardWarpgroupPlans = PlanMemo<CUDAPassShape, [LaunchPlan]?>()

  /// The kernels of the backward pass on a Hopper GPU, in the order in which they run, or nil where it has none:
  /// f32, other head widths, fibers that a short kernel packs, and passes with a mode bias.
  package var backwardWarpgroupPlans: [LaunchPlan]? {
    Self.backwardWarpgroupPlans(self) { formBackwardWarpgroupPlans() }
  }

  private func formBackwardWarpgroupPlans() -> [LaunchPlan]? {
    guard element != .float32, headWidth == 64 || headWidth == 128, fiberLength > 64, !hasBias
    else { return nil }
    let rows = plan(
      "BackwardRows", "backwardRows", rows: 128, sharedMemory: 0, [:])
    let tiles = backwardRingTiles
    // The ring, three own blocks, barriers and notes, the consumers' walks.
    let items = tiles < 5 ? 8 : 16
    let memory = (tiles + 3) * 2 * 64 * headWidth * 2 + items * 12 + tiles * 16 + 48 + 8 * 80
    let products = [("Query", 1), ("Key", 2)].map { name, role -> LaunchPlan in
      var plan = plan(
        "BackwardWarpgroup", "backwardWarpgroup" + name, rows: 128,
        // D and ℓ' of the queries, which are own blocks or tiles.
        sharedMemory: memory + (role == 1 ? 3 : tiles) * 512,
        [
          "STAGES": tiles, "WINDOW": isSliding && fiberLength > mode.size ? 1 : 0, "ROLES": role,
          "GROUPED": role == 2 && keyHeads < heads ? 1 : 0,
        ])
      plan.useWarpgroups(4)
      return plan
    }
    return [rows] + products
  }

  private static let backwardWholePlans = PlanMemo<CUDAPassShape, [LaunchPlan]>()

  /// The kernel that takes the place of both roles where no sequence is padded, and the one that turns back ∂/∂q of rotated
  /// queries, or none: whole causal fibers of 128 or 256 tokens, of heads of 128 channels with keys and values of
  /// their own.
  package var backwardWholePlans: [LaunchPlan] {
    Self.backwardWholePlans(self) { formBackwardWholePlans() }
  }

  private func formBackwardWholePlans() -> [LaunchPlan] {
    guard backwardWarpgroupPlans != nil, headWidth == 128, support.isCausal,
      keyHeads == heads, valueHeads == heads, fiberLength == 128 || fiberLength == 256,
      tokens == fiberLength * fibers, !isSliding || mode.size >= fiberLength
    else { return [] }
    // Four tiles of q and of du', two of k and of u, and two of dz and results; D and ℓ' of the queries; a turn; barriers.
    let memory = 14 * 64 * headWidth * 2 + 4 * 512 + (isRotary ? headWidth * 4 : 0) + 256
    var plan = plan(
      "BackwardWhole", "backwardWarpgroupWhole", rows: 128, sharedMemory: memory,
      ["STAGES": 4, "WINDOW": 0, "ROLES": 0, "PACKED": isRotary ? 1 : 0])
    plan.useWarpgroups(4)
    let turn = self.plan("BackwardRows", "turnQueriesBack", rows: 128, sharedMemory: 0, [:])
    return [plan] + (isRotary ? [turn] : [])
  }

  /// How a role goes about the pass. Keys that query heads share meet the queries of one head after the other, so that
  /// no tile stays.
  package func backwardSchedule(key: Bool, multiprocessors: Int) -> WalkSchedule {
    walkSchedule(
      fibers: fibers, skipped: 0, multiprocessors: multiprocessors,
      heads: key ? keyHeads : heads, ringTiles: key && keyHeads < heads ? 0 : backwardRingTiles)
  }
}

extension CUDAKernels {
  /// Whether a device runs a backward pass through the warpgroup kernels.
  static func hasBackwardWarpgroups(
    _ shape: CUDAPassShape, on device: CUDADriver.Device
  ) -> Bool {
    let memory = shape.backwardWarpgroupPlans?.map(\.sharedMemory).max() ?? .max
    return device.capability == 90 && memory <= device.sharedMemory
  }

  /// Launches the backward pass of long fibers on a Hopper GPU; returns what the pass below has to know.
  func backwardWarpgroup(
    _ pass: CUDAPass, _ parameters: PassParameters, _ gradients: CUDAPassGradients,
    on device: CUDADriver.Device, stream: CUDADriver.Stream
  ) throws -> CUDAHandover {
    let shape = pass.shape
    var kernels = try kernels(.backwardWarpgroup(shape), on: device)
    if gradients.turned != nil {
      kernels[1] = try self.kernels(.backwardTurned(shape), on: device)[0]
    }
    var parameters = parameters
    // Without u', ⟨∂/∂u', u'⟩ stands where D will.
    if gradients.hasDots { parameters.out = 0 }
    // D and ℓ' of every row, then the parts of dβ.
    parameters.dbeta =
      parameters.dot + UInt64(2 * 4 * shape.batch * shape.heads * Int(parameters.lseRow))
    let isMapped =
      shape.mappedRows > 0 && pass.areInputsSpread && gradients.areSpread(for: shape)
    // ∂/∂q that has been turned back already cannot be added to while it is not.
    let isWhole =
      !shape.backwardWholePlans.isEmpty && isMapped && pass.lengths == 0
      && !(shape.isRotary && gradients.accumulates)
    let window =
      isMapped && pass.lengths == 0 && gradients.hasDots && !isWhole
      ? try backwardWindow(shape, turned: gradients.turned != nil, on: device) : nil
    parameters.tilesPerFiber = Int32((shape.fiberLength + 63) / 64) * (window == nil ? 1 : 2)
    let rows = kernels[0].plan.threads * 4
    try driver.launch(
      kernels[0].function,
      grid: ((shape.tokens + rows - 1) / rows, shape.batch * shape.heads),
      threads: kernels[0].plan.threads, sharedMemory: 0, stream: stream,
      overlaps: device.overlapsLaunches, parameters: parameters)
    let tensors = try isMapped ? maps(of: pass, gradients, fiber: 64) : BulkMaps()
    // Whole fibers are dealt out in the same way by all kernels.
    let launches =
      if let window { [(window, false)] } else {
        isWhole ? [(kernels[3], false)] : [(kernels[1], false), (kernels[2], true)]
      }
    for (kernel, key) in launches {
      let schedule =
        window != nil
        ? shape.backwardWindowSchedule(multiprocessors: device.multiprocessors)
        : shape.backwardSchedule(key: key, multiprocessors: device.multiprocessors)
      var walks = WalkParameters(
        parameters, schedule: schedule, fibers: shape.fibers,
        heads: key ? shape.keyHeads : shape.heads)
      walks.dotsBelow = gradients.dotsBelow
      try driver.launch(
        kernel.function, grid: (schedule.blocks, 1), threads: kernel.plan.threads,
        sharedMemory: kernel.plan.sharedMemory, stream: stream,
        overlaps: device.overlapsLaunches,
        parameters: BackwardWalkParameters(
          walk: walks, rows: isMapped ? Int32(shape.mappedRows) : 0, maps: tensors,
          turned: gradients.turned))
    }
    let isTurned = isWhole && shape.isRotary
    if isTurned, !gradients.leavesTurned {
      let turn = kernels[4]
      // A block has 32 rows at a time, four times.
      try driver.launch(
        turn.function, grid: ((shape.tokens + 127) / 128, shape.batch * shape.heads),
        threads: turn.plan.threads, sharedMemory: 0, stream: stream,
        overlaps: device.overlapsLaunches, parameters: parameters)
    }
    if shape.hasBeta, let reduction = kernels.last {
      try driver.launch(
        reduction.function, grid: (shape.heads, 1), threads: 256, sharedMemory: 0, stream: stream,
        overlaps: device.overlapsLaunches,
        parameters: Reduction(
          parameters, count: shape.betaParts(inWindow: window != nil), to: gradients, shape.element)
      )
    }
    var handover = CUDAHandover(hasDots: gradients.dotsBelow != 0)
    if isTurned, gradients.leavesTurned {
      handover.turned = CUDATurned(
        table: parameters.rotary, stride: shape.mode.stride,
        // Places of a sliding mode do not start anew.
        size: shape.isSliding ? 1 << 30 : shape.mode.size)
    }
    return handover
  }
}
