import NN
import Torch

// Kim, "Convolutional Neural Networks for Sentence Classification" (2014).

/// Convolutions of several widths side by side, and a map to the width that is asked for:
///
///     o = relu(concat_w conv_w(x))·Woᵀ + b_o
///
/// Shapes: x [B, N, inputs], each convolution [B, N, channels], o [B, N, outputs]. Beyond the first
/// and the last real token there are zeros.
public final class MultiWidthConvolution: SequenceLayer {
  @Children("widths") private var convolutions: [Convolution]
  @Child("o_proj") private var outputProjection: Affine

  /// The widths of the filters.
  public static let widths = [3, 4, 5]

  /// Creates a layer with `channels` filters of every width.
  public init(inputs: Int, channels: Int, outputs: Int, initializer: Initializer) {
    _convolutions.wrappedValue = Self.widths.map {
      Convolution(inputs: inputs, channels: channels, width: $0, initializer: initializer)
    }
    _outputProjection.wrappedValue = Affine(
      Self.widths.count * channels, outputs, initializer: initializer)
  }

  /// Applies the layer.
  public func callAsFunction(_ x: Tensor, padding: Padding?, dropout: Generator?) -> Tensor {
    let signal = (padding?.clearing(x) ?? x).transpose(1, 2)
    let found = Tensor.cat(convolutions.map { $0(signal) }, axis: 1).relu()
    return outputProjection(found.transpose(1, 2))
  }
}

/// Filters of one width, [B, inputs, N] to [B, channels, N]; an even width reaches one token further
/// back than forward.
final class Convolution: Module {
  @Weight("weight") private var weight: Tensor
  @Weight("bias", decays: false) private var bias: Tensor
  private let width: Int

  init(inputs: Int, channels: Int, width: Int, initializer: Initializer) {
    // Glorot's variance with the taps counted among the inputs.
    let deviation = (2 / Double(width * inputs + channels)).squareRoot()
    _weight.wrappedValue = initializer.normal([channels, inputs, width], deviation: deviation)
    _bias.wrappedValue = initializer.constant([channels], 0)
    self.width = width
  }

  func callAsFunction(_ signal: Tensor) -> Tensor {
    signal.pad([width / 2, (width - 1) / 2]).conv1d(weight, bias: bias)
  }
}
