import Foundation

/// One line of a metrics file.
public struct MetricsLine: Codable, Sendable, Hashable {
  /// The number of optimizer steps done when the line was written.
  public var step: Int
  /// The mean loss of the step's tokens in nats.
  public var loss: Double?
  /// The learning rate of the step.
  public var learningRate: Double?
  /// The L2 norm of all gradients before clipping.
  public var gradientNorm: Double?
  /// Training tokens per second since the line before.
  public var tokensPerSecond: Double?
  /// The seconds of training so far, over all resumptions.
  public var seconds: Double?
  /// The loss on the validation text in nats.
  public var validationLoss: Double?

  /// The share of validation targets that were found.
  public var validationAccuracy: Double?
  /// What early stopping goes by: that share, or for tagged spans their F1.
  public var validationScore: Double?

  /// Creates a line; what is nil is left out of the file.
  public init(
    step: Int, loss: Double? = nil, learningRate: Double? = nil, gradientNorm: Double? = nil,
    tokensPerSecond: Double? = nil, seconds: Double? = nil, validationLoss: Double? = nil,
    validationAccuracy: Double? = nil, validationScore: Double? = nil
  ) {
    self.step = step
    self.loss = loss
    self.learningRate = learningRate
    self.gradientNorm = gradientNorm
    self.tokensPerSecond = tokensPerSecond
    self.seconds = seconds
    self.validationLoss = validationLoss
    self.validationAccuracy = validationAccuracy
    self.validationScore = validationScore
  }

  enum CodingKeys: String, CodingKey {
    case step, loss, seconds
    case learningRate = "learning_rate"
    case gradientNorm = "gradient_norm"
    case tokensPerSecond = "tokens_per_second"
    case validationLoss = "validation_loss"
    case validationAccuracy = "validation_accuracy"
    case validationScore = "validation_score"
  }
}

/// A file of metrics, one JSON object a line.
public final class MetricsFile {
  private let handle: FileHandle
  private let encoder: JSONEncoder

  /// Opens the file for a run that continues after `step` steps: lines of later steps, which an
  /// interrupted run wrote after its last checkpoint, are dropped, so no step appears twice.
  ///
  /// - Throws: ``ConfigurationError/unreadable(path:reason:)`` or a file error.
  public init(path: String, continuingAfter step: Int) throws {
    let url = URL(fileURLWithPath: path)
    let kept =
      FileManager.default.fileExists(atPath: path)
      ? try Self.read(path).filter { $0.step <= step } : []
    encoder = JSONEncoder()
    encoder.outputFormatting = [.sortedKeys]
    var text = Data()
    for line in kept { text.append(try encoder.encode(line) + [0x0A]) }
    try text.write(to: url, options: .atomic)
    handle = try FileHandle(forWritingTo: url)
    try handle.seekToEnd()
  }

  /// Appends a line.
  public func append(_ line: MetricsLine) throws {
    try handle.write(contentsOf: encoder.encode(line) + [0x0A])
  }

  /// The lines of a file. A last line that was cut off by a crash is ignored.
  public static func read(_ path: String) throws -> [MetricsLine] {
    let data: Data
    do {
      data = try Data(contentsOf: URL(fileURLWithPath: path))
    } catch {
      throw ConfigurationError.unreadable(path: path, reason: error.localizedDescription)
    }
    let decoder = JSONDecoder()
    return data.split(separator: 0x0A).compactMap {
      try? decoder.decode(MetricsLine.self, from: Data($0))
    }
  }
}
