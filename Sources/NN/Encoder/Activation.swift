import Torch

/// An elementwise function between two maps.
public enum Activation: String, Codable, Sendable, CaseIterable {
  /// x.
  case identity
  /// max(x, 0).
  case relu
  /// x for x > 0, eˣ − 1 elsewhere.
  case elu
  /// x · Φ(x), Φ the normal distribution's integral.
  case gelu
  /// tanh x.
  case tanh

  /// Applies the function.
  public func callAsFunction(_ x: Tensor) -> Tensor {
    switch self {
    case .identity: x
    case .relu: x.relu()
    case .elu: x.elu()
    case .gelu: x.gelu()
    case .tanh: x.tanh()
    }
  }
}
