import Evaluation
import Foundation
import NN
import TestSupport
import Testing
import Text
import Torch
import Training

@Suite("Comparing kinds of attention", .serialized)
struct ComparisonTests {
  // Tests run side by side: more threads for such small tensors would only wait for one another.
  init() { Runtime.threadCount = 1 }

  private let corpus = Corpus(
    training: Array(String(repeating: "func add(a: Int) -> Int { a + 1 }\n", count: 50).utf8),
    validation: Array(String(repeating: "func sub(b: Int) -> Int { b - 1 }\n", count: 20).utf8))

  private func comparison(_ folder: TemporaryFolder) throws -> Comparison {
    var base = RunConfiguration()
    base.model.width = 16
    base.model.innerWidth = 32
    base.model.layers = 1
    base.model.heads = 2
    base.model.groups = 2
    base.model.headWidth = 8
    base.training.steps = 6
    base.training.context = 64
    base.training.batchSize = 2
    base.training.validationTokens = 64
    base.training.checkpointInterval = 2
    return Comparison(
      base: base,
      kinds: [
        AttentionStack([.full]), AttentionStack([.window(8)]),
        try AttentionStack(parsing: "tensorized:4x8"),
      ], contexts: [64, 128], tokens: 256, folder: folder.path)
  }

  @Test("One row a kind, at equal steps; a rerun reads what is finished")
  func finished() throws {
    let folder = try TemporaryFolder()
    let comparison = try comparison(folder)
    guard case .finished(let summary) = try comparison.run(corpus: corpus, shouldStop: { false })
    else {
      Issue.record("not finished")
      return
    }
    #expect(summary.rows.map(\.report.name) == ["full", "window 8", "tensorized 4x8"])
    #expect(summary.rows.map(\.keysPerToken) == [nil, 8, 12])
    // Equal but for β: one scalar a head.
    let counts = summary.rows.map(\.report.parameters)
    #expect(counts[0] == counts[1] && counts[2] == counts[0] + 2)
    for row in summary.rows {
      #expect(row.report.lengths.map(\.context) == [64, 128])
      for length in row.report.lengths {
        #expect(summary.text.contains(String(format: "%.4f", length.loss)))
      }
    }
    let lines = try MetricsFile.read(comparison.path(comparison.kinds[0]) + "/metrics.jsonl")
    #expect(lines.compactMap(\.loss).count == 6)
    guard case .finished(let again) = try comparison.run(corpus: corpus, shouldStop: { true })
    else {
      Issue.record("a finished comparison did not read its reports")
      return
    }
    #expect(again == summary)
  }

  @Test("Interrupted anywhere, it continues to the same losses")
  func interrupted() throws {
    let (whole, parts) = (try TemporaryFolder(), try TemporaryFolder())
    guard
      case .finished(let expected) = try comparison(whole).run(
        corpus: corpus, shouldStop: { false })
    else {
      Issue.record("not finished")
      return
    }
    var asked = 0
    var found: ComparisonSummary?
    for _ in 0..<20 where found == nil {
      // Stops at every fifth question: within trainings and within evaluations.
      let outcome = try comparison(parts).run(corpus: corpus) {
        asked += 1
        return asked % 5 == 0
      }
      if case .finished(let summary) = outcome { found = summary }
    }
    let losses = { (summary: ComparisonSummary) in
      summary.rows.map { $0.report.lengths.map(\.loss) }
    }
    #expect(found.map(losses) == losses(expected))
  }
}
