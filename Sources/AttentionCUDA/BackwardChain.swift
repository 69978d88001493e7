// Backward passes one after the other: what each leaves for the one below it.

/// ∂/∂q that a pass has left turned: what turns it back.
public struct CUDATurned: Sendable {
  /// The rotary table of that pass.
  var table: CUDADriver.Address
  /// A token's place is ⌊t / stride⌋ mod size.
  var stride: Int
  var size: Int
}

/// What a backward pass has left for the pass below.
public struct CUDAHandover: Sendable {
  /// Whether ``CUDAPassGradients/dotsBelow`` will be written, which is the pass below's ``CUDAPassGradients/hasDots``.
  public var hasDots = false
  /// The pass below's ``CUDAPassGradients/turned``.
  public var turned: CUDATurned?

  /// Nothing but D, if that.
  public init(hasDots: Bool = false) {
    self.hasDots = hasDots
  }
}

extension CUDAPassShape {
  /// The kernel of the query role where the pass above has left ∂/∂q turned, which it turns back and adds to: 64
  /// consecutive tokens a block, all at one place of that pass.
  package var backwardTurnedPlan: LaunchPlan? {
    guard let plans = backwardWarpgroupPlans, isRotary, mode.stride == 1, tokens % 64 == 0,
      isSliding || mode.size % 64 == 0
    else { return nil }
    var plan = plans[1]
    plan.macros.append("TURNED=1")
    plan.macros.sort()
    plan.sharedMemory += 16  // two barriers
    return plan
  }

  /// Whether this pass can turn back what the pass above leaves.
  func takesTurned(from above: CUDAPassShape) -> Bool {
    backwardTurnedPlan != nil && above.isRotary && !above.backwardWholePlans.isEmpty
      && above.mode.stride % 64 == 0
  }
}

extension CUDAKernels {
  /// Launches the backward passes of a call one after the other, the highest first.
  ///
  /// - Throws: ``CUDAError``.
  /// - Precondition: as for ``backward(_:_:stream:)``.
  public func backward(
    _ steps: [(pass: CUDAPass, gradients: CUDAPassGradients)], stream: CUDADriver.Stream
  ) throws {
    var handover = CUDAHandover()
    for (index, step) in steps.enumerated() {
      var gradients = step.gradients
      gradients.hasDots = handover.hasDots
      gradients.turned = handover.turned
      if index + 1 < steps.count {
        let next = steps[index + 1]
        gradients.leavesTurned = try turnsBack(
          next.pass, next.gradients, from: step.pass.shape)
      }
      handover = try backward(step.pass, gradients, stream: stream)
    }
  }

  /// Whether a pass can turn ∂/∂q back that the pass above it leaves turned (``CUDAPassGradients/leavesTurned``).
  func turnsBack(
    _ pass: CUDAPass, _ gradients: CUDAPassGradients, from above: CUDAPassShape
  ) throws -> Bool {
    let shape = pass.shape
    guard shape.takesTurned(from: above), gradients.accumulates, pass.lengths == 0,
      shape.mappedRows > 0, pass.areInputsSpread, gradients.areSpread(for: shape)
    else { return false }
    let device = try driver.device()
    let scale = try parameters(of: pass, on: device).scale
    return Self.backwardRequest(shape, on: device, scale: scale) == .backwardWarpgroup(shape)
      && shape.backwardTurnedPlan?.sharedMemory ?? .max <= device.sharedMemory
  }
}
