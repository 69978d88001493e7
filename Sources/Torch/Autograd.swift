import CTorch

// MARK: - Gradients

extension Tensor {
  /// Whether operations on this tensor are recorded, so that it receives a gradient.
  public var requiresGrad: Bool {
    get { ct_requires_grad(handle) }
    set {
      expect("requiresGrad = \(newValue) on \(dtype)\(shape)") {
        try check(ct_set_requires_grad(handle, newValue))
      }
    }
  }

  /// Whether this tensor is a source of the graph and no recorded operation's result.
  public var isLeaf: Bool { ct_is_leaf(handle) }

  /// The gradient that backward passes accumulated in this leaf.
  public var grad: Tensor? {
    get {
      expect("grad") {
        var result: ct_tensor?
        try check(ct_tensor_grad(handle, &result))
        return result.map(Tensor.init(owning:))
      }
    }
    set {
      expect("grad of \(dtype)\(shape)") { try check(ct_set_tensor_grad(handle, newValue?.handle)) }
    }
  }

  /// Adds the gradient of this tensor to ``grad`` of every leaf that it depends on.
  ///
  /// - Parameters:
  ///   - gradient: the gradient of this tensor, of its shape; one if this tensor is a scalar.
  ///   - retainGraph: keep what the graph saved, for another pass through it.
  ///   - createGraph: record the pass itself, for second derivatives.
  public func backward(
    gradient: Tensor? = nil, retainGraph: Bool = false, createGraph: Bool = false
  ) {
    expect("backward from \(dtype)\(shape)") {
      let gradients = [gradient?.handle]
      try check(
        ct_backward([handle], gradients, 1, retainGraph || createGraph, createGraph))
    }
  }

  /// The same memory, outside of the graph.
  public func detached() -> Tensor { ATen.tensor("aten::detach", [.tensor(self)]) }
}

/// Runs `body` without recording operations, on this thread.
public func withNoGrad<Result, Failure: Error>(
  _ body: () throws(Failure) -> Result
) throws(Failure) -> Result {
  try Autograd.withRecording(false, body)
}

/// Automatic differentiation: gradients by chosen tensors, and operations with a derivative of
/// one's own.
public enum Autograd {
  /// Whether operations on this thread are recorded.
  public static var isRecording: Bool { ct_grad_enabled() }

  /// Runs `body` with recording switched on or off, on this thread.
  public static func withRecording<Result, Failure: Error>(
    _ enabled: Bool, _ body: () throws(Failure) -> Result
  ) throws(Failure) -> Result {
    let before = ct_grad_enabled()
    ct_set_grad_enabled(enabled)
    defer { ct_set_grad_enabled(before) }
    return try body()
  }

  /// The gradients of `outputs` by `inputs`, which leave ``Tensor/grad`` as it is.
  ///
  /// - Parameters:
  ///   - outputs: what is differentiated.
  ///   - inputs: by what; one gradient each is returned, nil where no output depends on it.
  ///   - gradients: the gradient of every output; nil stands for a scalar's one.
  ///   - retainGraph: keep what the graph saved, for another pass through it.
  ///   - createGraph: record the pass itself, for second derivatives.
  public static func gradients(
    of outputs: [Tensor], by inputs: [Tensor], gradients: [Tensor?]? = nil,
    retainGraph: Bool = false, createGraph: Bool = false
  ) -> [Tensor?] {
    let seeds = gradients ?? outputs.map { _ in nil }
    if seeds.count != outputs.count {
      stop("\(seeds.count) gradients for \(outputs.count) outputs")
    }
    return expect("gradients of \(outputs.map(\.shape)) by \(inputs.map(\.shape))") {
      var results = [ct_tensor?](repeating: nil, count: inputs.count)
      try check(
        ct_grad(
          outputs.map { $0.handle }, seeds.map { $0?.handle }, outputs.count,
          inputs.map { $0.handle }, inputs.count, retainGraph || createGraph, createGraph, true,
          &results))
      return results.map { $0.map(Tensor.init(owning:)) }
    }
  }
}

// MARK: - Custom functions

extension Autograd {
  /// What a custom function's backward is given.
  public struct BackwardPass {
    /// The tensors that the forward saved.
    public let saved: [Tensor]
    /// The gradient of every output, of its shape; nil stands for zero.
    public let gradients: [Tensor?]
    /// For every input, whether its gradient is asked for. Where it is not, nil may be returned.
    public let needed: [Bool]
  }

  /// Applies a function whose derivative is the caller's: a kernel that works on the memory.
  ///
  /// `forward` and `backward` run without recording. A backward pass may run on one of libtorch's
  /// threads, always while the caller of ``Tensor/backward(gradient:retainGraph:createGraph:)``
  /// waits for it. The function is differentiable once: recording its backward pass and
  /// differentiating that is an error, not a silent zero.
  ///
  /// Tensors that the backward needs go through `saved`: libtorch frees them after the pass and
  /// notices if one was changed in between.
  ///
  /// - Parameters:
  ///   - inputs: the tensors by which the function is differentiated.
  ///   - forward: computes the outputs, and names the tensors to save.
  ///   - backward: one gradient an input, of its shape; nil stands for zero.
  /// - Returns: the outputs, recorded if an input requires a gradient.
  /// - Throws: what `forward` throws. An error of `backward` stops the pass that called it.
  public static func apply<Failure: Error>(
    _ inputs: [Tensor],
    forward: ([Tensor]) throws(Failure) -> (outputs: [Tensor], saved: [Tensor]),
    backward: @escaping @Sendable (BackwardPass) throws -> [Tensor?]
  ) throws(Failure) -> [Tensor] {
    let (outputs, saved) = try withNoGrad { () throws(Failure) in try forward(inputs) }
    guard isRecording && inputs.contains(where: \.requiresGrad) else { return outputs }
    let closure = Unmanaged.passRetained(BackwardClosure(backward))
    return expect("Autograd.apply(\(inputs.map(\.shape)))") {
      var results = [ct_tensor?](repeating: nil, count: outputs.count)
      try check(
        ct_record_function(
          inputs.map { $0.handle }, inputs.count, outputs.map { $0.handle }, outputs.count,
          saved.map { $0.handle }, saved.count,
          { payload, call in BackwardClosure.run(payload, call) }, closure.toOpaque(),
          { payload in BackwardClosure.release(payload) }, &results))
      return try results.map(Tensor.init(checking:))
    }
  }
}

/// The heap form of a backward closure, which crosses C as a pointer.
private final class BackwardClosure {
  let body: @Sendable (Autograd.BackwardPass) throws -> [Tensor?]

  init(_ body: @escaping @Sendable (Autograd.BackwardPass) throws -> [Tensor?]) {
    self.body = body
  }

  static func release(_ payload: UnsafeMutableRawPointer?) {
    if let payload { Unmanaged<BackwardClosure>.fromOpaque(payload).release() }
  }

  /// Runs the closure on a pass's tensors; a returned message, malloc'ed, is a failure.
  static func run(
    _ payload: UnsafeMutableRawPointer?, _ call: UnsafePointer<ct_backward_call>?
  ) -> UnsafeMutablePointer<CChar>? {
    guard let payload, let call = call?.pointee else { return ct_copy_string("no closure to call") }
    let closure = Unmanaged<BackwardClosure>.fromOpaque(payload).takeUnretainedValue()
    let saved = UnsafeBufferPointer(start: call.saved, count: call.saved_count)
    let gradients = UnsafeBufferPointer(start: call.gradients, count: call.gradient_count)
    let pass = Autograd.BackwardPass(
      saved: saved.compactMap { $0.map(Tensor.init(owning:)) },
      gradients: gradients.map { $0.map(Tensor.init(owning:)) },
      needed: Array(UnsafeBufferPointer(start: call.needed, count: call.input_count)))
    do {
      let results = try closure.body(pass)
      guard results.count == call.input_count else {
        throw TorchError(
          "A backward returned \(results.count) gradients for \(call.input_count) inputs.")
      }
      for (index, result) in results.enumerated() where pass.needed[index] {
        call.input_gradients[index] = result.flatMap { ct_tensor_retain($0.handle) }
      }
      return nil
    } catch {
      return ct_copy_string("\(error)")
    }
  }
}
