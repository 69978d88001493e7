import Testing
import Text

@Suite("Scores")
struct ScoreTests {
  /// Rows are actual labels:  a: 5 1 0   b: 2 3 1   c: 0 0 4
  static let matrix: ConfusionMatrix = {
    var matrix = ConfusionMatrix(labels: ["a", "b", "c"])
    matrix.add(
      actual: [0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2],
      predicted: [0, 0, 0, 0, 0, 1, 0, 0, 1, 1, 1, 2, 2, 2, 2, 2])
    return matrix
  }()

  @Test("Accuracy, precision, recall and F1 are those computed by hand")
  func confusion() {
    let matrix = Self.matrix
    #expect(matrix.counts == [[5, 1, 0], [2, 3, 1], [0, 0, 4]])
    #expect(matrix.total == 16 && matrix.correct == 12 && matrix.accuracy == 0.75)
    #expect((0..<3).map(matrix.support) == [6, 6, 4])
    #expect((0..<3).map(matrix.predictions) == [7, 4, 5])
    let precision: [Double] = [5.0 / 7, 3.0 / 4, 4.0 / 5]
    let recall: [Double] = [5.0 / 6, 3.0 / 6, 1]
    let f1: [Double] = [10.0 / 13, 6.0 / 10, 8.0 / 9]
    let macroF1: Double = f1.reduce(0, +) / 3
    #expect((0..<3).map(matrix.precision) == precision)
    #expect((0..<3).map(matrix.recall) == recall)
    #expect((0..<3).map(matrix.f1) == f1)
    #expect(matrix.macroF1 == macroF1)
    #expect(matrix.microF1() == 0.75)
    // Without a: 7 right of 10 actual and 9 predicted.
    #expect(matrix.microF1(excluding: ["a"]) == 14.0 / 19)
  }

  @Test("Padding does not count, labels that never occur do not lower the mean")
  func ignored() {
    var matrix = ConfusionMatrix(labels: ["a", "b", "never"])
    matrix.add(actual: [0, LabeledBatch.ignoredTarget, 1], predicted: [0, 2, 1])
    #expect(matrix.total == 2 && matrix.accuracy == 1 && matrix.macroF1 == 1)
    #expect(matrix.precision(2) == 0 && matrix.f1(2) == 0)
    let none = ConfusionMatrix(labels: ["a"])
    #expect(none.accuracy == 0 && none.macroF1 == 0 && none.microF1() == 0)
  }

  @Test("Matrices of folds add up")
  func sum() {
    var matrix = Self.matrix
    matrix.add(Self.matrix)
    #expect(matrix.total == 32 && matrix.accuracy == 0.75 && matrix.counts[1] == [4, 6, 2])
  }

  static let tags = ["O", "B-A", "I-A", "B-B", "I-B"]

  @Test(
    "Spans in tags, also where one begins with I",
    arguments: [
      ([1, 2, 0, 3], ["A 0..<2", "B 3..<4"]),
      ([1, 1, 2], ["A 0..<1", "A 1..<3"]),
      ([2, 2, 0, 4], ["A 0..<2", "B 3..<4"]),
      ([1, 4, 4, 2], ["A 0..<1", "B 1..<3", "A 3..<4"]),
      ([0, 0], []), ([], []),
    ] as [([Int], [String])])
  func spans(tags: [Int], expected: [String]) {
    let spans = SpanScore(labels: Self.tags).spans(tags)
    #expect(spans.map { "\($0.type) \($0.tokens)" } == expected)
  }

  @Test("A span counts if both its ends and its type are right")
  func spanScore() {
    var score = SpanScore(labels: Self.tags)
    // A 0..<2 is found; B 3..<5 is found too short; A 6..<7 is taken for B; one B is invented.
    score.add(actual: [1, 2, 0, 3, 4, 0, 1, 0], predicted: [1, 2, 0, 3, 0, 0, 3, 3])
    score.add(actual: [3, LabeledBatch.ignoredTarget], predicted: [3, 1])
    #expect(score.overall.correct == 2)
    #expect(score.overall.predicted == 5 && score.overall.actual == 4)
    #expect(score.overall.precision == 0.4 && score.overall.recall == 0.5)
    #expect(score.overall.f1 == 4.0 / 9)
    #expect(score.types["A"]?.f1 == 2.0 / 3)
    #expect(score.types["B"]?.f1 == 2.0 / 6)
  }

  @Test("Excluded types do not count")
  func excluded() {
    var score = SpanScore(labels: Self.tags, excluding: ["B"])
    score.add(actual: [1, 3], predicted: [0, 3])
    #expect(score.overall.actual == 1 && score.overall.predicted == 0 && score.overall.f1 == 0)
  }

  @Test("Mean and standard deviation")
  func meanAndDeviation() {
    let many = MeanAndDeviation([2, 4, 4, 4, 5, 5, 7, 9])
    #expect(many.mean == 5 && many.count == 8)
    let deviation = (32.0 / 7).squareRoot()
    #expect(many.deviation == deviation)
    #expect(many.description == "5.0000 ± 2.1381")
    #expect(many.text(scale: 100, digits: 1) == "500.0 ± 213.8")
    let one = MeanAndDeviation([0.5])
    #expect(one.deviation == nil && one.description == "0.5000")
  }
}
