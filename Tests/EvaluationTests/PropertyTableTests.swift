import Evaluation
import Folding
import Foundation
import TensorizedAttention
import Testing

@Suite struct PropertyTableTests {
  static let pattern = AttentionPattern(fold: Fold([4, 4, 4]), support: .blockCausal)

  @Test("the table names the reach and every property")
  func text() throws {
    let report = try PatternProperties(of: Self.pattern, tokens: 48).report()
    let reach = Self.pattern.reach(tokens: 48)
    #expect(report.text.contains("\(reach.reached)/\(reach.possible)"))
    #expect(report.text.contains("of 64 tokens 1000/2080 (48.1 %)"))
    for check in report.checks { #expect(report.text.contains(check.name)) }
  }

  @Test("the JSON is read back")
  func json() throws {
    let report = try PatternProperties(of: Self.pattern, tokens: 64).report()
    let text = try JSONFile.text(report)
    let copy = try JSONDecoder().decode(PropertyReport.self, from: Data(text.utf8))
    #expect(copy.passed && copy.reach == Reach(reached: 1000, possible: 2080))
    #expect(copy.pattern == Self.pattern)
    #expect(copy.checks.map(\.name) == report.checks.map(\.name))
  }
}
