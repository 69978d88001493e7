import Text

/// How well a model's answers fit a dataset.
public struct ClassifierScores: Codable, Sendable, Hashable {
  /// The mean cross entropy of the targets in nats.
  public let loss: Double
  /// How often each label was taken for each other.
  public let confusion: ConfusionMatrix
  /// The matches of tagged spans, for tags in BIO form.
  public let spans: SpanScore?

  /// Scores answers.
  public init(_ predictions: Predictions, on dataset: TokenDataset) {
    loss = predictions.loss
    var confusion = ConfusionMatrix(labels: dataset.labels)
    var spans = dataset.hasSpans ? SpanScore(labels: dataset.labels, excluding: ["V"]) : nil
    for (example, classes) in zip(dataset.examples, predictions.classes) {
      confusion.add(actual: example.targets, predicted: classes)
      spans?.add(actual: example.targets, predicted: classes)
    }
    self.confusion = confusion
    self.spans = spans
  }

  /// The share of targets that were found.
  public var accuracy: Double { confusion.accuracy }

  /// F1: of all spans together, or the mean over labels.
  public var f1: Double { spans?.overall.f1 ?? confusion.macroF1 }

  /// What early stopping goes by: the F1 of spans where there are any, else the accuracy.
  public var decisive: Double { spans?.overall.f1 ?? accuracy }
}

extension LabeledDataset {
  /// Whether targets are tags that spell spans.
  fileprivate var hasSpans: Bool {
    kind == .tagging
      && labels.allSatisfy { $0 == "O" || $0.hasPrefix("B-") || $0.hasPrefix("I-") }
  }
}
