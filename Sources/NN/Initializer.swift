import Torch

/// Draws the first values of weights: the same seed gives the same model.
public final class Initializer {
  /// The type of the weights.
  public let dtype: DType
  /// Where the weights are.
  public let device: Device
  private let generator: Generator

  /// Creates an initializer.
  public init(seed: UInt64, dtype: DType = .float32, device: Device = .cpu) {
    self.dtype = dtype
    self.device = device
    generator = Generator(seed: seed, device: device)
  }

  /// Independent normal values of mean 0.
  public func normal(_ shape: [Int], deviation: Double) -> Tensor {
    let values = Tensor.empty(shape, dtype: dtype, device: device)
    values.fillNormal(standardDeviation: deviation, generator: generator)
    return values
  }

  /// The same value everywhere.
  public func constant(_ shape: [Int], _ value: Double) -> Tensor {
    Tensor.full(shape, value, dtype: dtype, device: device)
  }
}
