import Folding
import Torch

/// Why tensors in a file cannot be attended.
public struct AttentionFileError: Error, Equatable, CustomStringConvertible, Sendable {
  /// What was expected and found, and what to do.
  public let description: String

  init(_ description: String) { self.description = description }
}

/// Attention from a safetensors file to another: what `tensattn attend` does.
///
/// | read | shape | |
/// | --- | --- | --- |
/// | `q` | `[B, H, N, D]` | |
/// | `k`, `v` | `[B, G, N, D]` | |
/// | `beta` | `[m, H]` | optional; the row of the lowest mode is ignored |
/// | `mode_bias_1`, … | `[H or 1, n_k, n_k]`, sliding `[H or 1, n_k]` | optional |
/// | `lengths` | `[B]` of integers | optional: tokens beyond are padding |
/// | `grad_output` | `[B, H, N, D]` | optional: gradients are written |
///
/// | written | shape | |
/// | --- | --- | --- |
/// | `output` | `[B, H, N, D]` | |
/// | `lse` | `[B, H, N]` | log-sum-exp of the last pass |
/// | `grad_q`, `grad_k`, `grad_v`, `grad_beta`, `grad_mode_bias_1`, … | as read | with `grad_output` |
///
/// Other tensors are left alone.
public struct AttentionFiles: Sendable {
  /// Fold, support, normalization, order, positions.
  public var pattern: AttentionPattern
  /// The factor on the logits, 1/√D if nil.
  public var scale: Double?
  /// Which implementation attends.
  public var backend: Backend
  /// What all tensors are converted to; by default float64 if `q` is, else float32.
  public var dtype: DType?

  /// Describes the operation.
  public init(
    pattern: AttentionPattern, scale: Double? = nil, backend: Backend = .automatic,
    dtype: DType? = nil
  ) {
    self.pattern = pattern
    self.scale = scale
    self.backend = backend
    self.dtype = dtype
  }

  /// Attends the tensors of `input` and writes the results to `output`, complete or not at all.
  ///
  /// - Throws: ``AttentionFileError`` for tensors that do not fit each other or the pattern,
  ///   ``BackendError``, and `SafetensorsError` for files that cannot be read or written. Nothing is
  ///   written then.
  public func attend(_ input: String, to output: String) throws {
    let file = try SafetensorsFile(input)
    let request = try AttentionFileRequest(file, pattern: pattern, dtype: dtype)
    let device: Device = backend == .cuda ? .cuda() : .cpu
    try device.requireAvailable()
    _ = try backend.resolved(dtype: request.dtype, device: device)
    try SafetensorsFile.write(run(request, on: device), to: output)
  }

  private func run(_ request: AttentionFileRequest, on device: Device) throws -> [String: Tensor] {
    var inputs: [String: Tensor] = [:]
    for name in request.inputs {
      inputs[name] = try request.tensor(name, on: device)
    }
    let upstream = try request.hasGradient ? request.tensor("grad_output", on: device) : nil
    for tensor in inputs.values { tensor.requiresGrad = upstream != nil }
    guard let q = inputs["q"], let k = inputs["k"], let v = inputs["v"] else { return [:] }
    let (output, lse) = tensorizedAttention(
      queries: q, keys: k, values: v, pattern: pattern, scale: scale, beta: inputs["beta"],
      modeBiases: pattern.fold.modes.map { inputs["mode_bias_\($0.index)"] },
      lengths: try request.lengths(), backend: backend)
    var results = ["output": output.detached(), "lse": lse.detached()]
    if let upstream {
      let given = request.inputs.compactMap { inputs[$0] }
      let gradients = Autograd.gradients(of: [output], by: given, gradients: [upstream])
      for (name, (tensor, gradient)) in zip(request.inputs, zip(given, gradients)) {
        // β and bias of a pass that nothing depends on have no gradient: it is zero.
        results["grad_\(name)"] = gradient ?? tensor.detached().zerosLike()
      }
    }
    return results
  }
}

/// A file's header, checked against the pattern before any tensor is read.
private struct AttentionFileRequest {
  let file: SafetensorsFile
  let pattern: AttentionPattern
  let dtype: DType
  /// The tensors that the operator is differentiated by.
  let inputs: [String]
  let hasGradient: Bool

  init(_ file: SafetensorsFile, pattern: AttentionPattern, dtype: DType?) throws {
    self.file = file
    self.pattern = pattern
    let own = file.entries["q"]?.dtype == .float64 ? DType.float64 : .float32
    self.dtype = dtype ?? own
    let biases = pattern.fold.modes.map { "mode_bias_\($0.index)" }
    inputs =
      ["q", "k", "v"] + (["beta"] + biases).filter { file.entries[$0] != nil }
    hasGradient = file.entries["grad_output"] != nil
    guard self.dtype.isFloatingPoint else {
      throw AttentionFileError(
        "Attention computes in float32, float64, bfloat16 or float16, not in \(self.dtype).")
    }
    try checkRows()
    try checkExtras()
  }

  private func entry(_ name: String) throws -> SafetensorsFile.Entry {
    guard let entry = file.entries[name] else {
      throw AttentionFileError(
        "Expected tensors q [B, H, N, D], k and v [B, G, N, D] in \(file.path), but '\(name)' is "
          + "missing; found \(file.names.isEmpty ? "none" : file.names.joined(separator: ", ")).")
    }
    return entry
  }

  private func floating(_ name: String) throws -> [Int] {
    let entry = try entry(name)
    guard entry.dtype.isFloatingPoint else {
      throw AttentionFileError(
        "Expected floating-point numbers in tensor '\(name)' of \(file.path), found "
          + "\(entry.dtype); write it as float32 or float64.")
    }
    return entry.shape
  }

  private func expect(_ name: String, _ shapes: [[Int]], because: String) throws {
    let shape = try floating(name)
    guard shapes.contains(shape) else {
      throw AttentionFileError(
        "Expected tensor '\(name)' of \(file.path) to have the shape "
          + "\(shapes.map { "\($0)" }.joined(separator: " or ")) (\(because)), found \(shape).")
    }
  }

  private func checkRows() throws {
    let (q, k, v) = (try floating("q"), try floating("k"), try floating("v"))
    let found = "found q \(q), k \(k), v \(v) in \(file.path)"
    guard [q, k, v].allSatisfy({ $0.count == 4 && $0.allSatisfy { $0 >= 1 } }) else {
      throw AttentionFileError(
        "Expected q [B, H, N, D], k and v [B, G, N, D] with no empty axis, \(found).")
    }
    guard k == v, q[0] == k[0], q[2] == k[2], q[3] == k[3], q[1] % k[1] == 0 else {
      throw AttentionFileError(
        "Expected q [B, H, N, D], k and v [B, G, N, D] with the same B, N and D and H a multiple "
          + "of G, \(found).")
    }
    guard pattern.rotary.positions == .none || q[3] % 2 == 0 else {
      throw AttentionFileError(
        "Rotary positions pair channels and need an even D, \(found); use positions none.")
    }
    if let objection = pattern.objection(tokens: q[2]) { throw AttentionFileError(objection) }
  }

  private func checkExtras() throws {
    let q = try entry("q").shape
    if file.entries["beta"] != nil {
      try expect("beta", [[pattern.fold.order, q[1]]], because: "[m, H]")
    }
    for mode in pattern.fold.modes where file.entries["mode_bias_\(mode.index)"] != nil {
      let tail = pattern.support == .slidingCausal ? [mode.size] : [mode.size, mode.size]
      try expect(
        "mode_bias_\(mode.index)", [[1] + tail, [q[1]] + tail],
        because: "mode \(mode.index) of \(pattern.fold), \(pattern.support.rawValue)")
    }
    let biases = file.names.filter { $0.hasPrefix("mode_bias_") && !inputs.contains($0) }
    if let bias = biases.first {
      throw AttentionFileError(
        "The tensor '\(bias)' of \(file.path) is of none of the modes 1 to \(pattern.fold.order) "
          + "of the fold \(pattern.fold).")
    }
    if hasGradient { try expect("grad_output", [q], because: "the shape of q") }
    _ = try lengths()
  }

  /// The tensor in the type to compute in.
  func tensor(_ name: String, on device: Device) throws -> Tensor {
    try file.tensor(name).to(dtype: dtype, device: device).contiguous()
  }

  /// The lengths of the sequences, nil if the file holds none.
  func lengths() throws -> [Int]? {
    guard let entry = file.entries["lengths"] else { return nil }
    let q = try self.entry("q").shape
    guard !entry.dtype.isFloatingPoint, entry.dtype != .bool, entry.shape == [q[0]] else {
      throw AttentionFileError(
        "Expected integers [\(q[0])] in tensor 'lengths' of \(file.path), one a sequence, found "
          + "\(entry.dtype) \(entry.shape).")
    }
    let lengths = try file.tensor("lengths").array(Int.self)
    guard lengths.allSatisfy({ (0...q[2]).contains($0) }) else {
      throw AttentionFileError(
        "Expected lengths between 0 and N = \(q[2]) in \(file.path), found \(lengths).")
    }
    return lengths
  }
}
