import Foundation
import Models
import NN
import Text
import Torch
import Training

/// The same training with several seeds, and with every round of cross-validation where there is one,
/// each tested once.
///
///     folder/seed-S/                a ``ClassifierRun`` with its words, labels and report.json
///     folder/seed-S-fold-F/         the same for a round of cross-validation
///     folder/summary.json           a ``ClassifierSummary``
public struct ClassifierTrials {
  /// What is trained; the model's sizes that the data decide are filled in.
  public let base: ClassifierConfiguration
  /// The seeds of weights, batches and dropout.
  public let seeds: [UInt64]
  /// Where everything is written.
  public let folder: String

  /// Plans trials.
  public init(_ base: ClassifierConfiguration, seeds: [UInt64], folder: String) {
    self.base = base
    self.seeds = seeds
    self.folder = folder
  }

  /// How trials ended.
  public enum Outcome {
    /// All are done.
    case finished(ClassifierSummary)
    /// Asked to stop; running again continues.
    case interrupted
  }

  /// Runs what is not done yet: finished trials are read from their reports, an interrupted training
  /// continues from its checkpoint.
  ///
  /// - Parameter report: told what is going on, a sentence at a time.
  /// - Throws: the errors of ``ClassifierData``, ``ClassifierRun``.
  public func run(
    shouldStop: () -> Bool = { Interruption.isRequested }, report: (String) -> Void = { _ in }
  ) throws -> Outcome {
    var reports: [ClassifierReport] = []
    for fold in 0..<max(base.data.folds, 1) {
      var configuration = base
      configuration.data.fold = fold
      let data = try configuration.data.load(report: reports.isEmpty ? report : { _ in })
      configuration.fit(data)
      for seed in seeds {
        configuration.training.seed = seed
        guard let found = try trial(configuration, data, shouldStop: shouldStop, report: report)
        else { return .interrupted }
        reports.append(found)
      }
    }
    let summary = ClassifierSummary(trials: reports)
    try JSONFile.write(summary, to: folder + "/summary.json")
    return .finished(summary)
  }

  /// Deletes what earlier trials of the same plan wrote, and nothing else in the folder.
  public func remove() throws {
    for fold in 0..<max(base.data.folds, 1) {
      for seed in seeds {
        let path = folder + "/" + name(seed: seed, fold: fold)
        if FileManager.default.fileExists(atPath: path) {
          try FileManager.default.removeItem(atPath: path)
        }
      }
    }
  }

  private func name(seed: UInt64, fold: Int) -> String {
    base.data.folds > 0 ? "seed-\(seed)-fold-\(fold)" : "seed-\(seed)"
  }

  private func trial(
    _ configuration: ClassifierConfiguration, _ data: LoadedData, shouldStop: () -> Bool,
    report: (String) -> Void
  ) throws -> ClassifierReport? {
    let name = name(seed: configuration.training.seed, fold: configuration.data.fold)
    let path = folder + "/" + name
    let run = try ClassifierRun(
      configuration, splits: data.splits, vectors: data.vectors, folder: path)
    let file = path + "/report.json"
    if run.isFinished, let found = JSONFile.read(ClassifierReport.self, from: file) {
      return found
    }
    try TrainedClassifier.save(data, to: path)
    report("\(name): \(run.model.parameterCount) parameters")
    guard try run.run(label: name, shouldStop: shouldStop) == .finished,
      let found = ClassifierReport(
        of: run.model, name: name, on: data.splits.test, steps: run.step, seconds: run.seconds,
        shouldStop: shouldStop)
    else { return nil }
    try JSONFile.write(found, to: file)
    return found
  }
}
