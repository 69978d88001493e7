import NN
import Torch

/// The families of encoders. All of them can stand in the same place: they differ in how tokens learn
/// of one another.
public enum EncoderFamily: String, Codable, Sendable, CaseIterable {
  /// Multi-mask tensorized self-attention.
  case multiMask = "mtsa"
  /// Multi-head self-attention over all tokens.
  case multiHead = "multi-head"
  /// Feature-wise directional self-attention that forms the tensor of scores.
  case directional = "disa"
  /// A bidirectional long short-term memory.
  case recurrent = "bilstm"
  /// Convolutions of several widths.
  case convolutional = "cnn"

  /// A name for tables and figures.
  public var name: String {
    switch self {
    case .multiMask: "MTSA"
    case .multiHead: "multi-head"
    case .directional: "DiSA"
    case .recurrent: "Bi-LSTM"
    case .convolutional: "CNN"
    }
  }
}

/// The sizes of an encoder. In a file, only what differs from the defaults has to be written.
public struct EncoderConfiguration: Codable, Sendable, Hashable {
  /// How tokens learn of one another.
  public var family = EncoderFamily.multiMask
  /// The number of post-norm blocks; 0 for the family's layer alone, as in sentence models.
  public var blocks = 2
  /// The width of the blocks' residual stream.
  public var width = 64
  /// The width inside the blocks' feed-forward part.
  public var innerWidth = 128
  /// H, of the families that have heads.
  public var heads = 4
  /// The width inside the family's layer: H·D of attention with heads, the width of a direction of
  /// the directional and recurrent ones, the filters of every width of the convolutional one.
  public var mixerWidth = 64
  /// The function between maps.
  public var activation = Activation.elu
  /// The probability of zeros on what a part adds to the residual stream.
  public var residualDropout = 0.0
  /// The probability of zeros inside the feed-forward part.
  public var innerDropout = 0.0
  /// What only multi-mask attention has.
  public var multiMask = MultiMaskOptions()

  /// The defaults.
  public init() {}

  /// What `mixerWidth` must be a multiple of: heads have equal widths, even ones where rotary
  /// positions pair their channels.
  package var mixerWidthStep: Int {
    switch family {
    case .multiMask: heads
    case .multiHead: 2 * heads
    case .directional, .recurrent, .convolutional: 1
    }
  }

  /// Checks that the sizes fit one another.
  ///
  /// - Throws: ``EncoderConfigurationError``.
  public func validate() throws {
    let positive = [
      ("width", width), ("innerWidth", innerWidth), ("heads", heads), ("mixerWidth", mixerWidth),
    ]
    for (key, value) in positive where value < 1 {
      throw EncoderConfigurationError("Expected \(key) to be at least 1, found \(value).")
    }
    guard (0...1000).contains(blocks) else {
      throw EncoderConfigurationError("Expected blocks to be 0 to 1000, found \(blocks).")
    }
    guard mixerWidth % mixerWidthStep == 0 else {
      throw EncoderConfigurationError(
        "Expected mixerWidth of \(family.rawValue) with \(heads) heads to be a multiple of "
          + "\(mixerWidthStep), found \(mixerWidth).")
    }
    if family == .multiMask, multiMask.isDirectional, heads % 2 != 0 {
      throw EncoderConfigurationError(
        "Expected an even number of heads, half of which look forward and half backward, "
          + "found \(heads).")
    }
    for (key, rate) in [
      ("residualDropout", residualDropout), ("innerDropout", innerDropout),
      ("multiMask.dropout", multiMask.dropout),
    ] where !(rate >= 0 && rate < 1) {
      throw EncoderConfigurationError("Expected \(key) to be 0 ≤ x < 1, found \(rate).")
    }
  }

  /// The width of an encoder's outputs: that of the blocks, or of the layer alone.
  public var outputWidth: Int { blocks > 0 ? width : mixerWidth }

  var sizes: EncoderSizes {
    EncoderSizes(
      width: width, innerWidth: innerWidth, activation: activation,
      residualDropout: residualDropout, innerDropout: innerDropout)
  }
}

/// Why an encoder cannot be built.
public struct EncoderConfigurationError: Error, Equatable, CustomStringConvertible {
  /// The sentence to print.
  public let description: String

  init(_ description: String) { self.description = description }
}

extension EncoderConfiguration {
  /// The number of scalars in an encoder's parameters for inputs of a width.
  public func parameterCount(inputs: Int) -> Int {
    makeEncoder(inputs: inputs, initializer: Initializer(seed: 0)).parameterCount
  }

  /// The same sizes for another family, with `mixerWidth` chosen so that the number of parameters
  /// comes as close as it can to this one's.
  public func matched(by family: EncoderFamily, inputs: Int) -> EncoderConfiguration {
    let target = parameterCount(inputs: inputs)
    var found = self
    found.family = family
    let step = found.mixerWidthStep
    let count = { (multiple: Int) in
      found.mixerWidth = multiple * step
      return found.parameterCount(inputs: inputs)
    }
    // The count grows with the width: bisect for the first width that reaches the target.
    var (low, high) = (1, 1)
    while count(high) < target { (low, high) = (high, 2 * high) }
    while high - low > 1 {
      let middle = (low + high) / 2
      if count(middle) < target { low = middle } else { high = middle }
    }
    let closest = abs(count(low) - target) <= abs(count(high) - target) ? low : high
    found.mixerWidth = closest * step
    return found
  }

  /// An encoder with random weights, [B, N, inputs] to [B, N, outputWidth].
  ///
  /// - Precondition: ``validate()`` throws nothing.
  public func makeEncoder(inputs: Int, initializer: Initializer) -> any SequenceLayer {
    switch family {
    case .multiMask: multiMaskEncoder(inputs: inputs, initializer: initializer)
    case .multiHead:
      encoder(inputs: inputs, initializer: initializer) { inputs, outputs in
        MultiHeadSelfAttention(
          inputs: inputs, heads: heads, headWidth: mixerWidth / heads, outputs: outputs,
          initializer: initializer)
      }
    case .directional:
      encoder(inputs: inputs, initializer: initializer) { inputs, outputs in
        BidirectionalFeatureAttention(
          inputs: inputs, width: mixerWidth, outputs: outputs, activation: activation,
          initializer: initializer)
      }
    case .recurrent:
      encoder(inputs: inputs, initializer: initializer) { inputs, outputs in
        BidirectionalRecurrence(
          inputs: inputs, width: mixerWidth, outputs: outputs, initializer: initializer)
      }
    case .convolutional:
      encoder(inputs: inputs, initializer: initializer) { inputs, outputs in
        MultiWidthConvolution(
          inputs: inputs, channels: mixerWidth, outputs: outputs, initializer: initializer)
      }
    }
  }

  func encoder<Mixer: SequenceLayer>(
    inputs: Int, initializer: Initializer, mixer: (_ inputs: Int, _ outputs: Int) -> Mixer
  ) -> Encoder<Mixer> {
    Encoder(self, inputs: inputs, initializer: initializer, mixer: mixer)
  }
}

/// Blocks, after a map to their width where the inputs have another; or a family's layer alone.
final class Encoder<Mixer: SequenceLayer>: SequenceLayer {
  @OptionalChild("input_proj") private var inputProjection: Affine?
  @OptionalChild("stack") private var stack: EncoderStack<Mixer>?
  @OptionalChild("mixer") private var mixer: Mixer?

  init(
    _ configuration: EncoderConfiguration, inputs: Int, initializer: Initializer,
    mixer: (_ inputs: Int, _ outputs: Int) -> Mixer
  ) {
    let width = configuration.width
    if configuration.blocks == 0 {
      _mixer.wrappedValue = mixer(inputs, configuration.outputWidth)
    } else {
      if inputs != width {
        _inputProjection.wrappedValue = Affine(inputs, width, initializer: initializer)
      }
      _stack.wrappedValue = EncoderStack(
        blocks: configuration.blocks, configuration.sizes, initializer: initializer
      ) { mixer(width, width) }
    }
  }

  func callAsFunction(_ x: Tensor, padding: Padding?, dropout: Generator?) -> Tensor {
    if let mixer { return mixer(x, padding: padding, dropout: dropout) }
    let projected = inputProjection.map { $0(x) } ?? x
    return stack.map { $0(projected, padding: padding, dropout: dropout) } ?? projected
  }
}
