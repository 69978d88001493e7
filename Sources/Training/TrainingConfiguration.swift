import Models

/// How a model is trained. In a file, only what differs from the defaults has to be written.
public struct TrainingConfiguration: Codable, Sendable, Hashable {
  /// The number of optimizer steps.
  public var steps = 1000
  /// The number N of tokens in a training sequence.
  public var context = 1024
  /// The number B of sequences that pass through the model at once.
  public var batchSize = 4
  /// The number of such batches whose gradients are averaged for one step.
  public var accumulation = 1
  /// The highest learning rate.
  public var learningRate = 1e-3
  /// The learning rate at the end, as a share of the highest.
  public var finalShare = 0.1
  /// The steps over which the rate rises.
  public var warmUpSteps = 50
  /// The decoupled weight decay; norms, embeddings and logit biases have none.
  public var weightDecay = 0.1
  /// The decay rate of the gradients' running mean.
  public var beta1 = 0.9
  /// The decay rate of their running square.
  public var beta2 = 0.95
  /// What keeps the quotient of the two finite.
  public var epsilon = 1e-8
  /// The L2 norm to which all gradients together are cut; 0 cuts nothing.
  public var clipNorm = 1.0
  /// The element type between the weights.
  public var precision = Precision.float32
  /// The seed of the weights and of the batches.
  public var seed: UInt64 = 1
  /// Steps between validations; 0 validates at the end only.
  public var validationInterval = 100
  /// The number of validation tokens.
  public var validationTokens = 65_536
  /// Steps between checkpoints; 0 saves at the end (and when interrupted) only.
  public var checkpointInterval = 200
  /// How many checkpoints stay on disk.
  public var keptCheckpoints = 2

  /// The defaults.
  public init() {}

  /// Tokens in one optimizer step.
  public var tokensPerStep: Int { context * batchSize * accumulation }

  /// The learning rate's schedule.
  public var schedule: CosineSchedule {
    CosineSchedule(
      peak: learningRate, final: learningRate * finalShare, warmUpSteps: warmUpSteps, steps: steps)
  }

  /// Checks every value's range.
  ///
  /// - Throws: ``ConfigurationError/outOfRange(key:expected:found:)``.
  public func validate() throws {
    let atLeastOne = [
      ("steps", steps), ("context", context), ("batchSize", batchSize),
      ("accumulation", accumulation), ("keptCheckpoints", keptCheckpoints),
      ("validationTokens", validationTokens),
    ]
    for (key, value) in atLeastOne where value < 1 {
      throw ConfigurationError.outOfRange(key: key, expected: "at least 1", found: "\(value)")
    }
    let notNegative = [
      ("warmUpSteps", Double(warmUpSteps)), ("validationInterval", Double(validationInterval)),
      ("checkpointInterval", Double(checkpointInterval)), ("weightDecay", weightDecay),
      ("clipNorm", clipNorm), ("finalShare", finalShare),
    ]
    for (key, value) in notNegative where !(value >= 0) {
      throw ConfigurationError.outOfRange(key: key, expected: "0 or more", found: "\(value)")
    }
    for (key, value) in [("learningRate", learningRate), ("epsilon", epsilon)] where !(value > 0) {
      throw ConfigurationError.outOfRange(key: key, expected: "above 0", found: "\(value)")
    }
    for (key, value) in [("beta1", beta1), ("beta2", beta2)] where !(value >= 0 && value < 1) {
      throw ConfigurationError.outOfRange(key: key, expected: "0 ≤ x < 1", found: "\(value)")
    }
  }
}
