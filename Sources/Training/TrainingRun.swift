import Foundation
import Logging
import Models
import NN
import Text
import Torch

/// Why training stopped with an error.
public enum TrainingError: Error, Equatable, CustomStringConvertible {
  /// The loss or its gradient is no finite number any more.
  case diverged(step: Int, loss: Double, gradientNorm: Double)

  /// The sentence to print.
  public var description: String {
    switch self {
    case .diverged(let step, let loss, let norm):
      "The loss at step \(step) is \(loss) and its gradient's norm \(norm), not both finite; "
        + "begin again with a lower learning rate, or clip gradients."
    }
  }
}

/// A model in training, with everything on disk that it takes to continue:
///
///     folder/config.json          the run's configuration
///     folder/metrics.jsonl        a line a step
///     folder/checkpoints/step-…   see ``CheckpointStore``
public final class TrainingRun {
  /// The model.
  public let model: Llama
  /// What determines the run.
  public let configuration: RunConfiguration
  /// The number of optimizer steps done.
  public private(set) var step = 0
  /// The seconds of training so far, over all resumptions.
  public private(set) var seconds = 0.0

  /// The text on which the run is validated.
  public var validationText: [UInt8] { windows.text }

  private let folder: String
  private let sampler: BatchSampler
  private let windows: EvaluationWindows
  private let optimizer: AdamW
  private let store: CheckpointStore
  private let metrics: MetricsFile
  private let logger = Logger(label: "training")

  /// How ``run(label:shouldStop:)`` ended.
  public enum Outcome: Sendable, Hashable {
    /// All steps are done.
    case finished
    /// Asked to stop; a checkpoint is saved.
    case interrupted
  }

  /// Begins a run in a folder, or continues the one that is there, which may have begun on another device.
  ///
  /// - Throws: ``ConfigurationError``, ``CorpusError``, ``AttentionKindError``,
  ///   ``CheckpointError``, also if the folder holds a run with another configuration, and `TorchError`
  ///   without the device.
  public init(
    _ configuration: RunConfiguration, corpus: Corpus, folder: String, device: Device = .cpu
  ) throws {
    try configuration.validate()
    try device.requireAvailable()
    let training = configuration.training
    try configuration.model.attention.requireRoom(tokens: training.context)
    self.configuration = configuration
    self.folder = folder
    sampler = try BatchSampler(
      text: corpus.training, context: training.context, batchSize: training.batchSize,
      seed: training.seed)
    windows = try EvaluationWindows(
      text: corpus.validation, tokens: max(training.validationTokens, training.context),
      longestContext: training.context)
    model = try Llama(
      configuration.model, initializer: Initializer(seed: training.seed, device: device))
    model.precision = training.precision
    optimizer = AdamW(model.parameters(), configuration: training)
    store = CheckpointStore(folder: folder + "/checkpoints", kept: training.keptCheckpoints)
    try RunFolder.claim(
      folder, for: configuration, over: RunConfiguration(), freeKeys: RunConfiguration.freeKeys)
    if !store.steps.isEmpty {
      let state = try store.load(into: optimizer.parameters, optimizer: optimizer)
      step = state.step
      seconds = state.seconds
      logger.debug("continuing \(folder) after step \(step)")
    }
    metrics = try MetricsFile(path: folder + "/metrics.jsonl", continuingAfter: step)
  }

  /// Deletes a run's files, and nothing else in its folder.
  public static func remove(_ folder: String) throws {
    for name in ["config.json", "metrics.jsonl", "checkpoints"] {
      let path = folder + "/" + name
      guard FileManager.default.fileExists(atPath: path) else { continue }
      try FileManager.default.removeItem(atPath: path)
    }
  }

  /// Trains to the last step.
  ///
  /// - Parameters:
  ///   - label: what the progress line begins with.
  ///   - shouldStop: asked after every step; if true, a checkpoint is saved and the run returns.
  /// - Throws: ``TrainingError``, ``CheckpointError/notSaved(path:reason:previous:)``.
  public func run(
    label: String = "training", shouldStop: () -> Bool = { Interruption.isRequested }
  ) throws -> Outcome {
    let training = configuration.training
    let progress = ProgressLine(label: label, total: training.steps, done: step)
    defer { progress.finish() }
    var validation: Double?
    while step < training.steps {
      let line = try trainOneStep()
      if isDue(training.validationInterval) || step == training.steps {
        validation = validate()
        try metrics.append(MetricsLine(step: step, seconds: seconds, validationLoss: validation))
      }
      progress.update(step, details: details(line, validation))
      let stops = shouldStop()
      if stops || isDue(training.checkpointInterval) || step == training.steps { try save() }
      if stops && step < training.steps { return .interrupted }
    }
    return .finished
  }

  private func isDue(_ interval: Int) -> Bool { interval > 0 && step % interval == 0 }

  private func details(_ line: MetricsLine, _ validation: Double?) -> String {
    var text = String(
      format: "loss %.4f  %.0f tokens/s", line.loss ?? .nan, line.tokensPerSecond ?? .nan)
    if let validation { text += String(format: "  validation %.4f", validation) }
    return text
  }

  /// One optimizer step: forward and backward over the accumulated batches, clip, update.
  private func trainOneStep() throws -> MetricsLine {
    let training = configuration.training
    let began = ContinuousClock.now
    optimizer.clearGradients()
    var loss = 0.0
    for part in 0..<training.accumulation {
      let share = meanLoss(model, sampler.batch(step: step, part: part)) / training.accumulation
      share.backward()
      loss += share.item(Double.self)
    }
    let rate = training.schedule.rate(step: step)
    let norm = try optimizer.step(
      rate: rate, clipNorm: training.clipNorm, loss: loss, index: step)
    step += 1
    let elapsed = (ContinuousClock.now - began) / .seconds(1)
    seconds += elapsed
    let line = MetricsLine(
      step: step, loss: loss, learningRate: rate, gradientNorm: norm,
      tokensPerSecond: Double(training.tokensPerStep) / elapsed, seconds: seconds)
    try metrics.append(line)
    return line
  }

  private func validate() -> Double {
    let training = configuration.training
    return validationLoss(
      model, windows, context: training.context,
      batchTokens: training.context * training.batchSize)
  }

  private func save() throws {
    try store.save(
      state: .init(step: step, seconds: seconds), parameters: optimizer.parameters,
      optimizer: optimizer)
  }
}
