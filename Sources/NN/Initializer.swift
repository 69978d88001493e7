import Torch

/// Draws the first values of weights: the same seed gives the same model on every device.
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
    // Drawn on the processor whatever the device is, where every machine draws the same numbers.
    generator = Generator(seed: seed)
  }

  /// Independent normal values of mean 0.
  public func normal(_ shape: [Int], deviation: Double) -> Tensor {
    let values = Tensor.empty(shape, dtype: dtype)
    values.fillNormal(standardDeviation: deviation, generator: generator)
    return values.to(device)
  }

  /// The same value everywhere.
  public func constant(_ shape: [Int], _ value: Double) -> Tensor {
    Tensor.full(shape, value, dtype: dtype, device: device)
  }
}
