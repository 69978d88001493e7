import Torch

/// The element type in which a model computes. Weights, their gradients and the optimizer stay in float32, and so
/// does the loss: a step that is too small for 8 bits of a weight still counts.
public enum Precision: String, Codable, CaseIterable, Sendable {
  /// 24 bits everywhere.
  case float32
  /// 8 bits between the weights, for GPUs: half the memory of activations, and products that run many times
  /// faster. On a processor it is much slower than float32.
  case bfloat16

  /// The tensors' element type.
  public var dtype: DType {
    switch self {
    case .float32: .float32
    case .bfloat16: .bfloat16
    }
  }
}
