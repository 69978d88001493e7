import Folding

/// How often each label was taken for each other, and the scores that follow from it.
///
/// With c(i, j) examples of label i that were predicted as label j:
///
///     precision(k) = c(k, k) / Σ_i c(i, k)        recall(k) = c(k, k) / Σ_j c(k, j)
///     F1(k) = 2 c(k, k) / (Σ_i c(i, k) + Σ_j c(k, j))
///     accuracy = Σ_k c(k, k) / Σ_ij c(i, j)
///
/// A ratio without a denominator is 0.
public struct ConfusionMatrix: Sendable, Hashable, Codable {
  /// The names of the labels.
  public let labels: [String]
  /// Counts by actual label, then by predicted label.
  public private(set) var counts: [[Int]]

  /// A matrix without examples.
  public init(labels: [String]) {
    self.labels = labels
    counts = Array(repeating: Array(repeating: 0, count: labels.count), count: labels.count)
  }

  /// Counts predictions. Places whose actual label is ``LabeledBatch/ignoredTarget`` are left out.
  ///
  /// - Precondition: as many actual as predicted labels, all of them indices into ``labels``.
  public mutating func add(actual: some Collection<Int>, predicted: some Collection<Int>) {
    require(
      actual.count == predicted.count,
      "Expected a prediction for each of \(actual.count) labels, got \(predicted.count).")
    for (label, prediction) in zip(actual, predicted) where label != LabeledBatch.ignoredTarget {
      require(
        labels.indices.contains(label) && labels.indices.contains(prediction),
        "Expected labels in 0..<\(labels.count), got \(label) and \(prediction).")
      counts[label][prediction] += 1
    }
  }

  /// Adds another matrix of the same labels, such as another fold's.
  public mutating func add(_ other: ConfusionMatrix) {
    require(labels == other.labels, "Expected the labels \(labels), got \(other.labels).")
    for label in labels.indices {
      for prediction in labels.indices {
        counts[label][prediction] += other.counts[label][prediction]
      }
    }
  }

  /// The number of predictions.
  public var total: Int { counts.joined().reduce(0, +) }

  /// The number of predictions that were right.
  public var correct: Int { labels.indices.map { counts[$0][$0] }.reduce(0, +) }

  /// The share of predictions that were right.
  public var accuracy: Double { ratio(correct, total) }

  /// The number of examples of a label.
  public func support(_ label: Int) -> Int { counts[label].reduce(0, +) }

  /// The number of predictions of a label.
  public func predictions(_ label: Int) -> Int { counts.map { $0[label] }.reduce(0, +) }

  /// The share of a label's predictions that were right.
  public func precision(_ label: Int) -> Double { ratio(counts[label][label], predictions(label)) }

  /// The share of a label's examples that were found.
  public func recall(_ label: Int) -> Double { ratio(counts[label][label], support(label)) }

  /// The harmonic mean of a label's precision and recall.
  public func f1(_ label: Int) -> Double {
    ratio(2 * counts[label][label], support(label) + predictions(label))
  }

  /// The mean F1 of the labels that occur, among the examples or the predictions.
  public var macroF1: Double {
    let occurring = labels.indices.filter { support($0) + predictions($0) > 0 }
    return occurring.isEmpty ? 0 : occurring.map(f1).reduce(0, +) / Double(occurring.count)
  }

  /// The F1 of the sums over some labels; over all of them it equals the accuracy.
  ///
  /// - Parameter excluding: labels that do not count as found or predicted, such as `O`.
  public func microF1(excluding: Set<String> = []) -> Double {
    let counted = labels.indices.filter { !excluding.contains(labels[$0]) }
    return ratio(
      2 * counted.map { counts[$0][$0] }.reduce(0, +),
      counted.map { support($0) + predictions($0) }.reduce(0, +))
  }
}

/// Right, predicted and actual numbers of something, and the scores that follow.
public struct Matches: Sendable, Hashable, Codable {
  /// How many were predicted and right.
  public var correct = 0
  /// How many were predicted.
  public var predicted = 0
  /// How many there were.
  public var actual = 0

  /// No matches.
  public init() {}

  /// correct / predicted.
  public var precision: Double { ratio(correct, predicted) }
  /// correct / actual.
  public var recall: Double { ratio(correct, actual) }
  /// The harmonic mean of precision and recall.
  public var f1: Double { ratio(2 * correct, predicted + actual) }
}

/// A ratio, 0 without a denominator.
private func ratio(_ numerator: Int, _ denominator: Int) -> Double {
  denominator == 0 ? 0 : Double(numerator) / Double(denominator)
}
