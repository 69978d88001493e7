import Foundation
import Models
import Text
import Training

/// How well a classifier answers one set of examples.
public struct ClassifierReport: Codable, Sendable, Hashable {
  /// What was evaluated.
  public let name: String
  /// The number of scalars in the model's parameters.
  public let parameters: Int
  /// The number of optimizer steps, nil where that is not known.
  public let steps: Int?
  /// The seconds of training, nil where that is not known.
  public let seconds: Double?
  /// The loss, and what was taken for what.
  public let scores: ClassifierScores
  /// The share of targets that were found.
  public let accuracy: Double
  /// F1 of spans, or the mean over labels.
  public let f1: Double

  /// Evaluates a model; nil if asked to stop.
  public init?(
    of model: SequenceModel, name: String, on dataset: TokenDataset, steps: Int? = nil,
    seconds: Double? = nil, shouldStop: () -> Bool = { Interruption.isRequested }
  ) {
    guard
      let predictions = Predictions(
        of: model, for: dataset, batchSize: 64, shouldStop: shouldStop)
    else { return nil }
    self.name = name
    parameters = model.parameterCount
    self.steps = steps
    self.seconds = seconds
    scores = ClassifierScores(predictions, on: dataset)
    accuracy = scores.accuracy
    f1 = scores.f1
  }

  /// The scores as tables.
  public var text: String {
    let head = String(
      format: "%@: loss %.4f, accuracy %.2f %%, %@ %.2f %%", name as NSString, scores.loss,
      100 * accuracy, (scores.spans == nil ? "macro F1" : "span F1") as NSString, 100 * f1)
    return [head, scores.confusion.text(), scores.spans?.text].compactMap { $0 }
      .joined(separator: "\n\n")
  }
}

/// The reports of repeated trainings, and what they have in common.
public struct ClassifierSummary: Codable, Sendable, Hashable {
  /// A report a trial.
  public let trials: [ClassifierReport]
  /// The accuracy over trials.
  public let accuracy: MeanAndDeviation
  /// The F1 over trials.
  public let f1: MeanAndDeviation
  /// What was taken for what, in all trials together.
  public let confusion: ConfusionMatrix

  /// Sums up trials, at least one.
  public init(trials: [ClassifierReport]) {
    self.trials = trials
    accuracy = MeanAndDeviation(trials.map(\.accuracy))
    f1 = MeanAndDeviation(trials.map(\.f1))
    confusion = trials.dropFirst().reduce(into: trials[0].scores.confusion) {
      $0.add($1.scores.confusion)
    }
  }

  /// The one table: a row a trial, their mean and standard deviation, then the labels.
  public var text: String {
    let f1Name = trials[0].scores.spans == nil ? "macro F1 %" : "span F1 %"
    let percent = { (value: Double) in String(format: "%.2f", 100 * value) }
    let rows =
      trials.map { trial in
        [
          trial.name, trial.steps.map(String.init) ?? "–",
          trial.seconds.map { String(format: "%.0f", $0) } ?? "–",
          String(format: "%.4f", trial.scores.loss), percent(trial.accuracy), percent(trial.f1),
        ]
      } + [
        [
          "mean ± sd", "", "", "", accuracy.text(scale: 100, digits: 2),
          f1.text(scale: 100, digits: 2),
        ]
      ]
    let trialTable = table(["trial", "steps", "seconds", "loss", "accuracy %", f1Name], rows)
    return "\(trialTable)\n\(confusion.text())"
      + (trials.count == 1 ? trials[0].scores.spans.map { "\n" + $0.text } ?? "" : "")
  }
}
