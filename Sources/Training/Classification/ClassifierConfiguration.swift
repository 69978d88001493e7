import Models
import Text

/// Everything that determines the training of a ``SequenceModel``: which data, the model, the training.
public struct ClassifierConfiguration: Codable, Sendable, Hashable {
  /// What it is trained on; a run is continued with the same only.
  public var data = ClassifierData()
  /// The model.
  public var model = SequenceModelConfiguration()
  /// The training.
  public var training = ClassifierTraining()

  /// The defaults.
  public init() {}

  /// Gives the model the sizes that the data ask for.
  public mutating func fit(_ data: LoadedData) {
    let training = data.splits.training
    model.vocabularySize = data.vocabularySize
    model.classes = training.labels.count
    model.hasMarker = training.examples.first?.marker != nil
    model.task = SequenceTask(training.kind)
    if let vectors = data.vectors { model.embeddingWidth = vectors.size(1) }
  }

  /// Checks every value's range.
  ///
  /// - Throws: ``ConfigurationError`` or `EncoderConfigurationError`.
  public func validate() throws {
    try data.validate()
    try model.validate()
    try training.validate()
  }
}

extension SequenceTask {
  /// What a kind of dataset asks.
  init(_ kind: TaskKind) {
    switch kind {
    case .classification: self = .classification
    case .pair: self = .pair
    case .tagging: self = .tagging
    }
  }
}

/// How a ``SequenceModel`` is trained. In a file, only what differs from the defaults has to be
/// written.
public struct ClassifierTraining: Codable, Sendable, Hashable {
  /// The rules by which parameters change.
  public enum Rule: String, Codable, Sendable, CaseIterable {
    /// ``AdamW``; `weightDecay` is decoupled.
    case adamW = "adamw"
    /// ``Adadelta``; `weightDecay` is L2.
    case adadelta
  }

  /// How parameters change.
  public var optimizer = Rule.adamW
  /// The highest learning rate, about 1e-3 for AdamW and 0.5 for Adadelta.
  public var learningRate = 1e-3
  /// The learning rate at the end, as a share of the highest.
  public var finalShare = 0.1
  /// The steps over which the rate rises.
  public var warmUpSteps = 50
  /// The weight decay of maps; biases, norms and tokens' vectors have none.
  public var weightDecay = 1e-4
  /// The greatest number of optimizer steps.
  public var steps = 2000
  /// The number B of examples in a batch.
  public var batchSize = 32
  /// The L2 norm to which all gradients together are cut; 0 cuts nothing.
  public var clipNorm = 1.0
  /// The share of a target that is spread over all classes.
  public var labelSmoothing = 0.0
  /// The share that a running mean of the weights, on which the model is then evaluated, keeps
  /// a step; 0 for none.
  public var averaging = 0.0
  /// Steps between validations.
  public var validationInterval = 100
  /// Validations without a better score after which training stops; 0 never stops early.
  public var patience = 0
  /// The validation score at which training stops; 0 never stops it.
  public var goal = 0.0
  /// Steps between checkpoints; 0 saves at the end (and when interrupted) only.
  public var checkpointInterval = 500
  /// The seed of the weights, the batches and dropout.
  public var seed: UInt64 = 1

  /// The defaults.
  public init() {}

  /// The learning rate's schedule.
  public var schedule: CosineSchedule {
    CosineSchedule(
      peak: learningRate, final: learningRate * finalShare, warmUpSteps: warmUpSteps, steps: steps)
  }

  /// Checks every value's range.
  ///
  /// - Throws: ``ConfigurationError/outOfRange(key:expected:found:)``.
  public func validate() throws {
    for (key, value) in [
      ("steps", steps), ("batchSize", batchSize), ("validationInterval", validationInterval),
    ] where value < 1 {
      throw ConfigurationError.outOfRange(key: key, expected: "at least 1", found: "\(value)")
    }
    let notNegative = [
      ("warmUpSteps", Double(warmUpSteps)), ("checkpointInterval", Double(checkpointInterval)),
      ("patience", Double(patience)), ("weightDecay", weightDecay), ("clipNorm", clipNorm),
      ("finalShare", finalShare), ("goal", goal),
    ]
    for (key, value) in notNegative where !(value >= 0) {
      throw ConfigurationError.outOfRange(key: key, expected: "0 or more", found: "\(value)")
    }
    guard learningRate > 0 else {
      throw ConfigurationError.outOfRange(
        key: "learningRate", expected: "above 0", found: "\(learningRate)")
    }
    for (key, value) in [("labelSmoothing", labelSmoothing), ("averaging", averaging)]
    where !(value >= 0 && value < 1) {
      throw ConfigurationError.outOfRange(key: key, expected: "0 ≤ x < 1", found: "\(value)")
    }
  }
}
