import NN
import Torch

// Hochreiter, Schmidhuber, "Long Short-Term Memory" (1997), in both directions as in Graves,
// Schmidhuber, "Framewise Phoneme Classification with Bidirectional LSTM" (2005).

/// A long short-term memory from the beginning and another from the end, side by side, through
/// libtorch's kernel, and a map to the width that is asked for.
///
/// Shapes: x [B, N, inputs], both directions [B, N, 2·width], result [B, N, outputs].
///
/// With padding, the one from the end begins at each sequence's last real token.
public final class BidirectionalRecurrence: SequenceLayer {
  @Child("forward") private var forward: Recurrence
  @Child("backward") private var backward: Recurrence
  @Child("o_proj") private var outputProjection: Affine

  /// Creates a layer; each direction is `width` wide.
  public init(inputs: Int, width: Int, outputs: Int, initializer: Initializer) {
    _forward.wrappedValue = Recurrence(inputs: inputs, width: width, initializer: initializer)
    _backward.wrappedValue = Recurrence(inputs: inputs, width: width, initializer: initializer)
    _outputProjection.wrappedValue = Affine(2 * width, outputs, initializer: initializer)
  }

  /// Applies the layer.
  public func callAsFunction(_ x: Tensor, padding: Padding?, dropout: Generator?) -> Tensor {
    outputProjection(Tensor.cat([forward(x), backwardOutputs(x, padding)], axis: 2))
  }

  private func backwardOutputs(_ x: Tensor, _ padding: Padding?) -> Tensor {
    guard let padding else { return backward(x.flip(axes: [1])).flip(axes: [1]) }
    let order = padding.reversingIndices
    let reversed = { (y: Tensor) in
      y.gather(axis: 1, order.unsqueeze(2).expand([y.size(0), y.size(1), y.size(2)]))
    }
    return reversed(backward(reversed(x)))
  }
}

extension Padding {
  /// Where token t of each sequence goes when its real tokens change their order and the padding
  /// stays: [B, N]. It is its own inverse.
  fileprivate var reversingIndices: Tensor {
    let order = lengths.flatMap { length in
      (0..<tokens).map { $0 < length ? length - 1 - $0 : $0 }
    }
    return Tensor(order, shape: [lengths.count, tokens], device: isReal.device)
  }
}

/// One long short-term memory, [B, N, inputs] to [B, N, width].
final class Recurrence: Module {
  @Weight("weight_ih") private var inputWeight: Tensor
  @Weight("weight_hh") private var stateWeight: Tensor
  @Weight("bias_ih", decays: false) private var bias: Tensor
  private let width: Int

  init(inputs: Int, width: Int, initializer: Initializer) {
    self.width = width
    _inputWeight.wrappedValue = initializer.glorot([4 * width, inputs])
    _stateWeight.wrappedValue = initializer.glorot([4 * width, width])
    // Gates are input, forget, cell, output; a forget gate that begins open keeps the gradient
    // alive (Jozefowicz, Zaremba, Sutskever 2015).
    let bias = initializer.constant([4, width], 0)
    bias[1].fill(1)
    _bias.wrappedValue = bias.reshape([4 * width])
  }

  func callAsFunction(_ x: Tensor) -> Tensor {
    let zeros = Tensor.zeros([1, x.size(0), width], dtype: x.dtype, device: x.device)
    // The kernel adds two biases; one is enough.
    let none = Tensor.zeros([4 * width], dtype: x.dtype, device: x.device)
    return x.lstm(state: (zeros, zeros), parameters: [inputWeight, stateWeight, bias, none]).outputs
  }
}
