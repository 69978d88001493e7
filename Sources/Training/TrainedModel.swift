import Foundation
import Models
import NN
import Torch

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
  /// - Parameters:
  ///   - folder: the run's.
  ///   - device: where to compute.
  ///   - precision: in what; by default as in training on a GPU, and in float32 on a processor.
  /// - Throws: ``ConfigurationError``, ``CheckpointError``, and `TorchError` without the device.
  public init(folder: String, device: Device = .cpu, precision: Precision? = nil) throws {
    try device.requireAvailable()
    let path = folder + "/config.json"
    guard FileManager.default.fileExists(atPath: path) else {
      throw CheckpointError.missing(folder: folder)
    }
    configuration = try ConfigurationFile.read(path, over: RunConfiguration())
    model = try Llama(configuration.model, initializer: Initializer(seed: 0, device: device))
    let own = device == .cpu ? Precision.float32 : configuration.training.precision
    model.precision = precision ?? own
    step = try CheckpointStore(folder: folder + "/checkpoints").load(into: model.parameters()).step
  }
}
