import Foundation
import Models
import Text

/// What a training with one seed gave.
public struct EncoderTrial: Codable, Sendable, Hashable {
  /// The seed.
  public var seed: UInt64
  /// The share of test examples that were answered rightly, with the weights that were best in
  /// validation.
  public var accuracy: Double
  /// The number of test examples.
  public var testExamples: Int
  /// The accuracy at other lengths than that of the training.
  public var byLength: [Test]
  /// The number of optimizer steps.
  public var steps: Int
  /// The first step after which the validation accuracy was ``goal`` or more, nil if it never was.
  public var stepsToGoal: Int?
  /// The milliseconds of a step.
  public var milliseconds: Double

  /// The accuracy at a length.
  public struct Test: Codable, Sendable, Hashable {
    /// The number of tokens.
    public var length: Int
    /// The share of examples that were answered rightly.
    public var accuracy: Double
  }

  /// The validation accuracy to which steps are counted.
  static let goal = 0.95

  enum CodingKeys: String, CodingKey {
    case seed, accuracy, steps
    case testExamples = "test_examples"
    case byLength = "by_length"
    case stepsToGoal = "steps_to_goal"
    case milliseconds = "step_ms"
  }
}

/// What was measured of one family.
public struct EncoderRow: Codable, Sendable, Hashable {
  /// The family.
  public var family: EncoderFamily
  /// The number of scalars in all parameters.
  public var parameters: Int
  /// The same of the encoder, without tokens' vectors, pooling and head.
  public var encoderParameters: Int
  /// A trial a seed.
  public var trials: [EncoderTrial]
  /// Time and memory by length, as far as they fit.
  public var costs: [EncoderCost]

  enum CodingKeys: String, CodingKey {
    case family, parameters, trials, costs
    case encoderParameters = "encoder_parameters"
  }

  /// The test accuracy over seeds.
  public var accuracy: MeanAndDeviation { MeanAndDeviation(trials.map(\.accuracy)) }

  /// The test accuracy over seeds at another length, nil if it was not measured.
  public func accuracy(length: Int) -> MeanAndDeviation? {
    let found = trials.compactMap { $0.byLength.first { $0.length == length }?.accuracy }
    return found.isEmpty ? nil : MeanAndDeviation(found)
  }

  /// The median steps to a validation accuracy of 95 %, nil if half of the trials or more did not reach
  /// it.
  public var stepsToGoal: Int? {
    let reached = trials.compactMap(\.stepsToGoal).sorted()
    return reached.count > trials.count / 2 ? reached[trials.count / 2] : nil
  }

  /// The mean milliseconds of a training step of the task.
  public var milliseconds: Double {
    MeanAndDeviation(trials.map(\.milliseconds)).mean
  }

  /// The cost at a length, nil if it was not measured.
  public func cost(length: Int) -> EncoderCost? { costs.first { $0.length == length } }
}

/// All rows of an ``EncoderComparison``.
public struct EncoderReport: Codable, Sendable, Hashable {
  /// What was asked for.
  public var plan: EncoderComparison.Plan
  /// The accuracy of guessing.
  public var chance: Double
  /// The most that a model without order can reach, nil if unknown.
  public var orderBlindAccuracy: Double?
  /// A row a family.
  public var rows: [EncoderRow]

  enum CodingKeys: String, CodingKey {
    case plan, chance
    case orderBlindAccuracy = "order_blind_accuracy"
    case rows = "encoders"
  }

  init(plan: EncoderComparison.Plan, rows: [EncoderRow]) {
    self.plan = plan
    chance = plan.data.task?.chance ?? 0
    orderBlindAccuracy = plan.data.task?.orderBlindAccuracy
    self.rows = rows
  }

  /// How many times as much memory DiSA takes as multi-mask attention at a length, nil if not both
  /// were measured.
  public func memoryRatio(length: Int) -> Double? {
    let bytes = { (family: EncoderFamily) in
      rows.first { $0.family == family }?.cost(length: length)?.peakBytes
    }
    guard let naive = bytes(.directional), let tiled = bytes(.multiMask), tiled > 0 else {
      return nil
    }
    return Double(naive) / Double(tiled)
  }

  /// The tables: accuracy at the task's length, then time and memory by length.
  public var text: String {
    let accuracies = table(
      ["encoder", "parameters", "accuracy %", "steps to 95 %", "ms/step"],
      rows.map { row in
        [
          row.family.name, "\(row.parameters)", row.accuracy.text(scale: 100, digits: 1),
          row.stepsToGoal.map(String.init) ?? "–", String(format: "%.1f", row.milliseconds),
        ]
      })
    let tested = Set(rows.flatMap { $0.trials.flatMap { $0.byLength.map(\.length) } }).sorted()
    let byLength = table(
      ["encoder"] + tested.map { "\($0)" },
      rows.map { row in
        [row.family.name]
          + tested.map { row.accuracy(length: $0)?.text(scale: 100, digits: 1) ?? "–" }
      })
    let lengths = Set(rows.flatMap { $0.costs.map(\.length) }).sorted()
    let costs = table(
      ["encoder"] + lengths.map { "\($0)" },
      rows.map { row in [row.family.name] + lengths.map { costText(row, $0) } })
    let (data, training) = (plan.data, plan.base.training)
    let blind = orderBlindAccuracy.map {
      String(format: ", without order at most %.1f %%", 100 * $0)
    }
    let ratio = memoryRatio(length: 512).map {
      String(format: "\nAt 512 tokens DiSA takes %.1f times the memory of MTSA.", $0)
    }
    return """
      Test accuracy on \(data.source.rawValue), \(data.length) tokens, \(plan.seeds.count) seeds, at \
      most \(training.steps) steps of \(training.batchSize) examples; guessing \
      \(String(format: "%.1f %%", 100 * chance))\(blind ?? ""); the median first step with a validation \
      accuracy of 95 %; ms of a training step

      \(accuracies)
      Accuracy of the same models on longer sequences, \(plan.lengthExamples) examples each, %

      \(byLength)
      Forward and backward of one sequence by its length: ms, and by how much memory grew

      \(costs)\(ratio ?? "")
      """
  }

  private func costText(_ row: EncoderRow, _ length: Int) -> String {
    guard let cost = row.cost(length: length) else { return "–" }
    let format = cost.milliseconds < 100 ? "%.1f" : "%.0f"
    return String(format: format, cost.milliseconds) + " / " + megabytes(cost.peakBytes)
  }
}
