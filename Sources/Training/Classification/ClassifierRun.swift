import Foundation
import Models
import NN
import OrderedCollections
import Text
import Torch

/// A ``SequenceModel`` in training, with everything on disk that it takes to continue:
///
///     folder/config.json          the run's configuration
///     folder/metrics.jsonl        a line a step, and a line a validation
///     folder/checkpoints/step-…   see ``CheckpointStore``
///     folder/best/step-…          the weights with the best validation so far
///
/// The batches, dropout and so all results depend on the configuration alone: a run that was interrupted
/// and continued ends with the weights of one that was not.
public final class ClassifierRun {
  /// The model; after ``run(label:shouldStop:)`` it has the weights of the best validation.
  public let model: SequenceModel
  /// What determines the run.
  public let configuration: ClassifierConfiguration
  /// The number of optimizer steps done.
  public private(set) var step = 0
  /// The seconds of training so far, over all resumptions.
  public private(set) var seconds = 0.0
  /// The scores of the validations so far.
  public private(set) var validations: [Validation] = []

  private let splits: DatasetSplits<Int>
  private let batches: LabeledBatches
  private let optimizer: any Optimizer
  private let store: CheckpointStore
  private let bestStore: CheckpointStore
  private let metrics: MetricsFile
  private var epoch: (number: Int, batches: [[Int]])?

  /// The score of the model after a step.
  public struct Validation: Sendable, Hashable {
    /// The number of optimizer steps done.
    public let step: Int
    /// What early stopping goes by; more is better.
    public let score: Double
  }

  /// How ``run(label:shouldStop:)`` ended.
  public enum Outcome: Sendable, Hashable {
    /// All steps are done, the goal was reached, or the patience was at an end.
    case finished
    /// Asked to stop; a checkpoint is saved.
    case interrupted
  }

  /// Begins a run in a folder, or continues the one that is there.
  ///
  /// - Parameter vectors: the first vectors of tokens, [vocabularySize, embeddingWidth].
  /// - Throws: ``ConfigurationError``, `EncoderConfigurationError`, ``CheckpointError``, also if the
  ///   folder holds a run with another configuration.
  public init(
    _ configuration: ClassifierConfiguration, splits: DatasetSplits<Int>, vectors: Tensor? = nil,
    folder: String
  ) throws {
    try configuration.validate()
    let training = configuration.training
    guard !splits.training.examples.isEmpty, !splits.validation.examples.isEmpty else {
      throw ConfigurationError.outOfRange(
        key: "examples for training and validation", expected: "at least one of each",
        found: "\(splits.training.examples.count) and \(splits.validation.examples.count)")
    }
    self.configuration = configuration
    self.splits = splits
    batches = LabeledBatches(splits.training, batchSize: training.batchSize, seed: training.seed)
    model = try SequenceModel(
      configuration.model, vectors: vectors, initializer: Initializer(seed: training.seed))
    optimizer = training.makeOptimizer(for: model.parameters())
    store = CheckpointStore(folder: folder + "/checkpoints", kept: 1)
    bestStore = CheckpointStore(folder: folder + "/best", kept: 1)
    try RunFolder.claim(
      folder, for: configuration, over: ClassifierConfiguration(),
      freeKeys: ["training.checkpointInterval"])
    if !store.steps.isEmpty {
      let state = try store.load(into: optimizer.parameters, optimizer: optimizer)
      step = state.step
      seconds = state.seconds
    }
    metrics = try MetricsFile(path: folder + "/metrics.jsonl", continuingAfter: step)
    validations = try MetricsFile.read(folder + "/metrics.jsonl").compactMap(Self.validation)
  }

  private static func validation(_ line: MetricsLine) -> Validation? {
    line.validationScore.map { Validation(step: line.step, score: $0) }
  }

  /// The best validation so far, of equal ones the first.
  public var best: Validation? {
    validations.reduce(nil) { best, next in
      best.map { next.score > $0.score ? next : $0 } ?? next
    }
  }

  /// Whether no further step is to be done.
  public var isFinished: Bool {
    let training = configuration.training
    if step >= training.steps { return true }
    guard let best else { return false }
    if training.goal > 0, best.score >= training.goal { return true }
    guard training.patience > 0 else { return false }
    return validations.filter { $0.step > best.step }.count >= training.patience
  }

  /// Trains to the last step, the goal or the patience's end, and takes the best weights.
  ///
  /// - Parameters:
  ///   - label: what the progress line begins with.
  ///   - shouldStop: asked after every step; if true, a checkpoint is saved and the run returns.
  /// - Throws: ``TrainingError``, ``CheckpointError``.
  public func run(
    label: String = "training", shouldStop: () -> Bool = { Interruption.isRequested }
  ) throws -> Outcome {
    let training = configuration.training
    let progress = ProgressLine(label: label, total: training.steps, done: step)
    defer { progress.finish() }
    while !isFinished {
      let line = try trainOneStep()
      if step % training.validationInterval == 0 || step == training.steps { try validate() }
      progress.update(step, details: details(line))
      let stops = shouldStop()
      let isDue = training.checkpointInterval > 0 && step % training.checkpointInterval == 0
      if stops || isDue || isFinished { try save() }
      if stops && !isFinished { return .interrupted }
    }
    if !bestStore.steps.isEmpty { _ = try bestStore.load(into: optimizer.parameters) }
    return .finished
  }

  private func details(_ line: MetricsLine) -> String {
    let rate = Double(step * configuration.training.batchSize) / seconds
    var text = String(format: "loss %.4f  %.0f examples/s", line.loss ?? .nan, rate)
    if let last = validations.last, let best {
      text += String(format: "  validation %.4f (best %.4f)", last.score, best.score)
    }
    return text
  }

  private func trainOneStep() throws -> MetricsLine {
    let training = configuration.training
    let began = ContinuousClock.now
    optimizer.clearGradients()
    // libtorch's generator takes 32 bits of a seed; neighboring steps must differ in them.
    let dropout = Generator(seed: (training.seed &* 0x9e37_79b1 &+ UInt64(step)) & 0xffff_ffff)
    let batch = nextBatch()
    let loss = meanLoss(
      model, batch, labelSmoothing: training.labelSmoothing, dropout: dropout)
    loss.backward()
    let value = loss.item(Double.self)
    let rate = training.schedule.rate(step: step)
    let norm = try optimizer.step(
      rate: rate, clipNorm: training.clipNorm, loss: value, index: step)
    step += 1
    let elapsed = (ContinuousClock.now - began) / .seconds(1)
    seconds += elapsed
    let line = MetricsLine(
      step: step, loss: value, learningRate: rate, gradientNorm: norm, seconds: seconds)
    try metrics.append(line)
    return line
  }

  private func nextBatch() -> LabeledBatch {
    let (number, place) = step.quotientAndRemainder(dividingBy: batches.count)
    if epoch?.number != number { epoch = (number, batches.epoch(number)) }
    return batches.batch(epoch?.batches[place] ?? [])
  }

  /// Scores the model, or the running mean of its weights, and keeps the best.
  private func validate() throws {
    try withEvaluatedWeights {
      let dataset = splits.validation
      guard
        let predictions = Predictions(
          of: model, for: dataset, batchSize: configuration.training.batchSize)
      else { return }
      let scores = ClassifierScores(predictions, on: dataset)
      let line = MetricsLine(
        step: step, seconds: seconds, validationLoss: scores.loss,
        validationAccuracy: scores.accuracy, validationScore: scores.decisive)
      try metrics.append(line)
      guard let validation = Self.validation(line) else { return }
      let isBest = best.map { validation.score > $0.score } ?? true
      validations.append(validation)
      if isBest {
        try bestStore.save(
          state: .init(step: step, seconds: seconds), parameters: optimizer.parameters,
          optimizer: nil)
      }
    }
  }

  private func withEvaluatedWeights(_ work: () throws -> Void) rethrows {
    guard let average = optimizer as? WeightAverage else { return try work() }
    try average.withMeans(work)
  }

  private func save() throws {
    try store.save(
      state: .init(step: step, seconds: seconds), parameters: optimizer.parameters,
      optimizer: optimizer)
  }
}

extension ClassifierTraining {
  /// The optimizer of a run.
  func makeOptimizer(for parameters: OrderedDictionary<String, Parameter>) -> any Optimizer {
    let base: any Optimizer
    switch optimizer {
    case .adamW:
      var adam = TrainingConfiguration()
      adam.weightDecay = weightDecay
      adam.beta2 = 0.999
      base = AdamW(parameters, configuration: adam)
    case .adadelta:
      base = Adadelta(parameters, weightDecay: weightDecay)
    }
    return averaging > 0 ? WeightAverage(base, decay: averaging) : base
  }
}
