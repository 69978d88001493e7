import Foundation
import Models
import Text

/// Everything that determines a run: the text, the model and the training.
public struct RunConfiguration: Codable, Sendable, Hashable {
  /// Where the text comes from.
  public var text = TextConfiguration()
  /// The model.
  public var model = LlamaConfiguration()
  /// The training.
  public var training = TrainingConfiguration()

  /// The defaults.
  public init() {}

  /// Checks every value's range.
  ///
  /// - Throws: ``ConfigurationError`` or ``LlamaConfigurationError``.
  public func validate() throws {
    guard text.validationShare > 0, text.validationShare < 1 else {
      throw ConfigurationError.outOfRange(
        key: "validationShare", expected: "between 0 and 1", found: "\(text.validationShare)")
    }
    try model.validate()
    try training.validate()
  }

  /// What may change when a run is continued: it changes no loss.
  static let freeKeys: Set<String> = [
    "training.validationInterval", "training.validationTokens", "training.checkpointInterval",
    "training.keptCheckpoints",
  ]
}

/// Where a run's text comes from.
public struct TextConfiguration: Codable, Sendable, Hashable {
  /// A file or a folder.
  public var path = "."
  /// The file extensions to take; empty takes all.
  public var extensions: [String] = []
  /// The share of the text that is set apart for validation.
  public var validationShare = 0.1

  /// The defaults.
  public init() {}

  /// Reads the text.
  ///
  /// - Throws: ``CorpusError``.
  public func read() throws -> Corpus {
    try Corpus(
      readingFrom: path, extensions: extensions, split: .automatic(share: validationShare))
  }
}
