import AttentionCUDA
import AttentionCore
import Folding
import Logging
import Synchronization
import Torch

/// What the GPU path leaves to `composed`, said once for every reason.
enum ComposedFallback {
  private static let logger = Logger(label: "tensattn")
  private static let said = Mutex<Set<String>>([])

  /// Logs that a call runs through `composed`, unless this reason was logged before.
  static func log(_ reason: String) {
    guard said.withLock({ $0.insert(reason).inserted }) else { return }
    logger.notice("Attending through composed instead of the CUDA kernels: \(reason).")
  }
}

extension AttentionCall {
  /// Why the kernels cannot serve this call, or nil.
  var cudaObjection: String? {
    guard let plan = CUDAPlan(self) else { return "\(queries.dtype) has no kernel" }
    let records = Autograd.isRecording && inputs.contains(where: \.requiresGrad)
    return plan.objection(
      backward: records, biasGradient: givenBiases.map { records && $0.requiresGrad })
  }

  /// Attends through the CUDA kernels.
  func attendOnCUDA() -> (output: Tensor, logSumExp: Tensor) {
    guard let plan = CUDAPlan(self) else {
      fatalError(
        "The CUDA kernels take bfloat16, float16 or float32, got \(queries.dtype).")
    }
    let inputs = inputs
    let needed = inputs.map(\.requiresGrad)
    guard Autograd.isRecording, needed.contains(true) else { return plan.forward(inputs) }
    let results = Autograd.apply(
      inputs, forward: { plan.forwardSaving($0, needed: needed) },
      backward: { plan.backward($0) })
    return (results[0], results[1])
  }
}

/// A call without its tensors.
struct CUDAPlan: Sendable {
  let pattern: AttentionPattern
  let shape: AttentionShape
  let element: CUDAElement
  let dtype: DType
  let device: Device
  let scale: Float
  let layout: Layout
  let hasBeta: Bool
  /// For every mode, the place of its bias among the given ones.
  let biasPlaces: [Int?]

  init?(_ call: AttentionCall) {
    guard let element = CUDAElement(call.queries.dtype) else { return nil }
    self.element = element
    dtype = call.queries.dtype
    device = call.queries.device
    pattern = call.pattern
    shape = call.shape
    scale = Float(call.scale)
    layout = call.layout
    hasBeta = call.beta != nil
    var next = 0
    biasPlaces = call.modeBiases.map { bias in
      guard bias != nil else { return nil }
      defer { next += 1 }
      return next
    }
  }

  /// What a block may use on the GPU at hand.
  static var sharedMemory: Int {
    (try? CUDAKernels.shared().driver.device().sharedMemory) ?? 227 * 1024
  }

  private var firstBias: Int { hasBeta ? 4 : 3 }
  private var isJoint: Bool { pattern.normalization == .joint }

  func passShape(_ index: Int) -> CUDAPassShape {
    let mode = pattern.chain[index]
    return CUDAPassShape(
      element: element, headWidth: shape.width, batch: shape.batch, heads: shape.heads,
      keyHeads: shape.keyHeads, valueHeads: index == 0 ? shape.keyHeads : shape.heads,
      tokens: shape.tokens, mode: mode, support: pattern.support, isJoint: isJoint && index > 0,
      hasBeta: hasBeta && !mode.isLowest, hasBias: biasPlaces[mode.index - 1] != nil,
      isRotary: pattern.rotary.positions != .none)
  }

  /// Whether anybody reads a pass's ℓ' where no gradients are recorded: the caller the last one's, and a pass of a
  /// joint normalization the one's below.
  private func isRead(lseOf index: Int) -> Bool { isJoint || index == pattern.fold.order - 1 }

  /// The two lowest modes as one launch, if their passes come first and a kernel runs them.
  private func fusedShape(saves: Bool) -> CUDAFusedShape? {
    guard pattern.fold.order > 1, let driver = try? CUDAKernels.shared().driver,
      let device = try? driver.device()
    else { return nil }
    return CUDAFusedShape(
      lower: passShape(0), upper: passShape(1), saves: saves,
      returnsLSE: saves || isRead(lseOf: 1), capability: device.capability,
      sharedMemory: device.sharedMemory, multiprocessors: device.multiprocessors)
  }

  /// The three lowest modes as one launch, if a kernel runs them.
  private func chainShape(_ fused: CUDAFusedShape?) -> CUDAChainShape? {
    guard let fused, pattern.fold.order > 2 else { return nil }
    return CUDAChainShape(pair: fused, top: passShape(2))
  }

  /// The two lowest modes as one launch that the third one's does not wait for, if kernels run them so.
  private func followedShape(_ fused: CUDAFusedShape?) -> CUDAFollowedPairShape? {
    guard let fused, pattern.fold.order > 2, scale.isNormal, scale > 0 else { return nil }
    return CUDAFollowedPairShape(pair: fused, top: passShape(2), sharedMemory: Self.sharedMemory)
  }

  /// The two lowest modes as one launch, if the upper one's fibers are long and a kernel runs them.
  private func longPairShape(_ fused: CUDAFusedShape?) -> CUDALongPairShape? {
    guard fused == nil, pattern.fold.order > 1, scale.isNormal, scale > 0,
      let device = try? CUDAKernels.shared().driver.device()
    else { return nil }
    return CUDALongPairShape(
      lower: passShape(0), upper: passShape(1), capability: device.capability,
      sharedMemory: device.sharedMemory)
  }

  /// How the forward passes of a call are launched.
  private struct Launches {
    var fused: CUDAFusedShape?
    var chain: CUDAChainShape?
    var followed: CUDAFollowedPairShape?
    var longPair: CUDALongPairShape?
    /// What blocks tell each other by.
    var workspace: Tensor?
  }

  private func launches(saves: Bool) -> Launches {
    let fused = fusedShape(saves: saves)
    let chain = chainShape(fused)
    let followed = chain == nil ? followedShape(fused) : nil
    let longPair = longPairShape(fused)
    let bytes = chain?.workspaceBytes ?? followed?.workspaceBytes ?? longPair?.workspaceBytes
    return Launches(
      fused: fused, chain: chain, followed: followed, longPair: longPair,
      workspace: bytes.map { .empty([$0], dtype: .uint8, device: device) })
  }

  /// Launches all forward passes, the lowest ones together where a kernel runs them so.
  private func launch(
    _ passes: [CUDAPass], _ launches: Launches, _ kernels: CUDAKernels,
    _ stream: CUDADriver.Stream
  ) throws {
    var rest = passes[...]
    if let chain = launches.chain, let workspace = launches.workspace {
      try kernels.forwardChain(
        chain, lower: passes[0], upper: passes[1], top: passes[2], workspace: workspace.address,
        stream: stream)
      rest = passes.dropFirst(3)
    } else if let followed = launches.followed, let workspace = launches.workspace {
      try kernels.forwardFollowedPair(
        followed, lower: passes[0], upper: passes[1], top: passes[2], workspace: workspace.address,
        stream: stream)
      rest = passes.dropFirst(3)
    } else if let longPair = launches.longPair, let workspace = launches.workspace {
      try kernels.forwardLongPair(
        longPair, lower: passes[0], upper: passes[1], workspace: workspace.address, stream: stream)
      rest = passes.dropFirst(2)
    } else if let fused = launches.fused {
      try kernels.forwardFused(fused, lower: passes[0], upper: passes[1], stream: stream)
      rest = passes.dropFirst(2)
    }
    for pass in rest { try kernels.forward(pass, stream: stream) }
  }

  var passShapes: [CUDAPassShape] { (0..<pattern.fold.order).map(passShape) }

  /// For every pass, whether its mode bias wants a gradient, given which of the biases do.
  private func wantsBias(_ biases: some Collection<Bool>) -> [Bool] {
    let wanted = Array(biases)
    return pattern.chain.map { mode in biasPlaces[mode.index - 1].map { wanted[$0] } ?? false }
  }

  /// Why no kernel serves a call, or nil; `biasGradient` tells which of the biases want one.
  func objection(backward: Bool, biasGradient: [Bool]) -> String? {
    for (shape, wantsBias) in zip(passShapes, wantsBias(biasGradient)) {
      let objection = shape.objection(
        backward: backward, biasGradient: wantsBias, sharedMemory: Self.sharedMemory)
      if let objection { return objection }
    }
    return nil
  }

  /// The tensors as the kernels read them: rows aligned, β, biases in f32, lengths on the device.
  private struct Operands {
    var queries: Tensor
    var keys: Tensor
    var values: Tensor
    var beta: Tensor?
    var biases: [Tensor]
    var lengths: Tensor?
  }

  private func operands(_ inputs: [Tensor]) -> Operands {
    Operands(
      queries: inputs[0].readable(element, layout: layout),
      keys: inputs[1].readable(element, layout: layout),
      values: inputs[2].readable(element, layout: layout),
      beta: hasBeta ? inputs[3].contiguous() : nil,
      biases: inputs[firstBias...].map { $0.to(.float32).contiguous() },
      lengths: shape.lengths.map { Tensor($0.map(Int32.init), shape: [$0.count]).to(device) })
  }

  func empty(_ heads: Int) -> Tensor {
    .empty([shape.batch, heads, shape.tokens, shape.width], dtype: dtype, device: device)
  }

  private func emptyLSE() -> Tensor {
    .empty([shape.batch, shape.heads, shape.tokens], dtype: .float32, device: device)
  }

  private func pass(
    _ index: Int, _ operands: Operands, values: DeviceTensor, output: DeviceTensor,
    carried: Tensor?, lse: Tensor?
  ) -> CUDAPass {
    let mode = pattern.chain[index]
    var pass = CUDAPass(
      shape: passShape(index), queries: DeviceTensor(operands.queries, layout: layout),
      keys: DeviceTensor(operands.keys, layout: layout), values: values, output: output,
      lse: lse?.address ?? 0, lseRow: shape.tokens, scale: scale)
    pass.carriedLSE = isJoint && index > 0 ? carried?.address ?? 0 : 0
    pass.lengths = operands.lengths?.address ?? 0
    if let beta = operands.beta, !mode.isLowest {
      pass.beta = row(mode, of: beta)
    }
    if let place = biasPlaces[mode.index - 1] {
      let bias = operands.biases[place]
      pass.bias = bias.address
      pass.biasStride = bias.size(0) > 1 ? bias.count / bias.size(0) : 0
    }
    pass.rotary = RotaryAngles(pattern.rotary, mode: mode, width: shape.width)
    return pass
  }

  /// Where a mode's row of β or of its gradient begins.
  private func row(_ mode: Mode, of beta: Tensor) -> CUDADriver.Address {
    beta.address + UInt64((mode.index - 1) * shape.heads * element.size)
  }

  private func run(_ body: (CUDAKernels, CUDADriver.Stream) throws -> Void) {
    do {
      let kernels = try CUDAKernels.shared()
      let ordinal = max(device.index, 0)
      try kernels.driver.withDevice(ordinal) {
        try body(kernels, try TorchStream.current(device: ordinal))
      }
    } catch {
      fatalError("\(error)")
    }
  }

  func forward(_ inputs: [Tensor]) -> (output: Tensor, logSumExp: Tensor) {
    let operands = operands(inputs)
    let output = Tensor.empty(inputs[0].shape, dtype: dtype, device: device)
    let lse = emptyLSE()
    guard output.count > 0 else { return (output, lse) }
    let order = pattern.fold.order
    let launches = launches(saves: false)
    let (places, kept) = places(of: output, isPaired: launches.longPair != nil)
    // ℓ goes to and fro between two buffers: written over what other multiprocessors read from the same lines
    // at the same time, it made a pass of 256·128 take a tenth longer.
    let lower = isJoint && order > 1 ? emptyLSE() : lse
    let lses = (0..<order).map { index -> Tensor? in
      !isRead(lseOf: index) ? nil : (order - 1 - index) % 2 == 0 ? lse : lower
    }
    withExtendedLifetime((operands, output, lses, kept, launches.workspace)) {
      run { kernels, stream in
        try kernels.prepare(
          passShapes, fused: launches.fused, chain: launches.chain, followed: launches.followed,
          longPair: launches.longPair)
        let passes = (0..<order).map { index in
          pass(
            index, operands,
            values: index == 0
              ? DeviceTensor(operands.values, layout: layout) : places[index - 1],
            output: places[index], carried: index > 0 ? lses[index - 1] : nil, lse: lses[index])
        }
        try launch(passes, launches, kernels, stream)
      }
    }
    return (output, lse)
  }

  /// The forward pass that keeps what ``backward(_:)`` needs, whose kernels are compiled here too;
  /// `needed` tells which inputs want a gradient.
  func forwardSaving(_ inputs: [Tensor], needed: [Bool]) -> (outputs: [Tensor], saved: [Tensor]) {
    let operands = operands(inputs)
    let order = pattern.fold.order
    let output = Tensor.empty(inputs[0].shape, dtype: dtype, device: device)
    let values = (1..<order).map { _ in empty(shape.heads) }
    let lses = (0..<order).map { _ in emptyLSE() }
    if output.count > 0 {
      let launches = launches(saves: true)
      withExtendedLifetime((operands, output, values, lses, launches.workspace)) {
        run { kernels, stream in
          try kernels.prepare(
            passShapes, fused: launches.fused, chain: launches.chain, followed: launches.followed,
            longPair: launches.longPair, backward: true,
            biasGradient: wantsBias(needed[firstBias...]),
            isPadded: operands.lengths != nil)
          let passes = (0..<order).map {
            saved($0, operands, output: output, values: values, lses: lses)
          }
          try launch(passes, launches, kernels, stream)
        }
      }
    }
    return ([output, lses[order - 1]], inputs + [output] + values + lses)
  }

  private func saved(
    _ index: Int, _ operands: Operands, output: Tensor, values: [Tensor], lses: [Tensor]
  ) -> CUDAPass {
    pass(
      index, operands,
      values: index == 0
        ? DeviceTensor(operands.values, layout: layout) : DeviceTensor(values[index - 1]),
      output: index == pattern.fold.order - 1
        ? DeviceTensor(output, layout: layout) : DeviceTensor(values[index]),
      carried: index > 0 ? lses[index - 1] : nil, lse: lses[index])
  }

  func backward(_ pass: Autograd.BackwardPass) -> [Tensor?] {
    let order = pattern.fold.order
    let count = pass.needed.count
    let inputs = Array(pass.saved[..<count])
    let operands = operands(inputs)
    let output = pass.saved[count]
    let values = Array(pass.saved[(count + 1)..<(count + order)])
    let lses = Array(pass.saved[(count + order)...])
    let upstream =
      pass.gradients[0]?.readable(element, layout: layout) ?? output.zerosLike()
    let dq = Tensor.empty(inputs[0].shape, dtype: dtype, device: device)
    let dk = Tensor.empty(inputs[1].shape, dtype: dtype, device: device)
    let dv = Tensor.empty(inputs[2].shape, dtype: dtype, device: device)
    // Every mode's pass but the lowest one's writes its row, and the lowest one's zeros besides.
    let dbeta: Tensor? =
      !hasBeta
      ? nil
      : order == 1
        ? .zeros([1, shape.heads], dtype: dtype, device: device)
        : .empty([order, shape.heads], dtype: dtype, device: device)
    guard output.count > 0 else {
      return [dq, dk, dv].map { $0 as Tensor? } + inputs[3...].map { _ in nil }
    }
    let dbiases = zip(operands.biases, pass.needed[firstBias...]).map { bias, isNeeded in
      isNeeded ? Tensor.empty(bias.shape, dtype: .float32, device: device) : nil
    }
    let biasGradients = pattern.chain.map { mode in
      biasPlaces[mode.index - 1].flatMap { dbiases[$0] }
    }
    // A bias's gradient needs ∂/∂u' of its pass, which fused passes do not keep.
    let wantsBias = biasGradients.prefix(2).contains { $0 != nil }
    let fused = wantsBias ? nil : fusedShape(saves: true)
    let workspace = workspace(biasGradients, fused: fused)
    // A pass that reads D of its rows has another workspace than the pass above, which may write them.
    let takesDots = passShapes.map { $0.backwardWarpgroupPlans != nil }
    let second = takesDots.dropLast().contains(true) ? workspace.emptyLike() : workspace
    let scratch = { (index: Int) in index % 2 == 0 ? workspace : second }
    let (places, kept) = places(
      ofGradient: dv, isFused: fused != nil, biasGradients: biasGradients)
    var above = DeviceTensor(upstream, layout: layout)
    var lseAbove = pass.gradients[1]?.to(.float32).contiguous()
    var keptLSE: [Tensor] = []
    var steps: [(pass: CUDAPass, gradients: CUDAPassGradients)] = []
    for index in stride(from: order - 1, through: 0, by: -1) {
      var gradients = CUDAPassGradients(
        output: above, queries: DeviceTensor(dq, layout: layout),
        keys: DeviceTensor(dk, layout: layout), values: places[index],
        accumulates: index < order - 1, workspace: scratch(index).address)
      if index > 0, takesDots[index - 1] { gradients.dotsBelow = scratch(index - 1).address }
      gradients.lse = lseAbove?.address ?? 0
      let lseBelow = isJoint && index > 0 ? emptyLSE() : nil
      gradients.carriedLSE = lseBelow?.address ?? 0
      if let dbeta, !pattern.chain[index].isLowest {
        gradients.beta = row(pattern.chain[index], of: dbeta)
        gradients.lowestBeta = row(pattern.fold.modes[order - 1], of: dbeta)
      }
      gradients.bias = biasGradients[index]?.address ?? 0
      steps.append(
        (saved(index, operands, output: output, values: values, lses: lses), gradients))
      keptLSE += (lseAbove.map { [$0] } ?? [])
      above = places[index]
      lseAbove = lseBelow
    }
    withExtendedLifetime(
      (pass, operands, upstream, workspace, second, dbeta, dbiases, kept, keptLSE, lseAbove)
    ) {
      run { kernels, stream in
        try kernels.backward(Array(steps.dropLast(fused == nil ? 0 : 2)), stream: stream)
        if let fused {
          let (upper, lower) = (steps[order - 2], steps[order - 1])
          try kernels.backwardFused(
            fused, lower: lower.pass, lower.gradients, upper: upper.pass, upper.gradients,
            stream: stream)
        }
      }
    }
    var results: [Tensor?] = [dq, dk, dv]
    if let dbeta { results.append(dbeta) }
    return results + zip(inputs[firstBias...], dbiases).map { $1?.to($0.dtype) }
  }
}
