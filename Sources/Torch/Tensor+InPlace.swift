// MARK: - Changes of the tensor itself
//
// On a leaf that requires a gradient these are allowed within `withNoGrad` only.

extension Tensor {
  /// self ← value.
  public func fill(_ value: some ScalarOperand) {
    ATen.tensor("aten::fill_.Scalar", [.tensor(self), value.operand])
  }

  /// self ← 0.
  public func zero() {
    ATen.tensor("aten::zero_", [.tensor(self)])
  }

  /// self ← source, converted and broadcast.
  public func copy(from source: Tensor) {
    ATen.tensor("aten::copy_", [.tensor(self), .tensor(source)])
  }

  /// self ← self + scale · other.
  public func addInPlace(_ other: Tensor, scale: Double = 1) {
    ATen.tensor(
      "aten::add_.Tensor", [.tensor(self), .tensor(other)], named: ["alpha": .double(scale)])
  }

  /// self ← self + number.
  public func addInPlace(_ number: some ScalarOperand) {
    ATen.tensor("aten::add_.Scalar", [.tensor(self), number.operand])
  }

  /// self ← self · other.
  public func multiplyInPlace(_ other: Tensor) {
    ATen.tensor("aten::mul_.Tensor", [.tensor(self), .tensor(other)])
  }

  /// self ← self · number.
  public func multiplyInPlace(_ number: some ScalarOperand) {
    ATen.tensor("aten::mul_.Scalar", [.tensor(self), number.operand])
  }

  /// self ← self + scale · a · b.
  public func addProductInPlace(_ a: Tensor, _ b: Tensor, scale: Double = 1) {
    ATen.tensor(
      "aten::addcmul_", [.tensor(self), .tensor(a), .tensor(b)], named: ["value": .double(scale)])
  }

  /// self ← self + scale · a / b.
  public func addQuotientInPlace(_ a: Tensor, _ b: Tensor, scale: Double = 1) {
    ATen.tensor(
      "aten::addcdiv_", [.tensor(self), .tensor(a), .tensor(b)], named: ["value": .double(scale)])
  }

  /// self ← self + weight · (end − self).
  public func interpolateInPlace(to end: Tensor, weight: Double) {
    ATen.tensor("aten::lerp_.Scalar", [.tensor(self), .tensor(end), .double(weight)])
  }

  /// self ← numbers drawn evenly from [low, high).
  public func fillUniform(_ low: Double = 0, _ high: Double = 1, generator: Generator? = nil) {
    ATen.tensor(
      "aten::uniform_", [.tensor(self), .double(low), .double(high), .optional(generator)])
  }

  /// self ← numbers drawn from the normal distribution.
  public func fillNormal(
    mean: Double = 0, standardDeviation: Double = 1, generator: Generator? = nil
  ) {
    ATen.tensor(
      "aten::normal_",
      [.tensor(self), .double(mean), .double(standardDeviation), .optional(generator)])
  }
}

// MARK: - Many tensors in one call

/// Operations on lists of tensors, which libtorch fuses into few kernels: an optimizer's step.
public enum Foreach {
  /// Every tensor times `factor`, in place.
  public static func multiplyInPlace(_ tensors: [Tensor], _ factor: Double) {
    guard !tensors.isEmpty else { return }
    ATen.values("aten::_foreach_mul_.Scalar", [.tensors(tensors), .double(factor)])
  }

  /// Every tensor plus `scale` times its counterpart, in place.
  public static func addInPlace(_ tensors: [Tensor], _ others: [Tensor], scale: Double = 1) {
    guard !tensors.isEmpty else { return }
    ATen.values(
      "aten::_foreach_add_.List", [.tensors(tensors), .tensors(others)],
      named: ["alpha": .double(scale)])
  }

  /// The norm of every tensor, each a scalar.
  public static func norms(_ tensors: [Tensor], order: Double = 2) -> [Tensor] {
    guard !tensors.isEmpty else { return [] }
    return ATen.tensors("aten::_foreach_norm.Scalar", [.tensors(tensors), .double(order)])
  }

  /// A step of AdamW on every parameter, in one kernel (Loshchilov and Hutter, "Decoupled Weight
  /// Decay Regularization", 2019, Algorithm 2).
  ///
  /// - Parameters:
  ///   - parameters: changed in place.
  ///   - gradients: one a parameter.
  ///   - averages: the running means of the gradients, changed in place.
  ///   - squareAverages: the running means of their squares, changed in place.
  ///   - steps: a float32 scalar a parameter: the steps made including this one.
  ///   - options: rates and decays.
  public static func adamWInPlace(
    _ parameters: [Tensor], gradients: [Tensor], averages: [Tensor], squareAverages: [Tensor],
    steps: [Tensor], options: AdamWOptions
  ) {
    guard !parameters.isEmpty else { return }
    ATen.values(
      "aten::_fused_adamw_",
      [
        .tensors(parameters), .tensors(gradients), .tensors(averages), .tensors(squareAverages),
        .tensors([]), .tensors(steps),
      ],
      named: [
        "lr": .double(options.learningRate), "beta1": .double(options.beta1),
        "beta2": .double(options.beta2), "weight_decay": .double(options.weightDecay),
        "eps": .double(options.epsilon), "amsgrad": false, "maximize": false,
      ])
  }

  /// The numbers of an AdamW step.
  public struct AdamWOptions: Sendable {
    /// η, the step's size.
    public var learningRate: Double
    /// The share that the running mean of the gradients keeps a step.
    public var beta1: Double
    /// The share that the running mean of the squares keeps a step.
    public var beta2: Double
    /// λ: parameters shrink by η λ a step.
    public var weightDecay: Double
    /// What is added to the root of the squares.
    public var epsilon: Double

    /// Options with libtorch's defaults for what is not given.
    public init(
      learningRate: Double, beta1: Double = 0.9, beta2: Double = 0.999, weightDecay: Double = 0.01,
      epsilon: Double = 1e-8
    ) {
      self.learningRate = learningRate
      self.beta1 = beta1
      self.beta2 = beta2
      self.weightDecay = weightDecay
      self.epsilon = epsilon
    }
  }
}
