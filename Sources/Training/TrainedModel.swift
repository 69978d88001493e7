import Foundation
import Models
import NN

/// A model loaded from a run's folder.
public struct TrainedModel {
  /// The model with the weights of the newest checkpoint.
  public let model: Llama
  /// What it was trained with.
  public let configuration: RunConfiguration
  /// The number of optimizer steps behind the weights.
  public let step: Int

  /// Loads the newest checkpoint of a run.
  ///
  /// - Throws: ``ConfigurationError``, ``CheckpointError``.
  public init(folder: String) throws {
    let path = folder + "/config.json"
    guard FileManager.default.fileExists(atPath: path) else {
      throw CheckpointError.missing(folder: folder)
    }
    configuration = try ConfigurationFile.read(path, over: RunConfiguration())
    model = try Llama(configuration.model, initializer: Initializer(seed: 0))
    step = try CheckpointStore(folder: folder + "/checkpoints").load(into: model.parameters()).step
  }
}
