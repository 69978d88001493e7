import Evaluation
import Foundation
import Models
import TestSupport
import Testing
import Torch
import Training

@Suite("Comparing encoders", .serialized)
struct EncoderComparisonTests {
  // Tests run side by side: more threads for such small tensors would only wait for one another.
  init() { Runtime.threadCount = 1 }

  private var plan: EncoderComparison.Plan {
    var plan = EncoderComparison.Plan()
    plan.seeds = [1, 2]
    plan.lengths = [8, 16]
    plan.longest = 32
    plan.testLengths = [12, 20]
    plan.lengthExamples = 10
    plan.longestNaiveTest = 12
    plan.base.data.length = 8
    plan.base.data.attributes = 2
    plan.base.data.validationExamples = 20
    plan.base.data.testExamples = 30
    plan.base.training.steps = 6
    plan.base.training.batchSize = 8
    plan.base.training.validationInterval = 3
    plan.base.model.embeddingWidth = 16
    plan.base.model.headWidth = 16
    plan.base.model.encoder.width = 16
    plan.base.model.encoder.innerWidth = 16
    plan.base.model.encoder.heads = 2
    plan.base.model.encoder.mixerWidth = 16
    return plan
  }

  private func accuracies(_ report: EncoderReport) -> [[Double]] {
    report.rows.map { $0.trials.map(\.accuracy) }
  }

  @Test("A row a family with matched sizes; a rerun reads what is finished")
  func finished() throws {
    let folder = try TemporaryFolder()
    let comparison = EncoderComparison(plan, folder: folder.path)
    guard case .finished(let report) = try comparison.run(shouldStop: { false }) else {
      Issue.record("not finished")
      return
    }
    #expect(report.rows.map(\.family) == EncoderFamily.allCases)
    #expect(report.chance == 0.25)
    let target = Double(report.rows[0].parameters)
    for row in report.rows {
      #expect(abs(Double(row.parameters) / target - 1) <= 0.05, "\(row.family)")
      #expect(row.trials.map(\.seed) == [1, 2])
      #expect(row.trials.allSatisfy { $0.testExamples == 30 && (1...6).contains($0.steps) })
      #expect(
        row.costs.map(\.length) == (row.family == .multiMask ? [8, 16, 32] : [8, 16]))
      #expect(
        row.trials[0].byLength.map(\.length) == (row.family == .directional ? [12] : [12, 20]))
      #expect(row.costs.allSatisfy { $0.milliseconds > 0 })
      #expect(report.text.contains(row.family.name))
    }
    guard case .finished(let again) = try comparison.run(shouldStop: { true }) else {
      Issue.record("a finished comparison did not read its results")
      return
    }
    #expect(again == report)
    try comparison.remove()
    #expect(!FileManager.default.fileExists(atPath: folder.path("mtsa")))
  }

  @Test("Interrupted anywhere, it continues to the same accuracies")
  func interrupted() throws {
    let (whole, parts) = (try TemporaryFolder(), try TemporaryFolder())
    var plan = plan
    plan.families = [.multiMask, .recurrent]
    guard
      case .finished(let expected) = try EncoderComparison(plan, folder: whole.path)
        .run(shouldStop: { false })
    else {
      Issue.record("not finished")
      return
    }
    var asked = 0
    var found: EncoderReport?
    for _ in 0..<60 where found == nil {
      let outcome = try EncoderComparison(plan, folder: parts.path).run {
        asked += 1
        return asked % 25 == 0
      }
      if case .finished(let report) = outcome { found = report }
    }
    #expect(found.map(accuracies) == accuracies(expected))
  }
}

@Suite("Trials of classifiers", .serialized)
struct ClassifierTrialsTests {
  init() { Runtime.threadCount = 1 }

  private func tiny() -> ClassifierConfiguration {
    var run = ClassifierConfiguration()
    run.model.resize(toWidth: 16)
    run.model.encoder.blocks = 1
    run.training.steps = 20
    run.training.learningRate = 1e-2
    run.training.warmUpSteps = 2
    run.training.batchSize = 8
    run.training.validationInterval = 10
    return run
  }

  /// A question of two words, whose first decides.
  private func questions(_ count: Int) -> String {
    (0..<count).map {
      ($0 % 2 == 0 ? "NUM:count many" : "LOC:city where") + " word\($0 / 2 % 7) ?\n"
    }
    .joined()
  }

  @Test("Every seed and fold is trained and tested once; words and labels are kept")
  func crossValidation() throws {
    let folder = try TemporaryFolder()
    try folder.write("questions.txt", questions(60))
    var run = tiny()
    run.data.source = .questions
    run.data.training = folder.path("questions.txt")
    run.data.folds = 3
    let trials = ClassifierTrials(run, seeds: [1, 2], folder: folder.path("out"))
    guard case .finished(let summary) = try trials.run(shouldStop: { false }) else {
      Issue.record("not finished")
      return
    }
    #expect(
      summary.trials.map(\.name) == (0..<3).flatMap { ["seed-1-fold-\($0)", "seed-2-fold-\($0)"] })
    #expect(summary.confusion.total == 2 * 60)
    #expect(summary.accuracy.mean > 0.9)
    guard case .finished(let again) = try trials.run(shouldStop: { true }) else {
      Issue.record("finished trials did not read their reports")
      return
    }
    #expect(again == summary)

    let trained = try TrainedClassifier(folder: folder.path("out/seed-1-fold-0"))
    #expect(trained.labels.contains("NUM"))
    let report = try #require(
      ClassifierReport(
        of: trained.model, name: "own", on: trained.testExamples(), shouldStop: { false }))
    #expect(report.scores == summary.trials[0].scores)
    let all = try trained.testExamples(file: folder.path("questions.txt"))
    #expect(all.examples.count == 60)
  }

  @Test("A generated task has no file to evaluate; an untrained folder no model")
  func refusals() throws {
    let folder = try TemporaryFolder()
    var run = tiny()
    run.data.length = 6
    run.data.attributes = 2
    run.data.trainingExamples = 40
    run.data.validationExamples = 10
    run.data.testExamples = 10
    guard
      case .finished = try ClassifierTrials(run, seeds: [1], folder: folder.path)
        .run(shouldStop: { false })
    else {
      Issue.record("not finished")
      return
    }
    let trained = try TrainedClassifier(folder: folder.path("seed-1"))
    #expect(throws: ConfigurationError.self) { try trained.testExamples(file: "some.txt") }
    #expect(throws: CheckpointError.self) {
      try TrainedClassifier(folder: folder.path("elsewhere"))
    }
  }
}
