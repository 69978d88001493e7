import Evaluation
import Testing
import Text

@Suite("Tables of scores")
struct ConfusionTableTests {
  @Test("Few labels: scores of each and all counts")
  func counts() {
    var matrix = ConfusionMatrix(labels: ["yes", "no"])
    matrix.add(actual: [0, 0, 0, 1], predicted: [0, 0, 1, 1])
    let text = matrix.text()
    #expect(text.hasPrefix("4 predictions, accuracy 75.00 %, macro F1 73.33 %\n"))
    let rows = text.split(separator: "\n").map { $0.split(separator: " ").map(String.init) }
    #expect(rows.contains(["yes", "3", "2", "100.00", "66.67", "80.00"]))
    #expect(rows.contains(["no", "1", "2", "50.00", "100.00", "66.67"]))
    #expect(rows.contains(["actual", "yes", "no"]))
    #expect(rows.contains(["yes", "2", "1"]) && rows.contains(["no", "0", "1"]))
  }

  @Test("Many labels: the most frequent confusions, in order")
  func confusions() {
    var matrix = ConfusionMatrix(labels: ["a", "b", "c"])
    matrix.add(actual: [0, 0, 0, 1, 2, 2], predicted: [1, 1, 0, 2, 2, 0])
    let rows = matrix.text(limit: 2).split(separator: "\n").suffix(2)
      .map { $0.split(separator: " ").map(String.init) }
    #expect(rows == [["a", "b", "2"], ["b", "c", "1"]])
  }

  @Test("Spans: each type and all together")
  func spans() {
    var score = SpanScore(labels: ["O", "B-X", "I-X", "B-Y", "I-Y"])
    score.add(actual: [1, 2, 0, 3], predicted: [1, 2, 0, 0])
    let rows = score.text.split(separator: "\n").map { $0.split(separator: " ").map(String.init) }
    #expect(rows.contains(["X", "1", "1", "100.00", "100.00", "100.00"]))
    #expect(rows.contains(["Y", "1", "0", "0.00", "0.00", "0.00"]))
    #expect(rows.contains(["all", "2", "1", "100.00", "50.00", "66.67"]))
  }
}
