import Foundation
import Text

extension ConfusionMatrix {
  /// The matrix as two tables: precision, recall and F1 of each label, then the counts, with actual
  /// labels in rows and predicted ones in columns. Counts of more than `limit` labels give way to the most
  /// frequent confusions.
  public func text(limit: Int = 12) -> String {
    let percent = { (value: Double) in String(format: "%.2f", value * 100) }
    let scores = table(
      ["label", "examples", "predicted", "precision", "recall", "F1"],
      labels.indices.map { label in
        [labels[label], "\(support(label))", "\(predictions(label))"]
          + [precision(label), recall(label), f1(label)].map(percent)
      })
    let known = labels.count <= limit
    return """
      \(total) predictions, accuracy \(percent(accuracy)) %, macro F1 \(percent(macroF1)) %

      \(scores)
      \(known ? "Actual (rows) and predicted (columns):" : "The most frequent confusions:")

      \(known ? countTable : confusionTable(limit))
      """
  }

  private var countTable: String {
    table(
      ["actual"] + labels,
      labels.indices.map { label in [labels[label]] + counts[label].map(String.init) })
  }

  private func confusionTable(_ limit: Int) -> String {
    var confusions: [(count: Int, actual: Int, predicted: Int)] = []
    for actual in labels.indices {
      for predicted in labels.indices where predicted != actual && counts[actual][predicted] > 0 {
        confusions.append((counts[actual][predicted], actual, predicted))
      }
    }
    confusions.sort { ($1.count, $0.actual, $0.predicted) < ($0.count, $1.actual, $1.predicted) }
    return table(
      ["actual", "predicted", "examples"],
      confusions.prefix(limit).map { [labels[$0.actual], labels[$0.predicted], "\($0.count)"] },
      leftAligned: 2)
  }
}

extension SpanScore {
  /// Precision, recall and F1 of each type of span and of all together, as a table.
  public var text: String {
    let percent = { (value: Double) in String(format: "%.2f", value * 100) }
    let rows =
      types.sorted { $0.key < $1.key }.map { ($0.key, $0.value) } + [("all", overall)]
    return table(
      ["span", "actual", "predicted", "precision", "recall", "F1"],
      rows.map { name, matches in
        [name, "\(matches.actual)", "\(matches.predicted)"]
          + [matches.precision, matches.recall, matches.f1].map(percent)
      })
  }
}
