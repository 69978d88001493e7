import AttentionCUDA
import AttentionCore
import Foundation
import Folding
import TensorizedAttention
import Torch

/// Times the CUDA kernels against what the same machine copies, multiplies and attends with libtorch.
///
/// Every row is checked before it is timed: on two heads, the error of the kernels against the composition
/// in f32 must not exceed twice that of the same-type composition. Times are medians of runs with the
/// second-level cache overwritten, over two sets of inputs where memory allows.
public struct CUDABenchmark {
  /// One problem.
  public struct Problem: Sendable {
    /// N, of one sequence.
    public var tokens: Int
    /// H, and as many key heads.
    public var heads: Int
    /// D, of queries, keys and values.
    public var width: Int
    /// What is attended with.
    public var pattern: AttentionPattern
    /// β of every head and mode, or nil.
    public var beta: Double?
    /// Whether the backward pass is timed.
    public var backward: Bool
    /// Whether libtorch's full causal attention is timed, whose cost grows with N².
    public var peers: Bool
    /// Whether the peers' backward pass is timed.
    public var peersBackward: Bool

    private static func literal(
      _ tokens: Int, _ fold: [Int], heads: Int = 32, backward: Bool = false, peers: Bool = true,
      peersBackward: Bool = false
    ) -> Problem {
      var problem = Problem(
        tokens: tokens, heads: heads, width: 128,
        pattern: AttentionPattern(fold: Fold(fold), support: .blockCausal, normalization: .perMode))
      problem.backward = backward
      problem.peers = peers
      problem.peersBackward = peersBackward
      return problem
    }

    private static func sliding(_ tokens: Int, _ fold: [Int], peers: Bool) -> Problem {
      var problem = Problem(
        tokens: tokens, heads: 32, width: 128,
        pattern: AttentionPattern(fold: Fold(fold), rotary: Rotary(.mode)))
      problem.peers = peers
      problem.peersBackward = peers
      return problem
    }

    /// A problem of one's own: in joint normalization with β = −2 in every mode, as in the sliding rows of
    /// ``standard(upTo:)``. Backward passes are timed up to 131 072 tokens, peers that attend to all
    /// tokens as far (32 768 with their backward passes).
    public init(tokens: Int, heads: Int, width: Int, pattern: AttentionPattern) {
      self.tokens = tokens
      self.heads = heads
      self.width = width
      self.pattern = pattern
      beta = pattern.normalization == .joint ? -2 : nil
      backward = tokens <= 131_072
      peers = tokens <= 131_072
      peersBackward = tokens <= 32_768
    }

    /// The folds by which the kernels are judged, up to `tokens` tokens.
    public static func standard(upTo tokens: Int) -> [Problem] {
      [
        literal(4096, [16, 16, 16], backward: true, peersBackward: true),
        literal(16_384, [32, 32, 16], backward: true, peersBackward: true),
        literal(32_768, [32, 32, 32], backward: true, peersBackward: true),
        sliding(32_768, [256, 128], peers: true),
        literal(65_536, [64, 32, 32]),
        literal(131_072, [128, 32, 32]),
        sliding(131_072, [1024, 128], peers: false),
        literal(1 << 20, [128, 128, 64], heads: 8, peers: false),
      ].filter { $0.tokens <= tokens }
    }
  }

  /// One measured problem; times in milliseconds, null where not run.
  public struct Row: Codable, Sendable {
    var device: String
    var n: Int
    var heads: Int
    var headDim: Int
    var fold: String
    var support: String
    var normalization: String
    /// Whether the error is within its bound; a row whose error is not has no times.
    public var correct: Bool
    var maxError: Double
    var errorBound: Double
    var copyGbps: Double
    var matmulTflops: Double
    var floorMs: Double
    var floorBackwardMs: Double?
    var forwardMs: Double?
    var forwardBackwardMs: Double?
    var forwardToFloor: Double?
    var forwardBackwardToFloor: Double?
    var forwardGbps: Double?
    var forwardTflops: Double?
    var composedForwardMs: Double?
    var flashForwardMs: Double?
    var flashForwardBackwardMs: Double?
    var cudnnForwardMs: Double?
    var cudnnForwardBackwardMs: Double?
    var windowForwardMs: Double?
    /// The most that libtorch's allocator held during a call beyond what it held before, the output and ℓ, in bytes.
    var extraBytes: Int?
    /// The same of forward and backward, beyond the three gradients, too.
    var extraBytesBackward: Int?
  }

  private let driver: CUDADriver
  private let timer: CUDATimer
  private let device = Device.cuda()
  private let deviceName: String
  /// Bytes read and written a second by a large copy.
  public let copyGbps: Double
  /// Multiply-adds, counted twice, of a large bf16 product.
  public let matmulTflops: Double

  /// Prepares the device and measures its two ceilings.
  public init() throws {
    try device.requireAvailable()
    driver = try CUDADriver.shared()
    _ = Tensor.zeros([1], dtype: .float32, device: device)
    deviceName = try driver.device().name
    timer = try CUDATimer(driver: driver, stream: try TorchStream.current(device: 0))
    let source = Tensor.randn([1 << 28], dtype: .float32, device: device)
    let target = source.zerosLike()
    let copy = try timer.median(runs: 15) { _ in target.copy(from: source) }
    copyGbps = Double(2 * source.byteCount) / copy / 1e6
    let a = Tensor.randn([8192, 8192], dtype: .bfloat16, device: device)
    let b = Tensor.randn([8192, 8192], dtype: .bfloat16, device: device)
    let product = try timer.median(runs: 15) { _ in _ = a.matmul(b) }
    matmulTflops = 2 * 8192.0 * 8192 * 8192 / product / 1e9
  }

  private struct Inputs {
    var tensors: [Tensor]
    var gradient: Tensor
    var beta: Tensor?
  }

  private func inputs(_ problem: Problem, requiresGrad: Bool = false) -> Inputs {
    let shape = [1, problem.heads, problem.tokens, problem.width]
    let tensors = (0..<3).map { _ -> Tensor in
      let x = Tensor.randn(shape, dtype: .bfloat16, device: device)
      x.requiresGrad = requiresGrad
      return x
    }
    let beta = problem.beta.map {
      Tensor.full(
        [problem.pattern.fold.order, problem.heads], $0, dtype: .bfloat16, device: device)
    }
    return Inputs(
      tensors: tensors, gradient: Tensor.randn(shape, dtype: .bfloat16, device: device), beta: beta)
  }

  private func attend(
    _ problem: Problem, _ inputs: Inputs, _ backend: Backend, heads: Int? = nil,
    dtype: DType = .bfloat16
  ) -> Tensor {
    let part = { (x: Tensor, axis: Int) -> Tensor in
      (heads.map { x.narrow(axis: axis, from: 0, count: $0) } ?? x).to(dtype)
    }
    return tensorizedAttention(
      queries: part(inputs.tensors[0], 1), keys: part(inputs.tensors[1], 1),
      values: part(inputs.tensors[2], 1), pattern: problem.pattern,
      beta: inputs.beta.map { part($0, 1) }, backend: backend
    ).output
  }

  /// The relative errors of the kernels and of the same-type composition on at most two heads.
  private func errors(_ problem: Problem, _ inputs: Inputs) -> (kernels: Double, composed: Double) {
    let heads = min(problem.heads, 2)
    return withNoGrad {
      let exact = attend(problem, inputs, .composed, heads: heads, dtype: .float32)
      let size = (exact * exact).sum().item(Double.self).squareRoot()
      let error = { (x: Tensor) -> Double in
        let rest = x.to(.float32) - exact
        return (rest * rest).sum().item(Double.self).squareRoot() / size
      }
      return (
        error(attend(problem, inputs, .cuda).narrow(axis: 1, from: 0, count: heads)),
        error(attend(problem, inputs, .composed, heads: heads))
      )
    }
  }

  /// Checks and times one problem.
  public func run(_ problem: Problem) throws -> Row {
    let sets = [inputs(problem), inputs(problem)]
    let errors = errors(problem, sets[0])
    let elements = Double(problem.tokens * problem.heads * problem.width)
    let floor = 4 * elements * 2 / copyGbps / 1e6
    var row = Row(
      device: deviceName, n: problem.tokens, heads: problem.heads, headDim: problem.width,
      fold: problem.pattern.fold.description, support: problem.pattern.support.rawValue,
      normalization: problem.pattern.normalization.rawValue,
      correct: errors.kernels <= 2 * errors.composed, maxError: errors.kernels,
      errorBound: 2 * errors.composed, copyGbps: copyGbps, matmulTflops: matmulTflops,
      floorMs: floor)
    // A wrong result has no speed.
    guard row.correct else { return row }
    row.extraBytes = try extraBytes(problem, sets[0], backward: false)
    let forward = try timer.median(runs: 20) { run in
      withNoGrad { _ = attend(problem, sets[run % 2], .cuda) }
    }
    row.forwardMs = forward
    row.forwardToFloor = forward / floor
    row.forwardGbps = 4 * elements * 2 / forward / 1e6
    row.forwardTflops =
      4 * elements * Double(problem.pattern.fold.keysPerToken) / forward / 1e9
    if problem.tokens <= 1 << 17 {
      row.composedForwardMs = try timer.median(runs: 4) { run in
        withNoGrad { _ = attend(problem, sets[run % 2], .composed) }
      }
    }
    if problem.backward {
      row.floorBackwardMs = 3 * floor
      row.extraBytesBackward = try extraBytes(
        problem, inputs(problem, requiresGrad: true), backward: true)
      row.forwardBackwardMs = try timeBackward(problem) { attend(problem, $0, .cuda) }
      row.forwardBackwardToFloor = row.forwardBackwardMs.map { $0 / (3 * floor) }
    }
    if problem.peers { try timePeers(problem, sets, &row) }
    return row
  }

  /// What a call allocates beyond its results.
  private func extraBytes(_ problem: Problem, _ inputs: Inputs, backward: Bool) throws -> Int {
    let call = {
      guard backward else { return withNoGrad { [attend(problem, inputs, .cuda)] } }
      let output = attend(problem, inputs, .cuda)
      return [output]
        + Autograd.gradients(of: [output], by: inputs.tensors, gradients: [inputs.gradient])
        .compactMap(\.self)
    }
    // Constants, such as rotary tables, are made by a shape's first call.
    _ = call()
    let before = try Runtime.memory(of: device).allocated
    try Runtime.resetPeakMemory(of: device)
    let results = call().reduce(0) { $0 + $1.byteCount }
    let logSumExp = 4 * problem.heads * problem.tokens
    return try Runtime.memory(of: device).peakAllocated - before - results - logSumExp
  }

  private func timeBackward(_ problem: Problem, runs: Int = 10, _ body: (Inputs) throws -> Tensor)
    throws -> Double
  {
    let sets = [inputs(problem, requiresGrad: true), inputs(problem, requiresGrad: true)]
    return try timer.median(runs: runs) { run in
      let set = sets[run % 2]
      let output = try body(set)
      _ = Autograd.gradients(of: [output], by: set.tensors, gradients: [set.gradient])
    }
  }

  private func timePeers(_ problem: Problem, _ sets: [Inputs], _ row: inout Row) throws {
    let runs = problem.tokens > 32_768 ? 3 : 5
    let flash = { (inputs: Inputs) throws -> Tensor in
      try first(
        ATen.call(
          "aten::_scaled_dot_product_flash_attention", inputs.tensors.map(Value.tensor),
          named: ["is_causal": true]))
    }
    let cudnn = { (inputs: Inputs) throws -> Tensor in
      try first(
        ATen.call(
          "aten::_scaled_dot_product_cudnn_attention",
          inputs.tensors.map(Value.tensor) + [.none, .bool(inputs.tensors[0].requiresGrad)],
          named: ["is_causal": true]))
    }
    // Causal attention to the last 1024 tokens: [B, N, H, D] in, no packed sequences, no dropout.
    let window = { (rows: [Tensor]) throws -> Tensor in
      try first(
        ATen.call(
          "aten::_flash_attention_forward",
          rows.map(Value.tensor) + [
            .none, .none, .int(problem.tokens), .int(problem.tokens), 0.0, true, false,
          ], named: ["window_size_left": 1023, "window_size_right": 0]))
    }
    // A peer that this libtorch lacks leaves its columns empty.
    row.flashForwardMs = try? timer.median(runs: runs) { run in
      _ = try withNoGrad { try flash(sets[run % 2]) }
    }
    row.cudnnForwardMs = try? timer.median(runs: runs) { run in
      _ = try withNoGrad { try cudnn(sets[run % 2]) }
    }
    row.windowForwardMs = try? timer.median(runs: runs) { run in
      _ = try withNoGrad { try window(sets[run % 2].tensors.map { $0.transpose(1, 2) }) }
    }
    guard problem.peersBackward else { return }
    row.flashForwardBackwardMs = try? timeBackward(problem, runs: 3, flash)
    row.cudnnForwardBackwardMs = try? timeBackward(problem, runs: 3, cudnn)
  }

  private func first(_ values: [Value]) throws -> Tensor {
    guard case .tensor(let tensor)? = values.first else {
      throw TorchError("Expected a tensor from libtorch's attention, found \(values.count) values.")
    }
    return tensor
  }

  /// One token against a cache of 8 key/value heads and 32 query heads, and an empty kernel, in
  /// microseconds a launch over 100 launches in a row.
  public func decode(cached: Int) throws -> (step: Double, empty: Double) {
    let kernels = try CUDAKernels.shared()
    let stream = try TorchStream.current(device: 0)
    let pattern = AttentionPattern(fold: Fold([256, 128]), rotary: Rotary(.mode))
    let make = { (heads: Int, tokens: Int) in
      Tensor.randn([1, heads, tokens, 128], dtype: .bfloat16, device: device)
    }
    let (keys, values, running) = (make(8, cached), make(8, cached), make(32, cached))
    let (queries, output) = (make(32, 1), make(32, 1))
    let beta = Tensor.full([32], -2.0, dtype: .bfloat16, device: device)
    let modes: [Mode] = pattern.chain
    var passes = zip(modes, [(values, 8), (running, 32)]).map { mode, cache in
      CUDADecode.Pass(mode: mode, values: DeviceTensor(cache.0), valueHeads: cache.1)
    }
    for index in passes.indices {
      passes[index].rotary = RotaryAngles(pattern.rotary, mode: modes[index], width: 128)
    }
    passes[1].beta = UInt64(UInt(bitPattern: beta.dataPointer))
    let step = CUDADecode(
      element: .bfloat16, headWidth: 128, batch: 1, heads: 32, keyHeads: 8,
      support: pattern.support, isJoint: true, queries: DeviceTensor(queries),
      keys: DeviceTensor(keys), output: DeviceTensor(output), position: cached - 1, passes: passes,
      scale: 1 / Float(128).squareRoot())
    let repeats = 100
    let time = { (body: () throws -> Void) -> Double in
      try timer.median(runs: 20, flushing: false) { _ in
        for _ in 0..<repeats { try body() }
      } * 1000 / Double(repeats)
    }
    return try withExtendedLifetime((keys, values, running, queries, output, beta)) {
      (
        try time { try kernels.decode(step, stream: stream) },
        try time { try kernels.launchNothing(stream: stream) }
      )
    }
  }
}
