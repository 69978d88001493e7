import Foundation
import Models
import NN
import Text

/// A classifier loaded from a run's folder, with the words and labels that it was trained on.
public struct TrainedClassifier {
  /// The model with the weights of the best validation.
  public let model: SequenceModel
  /// What it was trained with.
  public let configuration: ClassifierConfiguration
  /// The words of the ids; nil for generated tasks.
  public let vocabulary: Vocabulary?
  /// The names of the classes.
  public let labels: [String]
  /// The number of optimizer steps behind the weights.
  public let step: Int

  /// Loads the best weights of a run.
  ///
  /// - Throws: ``ConfigurationError``, ``CheckpointError``, `DatasetError`.
  public init(folder: String) throws {
    let path = folder + "/config.json"
    guard FileManager.default.fileExists(atPath: path) else {
      throw CheckpointError.missing(folder: folder)
    }
    configuration = try ConfigurationFile.read(path, over: ClassifierConfiguration())
    labels = try Self.readLabels(folder)
    let words = folder + "/vocabulary.txt"
    vocabulary =
      FileManager.default.fileExists(atPath: words) ? try Vocabulary(readingFrom: words) : nil
    model = try SequenceModel(configuration.model, initializer: Initializer(seed: 0))
    step = try CheckpointStore(folder: folder + "/best").load(into: model.parameters()).step
  }

  private static func readLabels(_ folder: String) throws -> [String] {
    let path = folder + "/labels.json"
    do {
      let data = try Data(contentsOf: URL(fileURLWithPath: path))
      return try JSONDecoder().decode([String].self, from: data)
    } catch {
      throw ConfigurationError.unreadable(path: path, reason: error.localizedDescription)
    }
  }

  /// Writes the words and labels of a run into its folder.
  ///
  /// - Throws: `DatasetError` or a file error.
  public static func save(_ data: LoadedData, to folder: String) throws {
    try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
    try JSONEncoder().encode(data.splits.training.labels)
      .write(to: URL(fileURLWithPath: folder + "/labels.json"), options: .atomic)
    try data.vocabulary?.save(to: folder + "/vocabulary.txt")
  }

  /// The examples of the run's own test part, or of a file in the format of its data.
  ///
  /// - Throws: ``ConfigurationError``, `DatasetError`.
  public func testExamples(file: String? = nil) throws -> TokenDataset {
    guard let file else { return try configuration.data.load(vocabulary: vocabulary).splits.test }
    guard let vocabulary else {
      throw ConfigurationError.outOfRange(
        key: "the file to evaluate", expected: "none for a generated task", found: file)
    }
    return try configuration.data.load(file: file, vocabulary: vocabulary, labels: labels)
  }
}
