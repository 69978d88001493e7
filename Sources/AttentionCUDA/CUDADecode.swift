import AttentionCore
import Folding

/// One new token a sequence against the caches, all passes of a chain.
public struct CUDADecode: Sendable {
  /// One pass: what the token's row meets in it.
  public struct Pass: Sendable {
    /// The mode.
    public var mode: Mode
    /// The cache of u: the values themselves in the lowest pass, what the pass below returned in others.
    public var values: DeviceTensor
    /// The heads of `values`: G or H.
    public var valueHeads: Int
    /// β [H] or 0.
    public var beta: CUDADriver.Address = 0
    /// The mode bias in f32 or 0; see ``CUDAPass/bias``.
    public var bias: CUDADriver.Address = 0
    /// Elements between the heads of `bias`; 0 if they share one.
    public var biasStride: Int = 0
    /// The rotary angles, or nil.
    public var rotary: RotaryAngles?

    /// Describes a pass without β, bias and rotation.
    public init(mode: Mode, values: DeviceTensor, valueHeads: Int) {
      self.mode = mode
      self.values = values
      self.valueHeads = valueHeads
    }
  }

  /// The element type of q, the caches and the output.
  public var element: CUDAElement
  /// D.
  public var headWidth: Int
  /// B.
  public var batch: Int
  /// H.
  public var heads: Int
  /// G.
  public var keyHeads: Int
  /// A causal support.
  public var support: Support
  /// Whether passes after the lowest carry ℓ.
  public var isJoint: Bool
  /// q [B, H, 1, D].
  public var queries: DeviceTensor
  /// The key cache [B, G, capacity, D], the new token's key included.
  public var keys: DeviceTensor
  /// u' of the last pass [B, H, 1, D].
  public var output: DeviceTensor
  /// ℓ' of the last pass [B, H] f32, or 0.
  public var lse: CUDADriver.Address = 0
  /// The new token's position t in all sequences, unless ``positions`` says otherwise.
  public var position: Int
  /// [B] Int32: the new token's position in every sequence; 0 if all share ``position``.
  public var positions: CUDADriver.Address = 0
  /// The passes in the order of the chain. The result of each is appended to the cache of the next one.
  public var passes: [Pass]
  /// The factor on dot products.
  public var scale: Float

  /// Describes a step.
  public init(
    element: CUDAElement, headWidth: Int, batch: Int, heads: Int, keyHeads: Int, support: Support,
    isJoint: Bool, queries: DeviceTensor, keys: DeviceTensor, output: DeviceTensor,
    position: Int, passes: [Pass], scale: Float
  ) {
    self.element = element
    self.headWidth = headWidth
    self.batch = batch
    self.heads = heads
    self.keyHeads = keyHeads
    self.support = support
    self.isJoint = isJoint
    self.queries = queries
    self.keys = keys
    self.output = output
    self.position = position
    self.passes = passes
    self.scale = scale
  }

  /// What decides the kernel of a step.
  struct Variant: Hashable {
    var element: CUDAElement
    var headWidth: Int
    var support: Support
    var isJoint: Bool
    var isRotary: Bool
    var sizes: [Int]
  }

  var variant: Variant {
    Variant(
      element: element, headWidth: headWidth, support: support, isJoint: isJoint,
      isRotary: passes.contains { $0.rotary != nil }, sizes: passes.map(\.mode.size))
  }

  static let mostPasses = 8
  static let clusterBlocks = 8

  /// Why no kernel runs this step, or nil if one does.
  public var objection: String? {
    guard support.isCausal else { return "support \(support.rawValue) cannot be decoded" }
    guard headWidth % 8 == 0, (32...256).contains(headWidth) else {
      return "the head width \(headWidth) is not a multiple of 8 from 32 to 256"
    }
    guard passes.count <= Self.mostPasses else {
      return "\(passes.count) passes exceed \(Self.mostPasses)"
    }
    guard sharedMemory(warps: 16) <= 227 * 1024 else {
      return "\(passes.reduce(0) { $0 + $1.mode.size }) cached keys a token exceed shared memory"
    }
    return nil
  }

  /// Partial sums of every warp, the block's own, three numbers a pass and the logits, in bytes.
  private func sharedMemory(warps: Int) -> Int {
    let keys = passes.reduce(0) { $0 + $1.mode.size }
    return (passes.count * (warps + 1) * headWidth + 3 * Self.mostPasses + keys) * 4
  }

  /// The kernel.
  ///
  /// - Parameter clusters: whether blocks can share memory (compute capability 9.0): eight of them then
  ///   divide the keys of a head.
  package func plan(clusters: Bool) -> LaunchPlan {
    let warps = clusters ? 4 : 16
    let macros = [
      "DTYPE": element.rawValue, "D": headWidth,
      "ROTARY": passes.contains { $0.rotary != nil } ? 1 : 0, "JOINT": isJoint ? 1 : 0,
      "SLIDING": support == .slidingCausal ? 1 : 0, "WARPS": warps, "MODES": Self.mostPasses,
      "BETA": 0, "BIAS": 0, "CAUSAL": 1, "SPLIT": clusters ? Self.clusterBlocks : 1,
    ]
    return LaunchPlan(
      file: "Decode", entry: "decode", macros: macros.map { "\($0.key)=\($0.value)" }.sorted(),
      sharedMemory: sharedMemory(warps: warps),
      rows: 1, threads: warps * 32, fiber: nil)
  }
}

extension CUDAKernels {
  /// Launches one decoding step: a cluster of blocks a query head forms all passes
  /// from Σ n_k cached rows.
  ///
  /// - Throws: ``CUDAError``.
  /// - Precondition: ``CUDADecode/objection`` is nil; either every pass is rotary or none.
  /// - Complexity: B·H·Σ n_k·4D operations, independent of the position.
  public func decode(_ step: CUDADecode, stream: CUDADriver.Stream) throws {
    precondition(step.objection == nil, "No kernel runs this step: \(step.objection ?? "").")
    let rotary = step.passes.compactMap(\.rotary)
    precondition(
      rotary.isEmpty || rotary.count == step.passes.count,
      "Either all of the \(step.passes.count) passes are rotary or none, got \(rotary.count).")
    let device = try driver.device()
    var parameters = DecodeParameters()
    parameters.q = step.queries.address
    parameters.qBatch = Int64(step.queries.batchStride)
    parameters.qHead = Int64(step.queries.headStride)
    parameters.k = step.keys.address
    parameters.kStrides = step.keys.strides
    parameters.out = step.output.address
    parameters.oBatch = Int64(step.output.batchStride)
    parameters.oHead = Int64(step.output.headStride)
    parameters.lse = step.lse
    parameters.positions = step.positions
    parameters.position = Int32(step.position)
    parameters.heads = Int32(step.heads)
    parameters.ratioK = Int32(step.heads / step.keyHeads)
    parameters.passes = Int32(step.passes.count)
    parameters.scale = step.scale * 1.442_695_040_888_963_4
    var passes = [DecodePassParameters](
      repeating: DecodePassParameters(), count: CUDADecode.mostPasses)
    for (index, pass) in step.passes.enumerated() {
      passes[index].u = pass.values.address
      passes[index].uStrides = pass.values.strides
      passes[index].ratioU = Int32(step.heads / pass.valueHeads)
      passes[index].beta = pass.beta
      passes[index].bias = pass.bias
      passes[index].biasStride = Int32(pass.biasStride)
      passes[index].size = Int32(pass.mode.size)
      passes[index].stride = Int32(clamping: pass.mode.stride)
      passes[index].scale = Float(pass.rotary.map { $0.magnitude * $0.magnitude } ?? 1)
      if let angles = pass.rotary {
        passes[index].rotary = try rotaryTable(angles, rows: pass.mode.size, on: device)
      }
      if index + 1 < step.passes.count {
        passes[index].next = step.passes[index + 1].values.address
        passes[index].nextStrides = step.passes[index + 1].values.strides
      }
    }
    let clusters = device.capability >= 90
    let kernel = try kernels(.decode(step.variant, clusters: clusters), on: device) {
      [step.plan(clusters: clusters)]
    }[0]
    let plan = kernel.plan
    try driver.launch(
      kernel.function,
      grid: (step.batch * step.heads * (clusters ? CUDADecode.clusterBlocks : 1), 1),
      threads: plan.threads,
      sharedMemory: plan.sharedMemory, stream: stream,
      overlaps: device.overlapsLaunches,
      parameters: DecodeArguments(
        head: parameters,
        passes: (
          passes[0], passes[1], passes[2], passes[3], passes[4], passes[5], passes[6], passes[7]
        )))
  }
}

/// The kernels' `struct Decode` with room for ``CUDADecode/mostPasses`` passes.
package struct DecodeArguments {
  var head: DecodeParameters
  var passes:
    (
      DecodePassParameters, DecodePassParameters, DecodePassParameters, DecodePassParameters,
      DecodePassParameters, DecodePassParameters, DecodePassParameters, DecodePassParameters
    )
}
