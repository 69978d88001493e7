import CTorch

/// Seeds the default random-number generator of every device.
public func manualSeed(_ seed: UInt64) {
  expect("manualSeed(\(seed))") { try check(ct_manual_seed(seed)) }
}

/// A source of random numbers with a state of its own.
public final class Generator {
  let handle: ct_generator

  /// A generator for tensors on `device` that starts from `seed`.
  public init(seed: UInt64, device: Device = .cpu) {
    handle = expect("Generator(seed: \(seed), device: \(device))") {
      try Generator.make { ct_generator_new(device.raw, seed, $0) }
    }
  }

  private init(owning handle: ct_generator) {
    self.handle = handle
  }

  deinit {
    ct_generator_free(handle)
  }

  /// The generator of `device` that operations use when none is given.
  public static func standard(_ device: Device = .cpu) -> Generator {
    Generator(
      owning: expect("Generator.standard(\(device))") {
        try make { ct_default_generator(device.raw, $0) }
      })
  }

  /// The state as bytes, to be kept in a checkpoint.
  public func state() -> Tensor {
    expect("Generator.state") {
      var result: ct_tensor?
      try check(ct_generator_state(handle, &result))
      return try Tensor(checking: result)
    }
  }

  /// Continues from a state that ``state()`` returned.
  ///
  /// - Throws: ``TorchError`` if it is no state of this kind of generator.
  public func restore(_ state: Tensor) throws {
    try check(ct_set_generator_state(handle, state.handle))
  }

  private static func make(
    _ body: (UnsafeMutablePointer<ct_generator?>) -> Int32
  ) throws -> ct_generator {
    var result: ct_generator?
    try check(body(&result))
    guard let result else { throw TorchError("libtorch returned no generator.") }
    return result
  }
}

extension Tensor {
  /// Takes over a handle that a C function returned.
  convenience init(checking handle: ct_tensor?) throws {
    guard let handle else { throw TorchError("libtorch returned no tensor.") }
    self.init(owning: handle)
  }
}
