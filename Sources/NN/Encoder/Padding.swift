import Folding
import Torch

/// The real lengths of the sequences of a batch, whose rest is padding.
public struct Padding {
  /// The number of real tokens of each sequence, 0 … N.
  public let lengths: [Int]
  /// N, the tokens of the batch's tensors.
  public let tokens: Int
  /// True where a token is real: [B, N].
  public let isReal: Tensor

  /// Describes a batch; nil if every sequence fills it, so that nothing has to be hidden.
  ///
  /// - Precondition: every length lies in 0 … `tokens`.
  public init?(lengths: [Int], tokens: Int, device: Device = .cpu) {
    require(
      lengths.allSatisfy { (0...tokens).contains($0) },
      "Lengths must lie in 0...\(tokens), got \(lengths).")
    guard lengths.contains(where: { $0 < tokens }) else { return nil }
    self.lengths = lengths
    self.tokens = tokens
    isReal =
      Tensor.arange(0, tokens, device: device)
      .< Tensor(lengths, shape: [lengths.count, 1], device: device)
  }

  /// x [B, N, ...] with zeros at the padding.
  public func clearing(_ x: Tensor) -> Tensor {
    let shape = isReal.shape + Array(repeating: 1, count: x.rank - 2)
    return x.filled(where: .!isReal.reshape(shape), with: 0.0)
  }
}
