import Folding
import Foundation
import NN
import Text
import Training

/// The demonstration: a small model of source code with full attention, a sliding window, and
/// tensorized attention, trained at equal parameters, steps and (window and tensorized) keys a query.
public struct Demo {
  /// The folder of Swift packages that the build has checked out: text that needs no download.
  public static let text = ".build/checkouts"

  private let folder: String
  private let textPath: String

  /// Plans the demonstration.
  public init(folder: String, text: String = Demo.text) {
    self.folder = folder
    textPath = text
  }

  /// What is compared, with sizes that take about five minutes on two cores.
  ///
  /// In that time two layers see 2.3 million bytes and learn more than four would from half of them.
  public var comparison: Comparison {
    get throws {
      var base = RunConfiguration()
      base.text.path = textPath
      base.text.extensions = ["swift", "md"]
      base.model.width = 128
      base.model.innerWidth = 352
      base.model.layers = 2
      base.model.heads = 4
      base.model.groups = 4
      base.model.headWidth = 32
      base.model.initialDeviation = 0.05
      base.training.steps = 1100
      base.training.context = 1024
      base.training.batchSize = 2
      base.training.learningRate = 2e-3
      base.training.warmUpSteps = 40
      base.training.validationInterval = 100
      base.training.validationTokens = 16_384
      base.training.checkpointInterval = 100
      return Comparison(
        base: base,
        kinds: [
          AttentionStack([.full]), AttentionStack([.window(160)]),
          try AttentionStack(parsing: "tensorized:32x128,sliding-causal,joint"),
        ], contexts: [512, 1024, 2048, 4096, 8192], tokens: 65_536, folder: folder)
    }
  }

  /// How a demonstration ended.
  public enum Outcome {
    /// The table, and the files that hold everything.
    case finished(table: String, files: [String])
    /// Asked to stop; running again continues.
    case interrupted
  }

  /// Runs what is not done yet, or everything if `fresh`.
  ///
  /// - Parameters:
  ///   - report: told what is going on, a sentence at a time.
  /// - Throws: the errors of ``Comparison/run(corpus:shouldStop:)`` and ``Plotter``.
  public func run(fresh: Bool, report: (String) -> Void) throws -> Outcome {
    let comparison = try comparison
    if fresh { try removeParts(of: comparison) }
    let corpus = try comparison.base.text.read()
    report("text: \(corpus.summary)")
    guard case .finished(let summary) = try comparison.run(corpus: corpus) else {
      return .interrupted
    }
    let inputs = comparison.kinds.flatMap { kind in
      ["metrics.jsonl", "report.json"].map {
        (label: kind.name, path: comparison.path(kind) + "/" + $0)
      }
    }
    let figures = try Plotter().draw(inputs, into: folder)
    let table = folder + "/table.txt"
    try Data(summary.text.utf8).write(to: URL(fileURLWithPath: table), options: .atomic)
    return .finished(
      table: summary.text, files: [table, folder + "/summary.json"] + figures)
  }

  /// Deletes what earlier demonstrations wrote, and nothing else in the folder.
  private func removeParts(of comparison: Comparison) throws {
    for path in comparison.kinds.map(comparison.path) { try TrainingRun.remove(path) }
  }
}
