import Foundation
import Models
import NN
import Text
import Torch
import Training

/// Encoders of several families with equal numbers of parameters, on the same generated task: how often
/// they are right, and what a step costs by length.
///
/// All share tokens' vectors, blocks, pooling and head and differ in how tokens learn of one another.
/// Everything is written into one folder:
///
///     folder/FAMILY/seed-S/     a ``ClassifierRun``, and its test accuracy in result.json
///     folder/FAMILY/costs.json  times and memory
///     folder/summary.json       an ``EncoderReport``
public struct EncoderComparison {
  /// The sizes of a comparison.
  public struct Plan: Codable, Sendable, Hashable {
    /// What is compared.
    public var families = EncoderFamily.allCases
    /// The seeds of weights, batches and dropout; examples are the same for all.
    public var seeds: [UInt64] = [1, 2, 3, 4, 5]
    /// Further lengths at which the trained models are tested, as they are.
    public var testLengths = [128, 256, 512, 1024]
    /// The number of examples at each of these lengths.
    public var lengthExamples = 200
    /// The greatest of these lengths for the encoder that forms the tensor of scores; beyond, its tests
    /// would take longer than everything else.
    public var longestNaiveTest = 256
    /// The lengths at which time and memory are measured.
    public var lengths = [64, 128, 256, 512, 1024, 2048, 4096]
    /// A further length for multi-mask attention alone.
    public var longest = 16_384
    /// The task, sizes of the multi-mask model, to whose number of parameters the others are matched,
    /// and the training of all.
    public var base = ClassifierConfiguration()

    /// About twenty minutes on two cores.
    public init() {
      base.training.steps = 1500
      base.training.learningRate = 2e-3
      base.training.validationInterval = 50
      base.training.checkpointInterval = 250
      // Nothing is left to learn there, and the steps to it are one of the results.
      base.training.goal = 0.995
    }

    /// One or two minutes: enough to see that everything runs, too few steps and seeds to compare.
    public static var quick: Plan {
      var plan = Plan()
      plan.seeds = [1, 2]
      plan.base.training.steps = 150
      plan.base.data.validationExamples = 100
      plan.base.data.testExamples = 200
      plan.testLengths = [128]
      plan.lengths = [64, 128, 256, 512]
      plan.longest = 2048
      return plan
    }

    /// Examples that each training sees once, and the same tests for all.
    var data: ClassifierData {
      var data = base.data
      data.trainingExamples = base.training.steps * base.training.batchSize
      return data
    }

    /// The lengths at which a family is tested beyond that of the training.
    func testLengths(of family: EncoderFamily) -> [Int] {
      family == .directional ? testLengths.filter { $0 <= longestNaiveTest } : testLengths
    }

    /// Examples of the task at another length.
    func tests(length: Int) -> TokenDataset? {
      var data = base.data
      data.length = length
      return data.task?.dataset(0..<lengthExamples)
    }

    /// A family's run with a seed.
    func configuration(
      _ family: EncoderFamily, seed: UInt64, data loaded: LoadedData
    ) -> ClassifierConfiguration {
      var configuration = base
      configuration.data = data
      configuration.fit(loaded)
      configuration.training.seed = seed
      let encoder = configuration.model.encoder
      if family != encoder.family {
        configuration.model.encoder = encoder.matched(
          by: family, inputs: configuration.model.embeddingWidth)
      }
      return configuration
    }
  }

  /// How a comparison ended.
  public enum Outcome {
    /// All parts are done.
    case finished(EncoderReport)
    /// Asked to stop; running again continues.
    case interrupted
  }

  /// The sizes.
  public let plan: Plan
  /// Where everything is written.
  public let folder: String

  /// Plans a comparison.
  public init(_ plan: Plan, folder: String) {
    self.plan = plan
    self.folder = folder
  }

  /// Runs what is not done yet: finished parts are read from their files, an interrupted training
  /// continues from its checkpoint.
  ///
  /// - Parameter report: told what is going on, a sentence at a time.
  /// - Throws: the errors of ``ClassifierRun``.
  public func run(
    shouldStop: () -> Bool = { Interruption.isRequested }, report: (String) -> Void = { _ in }
  ) throws -> Outcome {
    let data = try plan.data.load()
    var rows: [EncoderRow] = []
    for (place, family) in plan.families.enumerated() {
      let label = "\(place + 1)/\(plan.families.count) \(family.name)"
      guard let row = try row(family, data, label: label, shouldStop: shouldStop, report: report)
      else { return .interrupted }
      rows.append(row)
    }
    let summary = EncoderReport(plan: plan, rows: rows)
    try JSONFile.write(summary, to: folder + "/summary.json")
    return .finished(summary)
  }

  /// Deletes what earlier comparisons wrote, and nothing else in the folder.
  public func remove() throws {
    for family in EncoderFamily.allCases {
      let path = path(family)
      if FileManager.default.fileExists(atPath: path) {
        try FileManager.default.removeItem(atPath: path)
      }
    }
  }

  private func path(_ family: EncoderFamily) -> String { folder + "/" + family.rawValue }

  private func row(
    _ family: EncoderFamily, _ data: LoadedData, label: String, shouldStop: () -> Bool,
    report: (String) -> Void
  ) throws -> EncoderRow? {
    var runs: [EncoderTrial] = []
    for seed in plan.seeds {
      guard
        let trial = try trial(
          family, seed: seed, data, label: "\(label), seed \(seed)", shouldStop: shouldStop)
      else { return nil }
      runs.append(trial)
    }
    guard let costs = try costs(family, data, label: label, shouldStop: shouldStop, report: report)
    else { return nil }
    let configuration = plan.configuration(family, seed: 1, data: data)
    let model = try SequenceModel(configuration.model, initializer: Initializer(seed: 1))
    return EncoderRow(
      family: family, parameters: model.parameterCount,
      encoderParameters: model.encoderParameterCount, trials: runs, costs: costs)
  }

  /// Trains with one seed and tests, unless that is done.
  private func trial(
    _ family: EncoderFamily, seed: UInt64, _ data: LoadedData, label: String,
    shouldStop: () -> Bool
  ) throws -> EncoderTrial? {
    let path = path(family) + "/seed-\(seed)"
    let run = try ClassifierRun(
      plan.configuration(family, seed: seed, data: data), splits: data.splits, folder: path)
    let result = path + "/result.json"
    let lengths = plan.testLengths(of: family)
    if run.isFinished, let trial = JSONFile.read(EncoderTrial.self, from: result),
      trial.testExamples == data.splits.test.examples.count, trial.byLength.map(\.length) == lengths
    {
      return trial
    }
    guard try run.run(label: label, shouldStop: shouldStop) == .finished,
      let accuracy = accuracy(of: run.model, on: data.splits.test, shouldStop: shouldStop)
    else { return nil }
    var byLength: [EncoderTrial.Test] = []
    for length in lengths {
      guard let tests = plan.tests(length: length),
        let accuracy = self.accuracy(of: run.model, on: tests, shouldStop: shouldStop)
      else { return nil }
      byLength.append(.init(length: length, accuracy: accuracy))
    }
    let trial = EncoderTrial(
      seed: seed, accuracy: accuracy, testExamples: data.splits.test.examples.count,
      byLength: byLength, steps: run.step,
      stepsToGoal: run.validations.first { $0.score >= EncoderTrial.goal }?.step,
      milliseconds: run.seconds * 1000 / Double(run.step))
    try JSONFile.write(trial, to: result)
    return trial
  }

  /// The share of right answers; nil if asked to stop.
  private func accuracy(
    of model: SequenceModel, on dataset: TokenDataset, shouldStop: () -> Bool
  ) -> Double? {
    // As many tokens at once as in training.
    let tokens = plan.base.data.length * plan.base.training.batchSize
    let predictions = Predictions(
      of: model, for: dataset, batchSize: max(1, tokens / max(dataset.longest, 1)),
      shouldStop: shouldStop)
    return predictions.map { ClassifierScores($0, on: dataset).accuracy }
  }

  private func costs(
    _ family: EncoderFamily, _ data: LoadedData, label: String, shouldStop: () -> Bool,
    report: (String) -> Void
  ) throws -> [EncoderCost]? {
    let lengths = plan.lengths + (family == .multiMask ? [plan.longest] : [])
    let path = path(family) + "/costs.json"
    if let done = JSONFile.read(EncoderCosts.self, from: path), done.lengths == lengths {
      return done.costs
    }
    let model = try SequenceModel(
      plan.configuration(family, seed: 1, data: data).model, initializer: Initializer(seed: 1))
    let budget = (PeakMemory.available ?? 8_000_000_000) / 2
    let costs = EncoderCost.measure(
      model, lengths: lengths, budget: budget, shouldStop: shouldStop
    ) { cost in
      report(
        String(
          format: "%@, %d tokens: %.1f ms, ", label as NSString, cost.length, cost.milliseconds)
          + megabytes(cost.peakBytes))
    }
    if let costs { try JSONFile.write(EncoderCosts(lengths: lengths, costs: costs), to: path) }
    return costs
  }
}

/// The costs that were measured of those that were asked for.
private struct EncoderCosts: Codable {
  let lengths: [Int]
  let costs: [EncoderCost]
}
