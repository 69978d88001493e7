import Evaluation
import Foundation
import Testing

@Suite struct MultiMaskBenchmarkTests {
  @Test("a short row is right, complete, and survives JSON")
  func row() throws {
    let rows = try MultiMaskBenchmark(heads: 2, width: 8, budget: 0.001).run([40])
    let row = try #require(rows.first)
    #expect(row.correct, "error \(row.maxError)")
    let times = [
      row.forwardMs, row.forwardBackwardMs, row.plainForwardMs, row.plainForwardBackwardMs,
      row.composedForwardMs, row.composedForwardBackwardMs, row.naiveForwardBackwardMs,
    ]
    #expect(times.allSatisfy { ($0 ?? 0) > 0 }, "\(times)")
    let table = MultiMaskBenchmark.table(rows)
    #expect(table.contains("40 2x8") && table.contains("ok"))
    let objects = try JSONSerialization.jsonObject(with: MultiMaskBenchmark.json(rows))
    let first = (objects as? [[String: Any]])?.first
    #expect(first?["n"] as? Int == 40)
    #expect(first?["forward_backward_ms"] as? Double == row.forwardBackwardMs)
  }

  @Test("an interrupted benchmark returns what it has")
  func interruption() throws {
    let rows = try MultiMaskBenchmark(heads: 2, width: 8).run([40], isInterrupted: { true })
    #expect(rows.isEmpty)
  }
}
