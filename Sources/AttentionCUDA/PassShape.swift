import Folding

/// The element types that the kernels read and write; sums are always formed in f32.
public enum CUDAElement: Int, Sendable, Hashable, CaseIterable {
  /// bf16.
  case bfloat16 = 0
  /// IEEE half.
  case float16 = 1
  /// f32, multiplied on the tensor cores in three tf32 parts.
  case float32 = 2

  /// Bytes an element takes.
  public var size: Int { self == .float32 ? 4 : 2 }
}

/// What decides which kernel runs a pass: everything but the addresses.
public struct CUDAPassShape: Sendable, Hashable {
  /// The element type of q, k, u and u'.
  public var element: CUDAElement
  /// D, a multiple of 8 from 32 to 256.
  public var headWidth: Int
  /// B.
  public var batch: Int
  /// H, the query heads.
  public var heads: Int
  /// G, the key heads; divides H.
  public var keyHeads: Int
  /// The heads of u: G for the values themselves, H for what a pass returned.
  public var valueHeads: Int
  /// N.
  public var tokens: Int
  /// The mode of the pass.
  public var mode: Mode
  /// The keys that a query sees.
  public var support: Support
  /// Whether the diagonal logit is the carried ℓ.
  public var isJoint: Bool
  /// Whether β is added off the diagonal.
  public var hasBeta: Bool
  /// Whether the logits get a mode bias.
  public var hasBias: Bool
  /// Whether queries and keys are rotated.
  public var isRotary: Bool

  /// Creates a shape.
  public init(
    element: CUDAElement, headWidth: Int, batch: Int, heads: Int, keyHeads: Int, valueHeads: Int,
    tokens: Int, mode: Mode, support: Support, isJoint: Bool = false, hasBeta: Bool = false,
    hasBias: Bool = false, isRotary: Bool = false
  ) {
    precondition(
      heads % keyHeads == 0 && (valueHeads == heads || valueHeads == keyHeads),
      "Query heads must be a multiple of the key heads and u must have as many heads as one of them, "
        + "got H = \(heads), G = \(keyHeads), u with \(valueHeads).")
    self.element = element
    self.headWidth = headWidth
    self.batch = batch
    self.heads = heads
    self.keyHeads = keyHeads
    self.valueHeads = valueHeads
    self.tokens = tokens
    self.mode = mode
    self.support = support
    self.isJoint = isJoint
    self.hasBeta = hasBeta
    self.hasBias = hasBias
    self.isRotary = isRotary
  }

  /// Whether fibers are residue classes with a window rather than blocks.
  var isSliding: Bool { support == .slidingCausal }

  /// The positions on the longest fiber.
  package var fiberLength: Int {
    let length = (tokens + mode.stride - 1) / mode.stride
    return isSliding ? length : min(length, mode.size)
  }

  /// The number of fibers of one head.
  package var fibers: Int {
    if isSliding { return min(mode.stride, tokens) }
    let block = mode.size * mode.stride
    return (tokens + block - 1) / block * mode.stride
  }

  /// Whether u' may be written over u: whoever writes a row is the only one who reads it, and has read it before. So it
  /// is with a short pass's blocks, and with walks along whole fibers, which fetch every tile of keys and values once and
  /// no later than the queries of that tile. Grouped values have fewer heads than u' and cannot be overwritten.
  ///
  /// - Parameters:
  ///   - capability: ``CUDADriver/Device/capability``.
  ///   - sharedMemory: ``CUDADriver/Device/sharedMemory``.
  ///   - scale: of the logits.
  public func worksInPlace(capability: Int, sharedMemory: Int = 227 * 1024, scale: Float) -> Bool {
    guard valueHeads == heads else { return false }
    guard hasWarpgroups(capability: capability, sharedMemory: sharedMemory, scale: scale) else {
      return forwardPlan.fiber != nil
    }
    let schedule = walkSchedule(fibers: fibers, skipped: 0, multiprocessors: 1)
    return schedule.order == .acrossFibers && schedule.chunks == 1
  }

  /// Whether ∂/∂u may be written over ∂/∂u': a short pass's blocks have read the rows that they write, and no other block
  /// reads them.
  public var backwardWorksInPlace: Bool { backwardPlans.first?.fiber != nil && valueHeads == heads }

  /// Whether the warpgroup kernel runs the forward pass on such a device.
  func hasWarpgroups(capability: Int, sharedMemory: Int, scale: Float) -> Bool {
    capability == 90 && (warpgroupMemory ?? .max) <= sharedMemory && scale.isNormal && scale > 0
  }

  /// Why no kernel runs this pass, or nil if one does.
  ///
  /// - Parameters:
  ///   - backward: whether gradients are wanted.
  ///   - biasGradient: whether the mode bias wants one.
  ///   - sharedMemory: the bytes that a block of the device may use; ``CUDADriver/Device/sharedMemory``.
  public func objection(
    backward: Bool = false, biasGradient: Bool = false, sharedMemory: Int = 227 * 1024
  ) -> String? {
    guard headWidth % 8 == 0, (32...256).contains(headWidth) else {
      return "the head width \(headWidth) is not a multiple of 8 from 32 to 256"
    }
    guard batch * heads <= 65_535 else {
      return "batch × heads = \(batch * heads) exceeds a grid's 65535"
    }
    guard tokens < 1 << 30 else { return "\(tokens) tokens exceed 2^30" }
    let plans =
      [forwardPlan] + (backward ? backwardPlans : []) + (biasGradient ? [biasPlan] : [])
    let needed = plans.map(\.sharedMemory).max() ?? 0
    if needed > sharedMemory {
      return
        "this pass needs \(needed) bytes of shared memory a block and the GPU has \(sharedMemory)"
    }
    return nil
  }
}
