import Evaluation
import Foundation
import Models
import NN
import TestSupport
import Testing
import Text
import Torch
import Training

private func model(_ attention: String = "window:16") throws -> Llama {
  var configuration = LlamaConfiguration()
  configuration.width = 16
  configuration.innerWidth = 32
  configuration.layers = 2
  configuration.heads = 2
  configuration.groups = 2
  configuration.headWidth = 8
  configuration.initialDeviation = 0.3
  configuration.attention = try AttentionStack(parsing: attention)
  return try Llama(configuration, initializer: Initializer(seed: 5))
}

private let text = (0..<2000).map { UInt8(truncatingIfNeeded: $0 &* $0 &+ $0 >> 3) }

@Suite("Perplexity reports")
struct PerplexityTests {
  // Tests run side by side: more threads for such small tensors would only wait for one another.
  init() { Runtime.threadCount = 1 }

  private func report(_ model: Llama, contexts: [Int] = [512, 64, 128]) throws -> PerplexityReport {
    try PerplexityReport(
      of: model, name: "test", text: text, contexts: contexts, tokens: 1600,
      shouldStop: { false })
  }

  @Test("Rows equal a direct computation of the loss")
  func direct() throws {
    let model = try model()
    let report = try report(model)
    #expect(report.lengths.map(\.context) == [64, 128, 512])
    #expect(report.tokens == 1536)
    let windows = try EvaluationWindows(text: text, tokens: 1600, longestContext: 512)
    for row in report.lengths {
      let expected = validationLoss(model, windows, context: row.context, batchTokens: 1 << 20)
      #expect(abs(row.loss - expected) < 1e-5)
      #expect(abs(row.perplexity - exp(row.loss)) < 1e-9 * row.perplexity)
      #expect(row.millisecondsPerToken > 0)
    }
  }

  @Test("Losses by position average to the loss of the longest context, over all positions")
  func positions() throws {
    let report = try report(try model("full"))
    #expect(report.positions.map(\.from) == [0, 64, 128, 256])
    #expect(report.positions.map(\.to) == [64, 128, 256, 512])
    let mean = report.positions.map { $0.loss * Double($0.to - $0.from) }.reduce(0, +) / 512
    #expect(abs(mean - (report.lengths.last?.loss ?? 0)) < 1e-9)
  }

  @Test("A window of one token makes the context length irrelevant")
  func windowedContexts() throws {
    let report = try report(try model("window:1"), contexts: [64, 512])
    #expect(abs(report.lengths[0].loss - report.lengths[1].loss) < 1e-5)
  }

  @Test("A report survives JSON, and its table shows its numbers")
  func output() throws {
    let report = try report(try model())
    let folder = try TemporaryFolder()
    try JSONFile.write(report, to: folder.path("report.json"))
    #expect(JSONFile.read(PerplexityReport.self, from: folder.path("report.json")) == report)
    for row in report.lengths {
      #expect(report.text.contains(String(format: "%.4f", row.loss)))
      #expect(report.text.contains("\(row.context)"))
    }
    let keys = try String(contentsOfFile: folder.path("report.json"), encoding: .utf8)
    #expect(keys.contains("\"ms_per_token\""))
  }

  @Test("Contexts that do not divide the longest, none at all, and short texts are refused")
  func errors() throws {
    let model = try model()
    #expect(throws: EvaluationError.unevenContexts(100, longest: 512)) {
      try report(model, contexts: [100, 512])
    }
    #expect(throws: EvaluationError.noContexts) { try report(model, contexts: []) }
    #expect(throws: CorpusError.self) { try report(model, contexts: [4096]) }
  }

  @Test("Asked to stop, it stops")
  func interruption() throws {
    let model = try model()
    #expect(throws: EvaluationError.interrupted) {
      try PerplexityReport(
        of: model, name: "", text: text, contexts: [64], tokens: 640, shouldStop: { true })
    }
  }
}

@Suite("Peak memory")
struct PeakMemoryTests {
  @Test("The growth while work runs is at least what it touches, although it is freed in the end")
  func growth() async throws {
    try #require(PeakMemory.resident != nil, "needs /proc")
    // In a process of its own, where no other test allocates.
    await #expect(processExitsWith: .success) {
      let (sum, bytes) = PeakMemory.growth {
        [UInt8](repeating: 1, count: 80_000_000).reduce(0) { $0 &+ Int($1) }
      }
      precondition(sum == 80_000_000)
      // The kernel counts pages in batches a processor, so the mark is off by some of these.
      if let bytes { precondition((75_000_000..<160_000_000).contains(bytes), "grew by \(bytes)") }
    }
  }
}
