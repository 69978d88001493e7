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

  /// What differs from another configuration in ways that would change the losses, by key.
  func differences(from other: RunConfiguration) throws -> [String] {
    var (mine, theirs) = (self, other)
    for key in [
      \TrainingConfiguration.validationInterval, \.validationTokens, \.checkpointInterval,
      \.keptCheckpoints,
    ] {
      mine.training[keyPath: key] = 0
      theirs.training[keyPath: key] = 0
    }
    return try Self.differences(flat(mine), flat(theirs))
  }

  private static func differences(_ mine: [String: String], _ theirs: [String: String]) -> [String]
  {
    Set(mine.keys).union(theirs.keys).sorted().compactMap { key in
      mine[key] == theirs[key]
        ? nil : "\(key) is \(theirs[key] ?? "unset") there and \(mine[key] ?? "unset") here"
    }
  }

  /// Every value as text under its path of keys.
  private func flat(_ configuration: RunConfiguration) throws -> [String: String] {
    var values: [String: String] = [:]
    func add(_ value: Any, _ path: String) {
      if let object = value as? [String: Any] {
        for (key, inner) in object { add(inner, path.isEmpty ? key : path + "." + key) }
      } else {
        values[path] = "\(value)"
      }
    }
    add(try JSONSerialization.jsonObject(with: JSONEncoder().encode(configuration)), "")
    return values
  }
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
