import Foundation
import Models
import NN
import Text
import Torch
import Training

/// The same model, trained with several kinds of attention on the same batches, and evaluated alike.
///
/// Everything is written into one folder, a part a kind:
///
///     folder/KIND/config.json, metrics.jsonl, checkpoints/   see TrainingRun
///     folder/KIND/report.json                                 ComparisonRow
///     folder/summary.json                                      all rows
///     folder/*.png                                             the figures
public struct Comparison {
  /// What all kinds share.
  public let base: RunConfiguration
  /// The kinds of attention.
  public let kinds: [AttentionStack]
  /// The context lengths of the evaluation.
  public let contexts: [Int]
  /// The number of validation tokens.
  public let tokens: Int
  /// Where everything is written.
  public let folder: String

  /// Plans a comparison.
  public init(
    base: RunConfiguration, kinds: [AttentionStack], contexts: [Int], tokens: Int, folder: String
  ) {
    self.base = base
    self.kinds = kinds
    self.contexts = contexts
    self.tokens = tokens
    self.folder = folder
  }

  /// How a comparison ended.
  public enum Outcome {
    /// All parts are done.
    case finished(ComparisonSummary)
    /// Asked to stop; running again continues.
    case interrupted
  }

  /// Runs what is not done yet: finished parts are read from their reports, an interrupted training
  /// continues from its checkpoint.
  ///
  /// - Throws: the errors of ``TrainingRun`` and ``PerplexityReport``.
  public func run(
    corpus: Corpus, shouldStop: () -> Bool = { Interruption.isRequested }
  ) throws -> Outcome {
    try corpus.requireContext(
      training: base.training.context, validation: contexts.max() ?? base.training.context)
    var rows: [ComparisonRow] = []
    for (index, kind) in kinds.enumerated() {
      let label = "\(index + 1)/\(kinds.count) \(kind.name)"
      guard let row = try row(kind, label: label, corpus: corpus, shouldStop: shouldStop) else {
        return .interrupted
      }
      rows.append(row)
    }
    let summary = ComparisonSummary(trainedContext: base.training.context, rows: rows)
    try JSONFile.write(summary, to: folder + "/summary.json")
    return .finished(summary)
  }

  /// The folder of one kind.
  public func path(_ kind: AttentionStack) -> String {
    let name = kind.description.map { $0.isLetter || $0.isNumber ? $0 : "-" }
    return folder + "/" + String(name)
  }

  private func row(
    _ kind: AttentionStack, label: String, corpus: Corpus, shouldStop: () -> Bool
  ) throws -> ComparisonRow? {
    var configuration = base
    configuration.model.attention = kind
    let path = path(kind)
    let run = try TrainingRun(configuration, corpus: corpus, folder: path)
    let report = path + "/report.json"
    if run.step == base.training.steps,
      let row = JSONFile.read(ComparisonRow.self, from: report),
      row.report.lengths.map(\.context) == contexts.sorted()
    {
      return row
    }
    guard try run.run(label: "training \(label)", shouldStop: shouldStop) == .finished else {
      return nil
    }
    do {
      let perplexity = try PerplexityReport(
        of: run.model, name: kind.name, text: corpus.validation, contexts: contexts,
        tokens: tokens, shouldStop: shouldStop)
      let row = ComparisonRow(
        keysPerToken: kind.keysPerToken,
        trainingSeconds: run.seconds,
        trainingMillisecondsPerToken: run.seconds * 1000
          / Double(base.training.steps * base.training.tokensPerStep),
        trainingPeakBytes: run.peakBytes(context: contexts.max() ?? base.training.context),
        report: perplexity)
      try JSONFile.write(row, to: report)
      return row
    } catch EvaluationError.interrupted {
      return nil
    }
  }
}

extension TrainingRun {
  /// By how much the resident memory grows at most in the forward and backward pass of one sequence
  /// of `context` tokens. The weights do not change.
  func peakBytes(context: Int) -> Int? {
    defer { for parameter in model.parameters().values { parameter.tensor.grad = nil } }
    let batch = Batch(text: validationText, starts: [0], context: context)
    return PeakMemory.growth { meanLoss(model, batch).backward() }.bytes
  }
}

/// What was measured of one kind of attention.
public struct ComparisonRow: Codable, Sendable, Hashable {
  /// The keys a query of a long sequence meets; nil if they grow with it.
  public var keysPerToken: Int?
  /// The seconds that training took.
  public var trainingSeconds: Double
  /// The same for a training token, in milliseconds.
  public var trainingMillisecondsPerToken: Double
  /// By how much memory grew at most in forward and backward of one longest sequence.
  public var trainingPeakBytes: Int?
  /// The losses.
  public var report: PerplexityReport
}

/// All rows of a comparison.
public struct ComparisonSummary: Codable, Sendable, Hashable {
  /// The context at which all were trained.
  public var trainedContext: Int
  /// A row a kind.
  public var rows: [ComparisonRow]

  /// The one table: validation loss by context length, times, peak memory.
  public var text: String {
    guard let lengths = rows.first?.report.lengths, let longest = lengths.last else { return "" }
    let header =
      ["attention", "keys", "parameters"] + lengths.map { "\($0.context)" }
      + ["train ms", "forward ms", "peak memory"]
    let body = rows.map { row in
      [row.report.name, row.keysPerToken.map(String.init) ?? "all", "\(row.report.parameters)"]
        + row.report.lengths.map(\.loss.formatted4)
        + [
          String(format: "%.3f", row.trainingMillisecondsPerToken),
          String(format: "%.3f", row.report.lengths.last?.millisecondsPerToken ?? .nan),
          megabytes(row.trainingPeakBytes),
        ]
    }
    return """
      Validation loss in nats by context length (trained at \(trainedContext)); ms a token of \
      training at \(trainedContext) and of a forward pass at \(longest.context); peak memory of \
      forward and backward at \(longest.context).

      \(table(header, body))
      """
  }
}
