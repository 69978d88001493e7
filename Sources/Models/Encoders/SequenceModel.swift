import Folding
import NN
import Torch

/// What a model is asked about a sequence.
public enum SequenceTask: String, Codable, Sendable, CaseIterable {
  /// The class of a sequence.
  case classification
  /// How two sequences relate.
  case pair
  /// The class of every token.
  case tagging
}

/// The sizes of a ``SequenceModel``.
public struct SequenceModelConfiguration: Codable, Sendable, Hashable {
  /// What is asked.
  public var task = SequenceTask.classification
  /// V, the number of different tokens.
  public var vocabularySize = 256
  /// The number of classes.
  public var classes = 2
  /// The width of a token's vector.
  public var embeddingWidth = 64
  /// The width inside the head.
  public var headWidth = 64
  /// The probability of zeros on tokens' vectors and in the head.
  public var dropout = 0.0
  /// Whether one token of a sequence can be marked, such as the predicate whose arguments are asked
  /// for: a learned vector is then added to the token's own.
  public var hasMarker = false
  /// The encoder.
  public var encoder = EncoderConfiguration()

  /// The defaults.
  public init() {}

  /// Changes the width of tokens' vectors, blocks and head, and in proportion those inside them.
  public mutating func resize(toWidth width: Int) {
    embeddingWidth = width
    headWidth = width
    encoder.width = width
    encoder.innerWidth = 2 * width
    let step = encoder.mixerWidthStep
    encoder.mixerWidth = max(step, width / step * step)
  }

  /// Checks that the sizes fit one another.
  ///
  /// - Throws: ``EncoderConfigurationError``.
  public func validate() throws {
    for (key, value, least) in [
      ("vocabularySize", vocabularySize, 1), ("classes", classes, 2),
      ("embeddingWidth", embeddingWidth, 1), ("headWidth", headWidth, 1),
    ] where value < least {
      throw EncoderConfigurationError("Expected \(key) to be at least \(least), found \(value).")
    }
    guard dropout >= 0, dropout < 1 else {
      throw EncoderConfigurationError("Expected dropout to be 0 ≤ x < 1, found \(dropout).")
    }
    try encoder.validate()
  }
}

/// Tokens of a batch of sequences.
public struct SequenceInput {
  /// [B, N] integers.
  public let tokens: Tensor
  /// Which of them are real; nil if all are.
  public let padding: Padding?
  /// The marked token of each sequence, if they have one.
  public let markers: [Int]?

  /// Names a batch.
  public init(tokens: Tensor, padding: Padding? = nil, markers: [Int]? = nil) {
    self.tokens = tokens
    self.padding = padding
    self.markers = markers
  }
}

/// Tokens' vectors, an encoder of any family, and a head for the task: for a class of sequences, or of
/// pairs of them, a source2token pooling makes one vector of a sequence; for tagging, every token keeps
/// its own.
public final class SequenceModel: Module {
  @Child("embedding") private var embedding: Embedding
  /// What is added to a marked token: [embeddingWidth].
  @OptionalWeight("marker", decays: false) private var marker: Tensor?
  @ChildSequenceLayer("encoder") private var encoder: any SequenceLayer
  @OptionalChild("pooling") private var pooling: SourceToTokenPooling?
  @OptionalChild("head") private var head: ClassificationHead?
  @OptionalChild("pair_head") private var pairHead: PairHead?

  /// The configuration.
  public let configuration: SequenceModelConfiguration

  /// Creates a model with random weights.
  ///
  /// - Parameter vectors: the first vectors of tokens, [vocabularySize, embeddingWidth]; random if nil.
  /// - Throws: ``EncoderConfigurationError`` if the configuration contradicts itself.
  public init(
    _ configuration: SequenceModelConfiguration, vectors: Tensor? = nil, initializer: Initializer
  ) throws {
    try configuration.validate()
    self.configuration = configuration
    let (encoder, width) = (configuration.encoder, configuration.encoder.outputWidth)
    _embedding.wrappedValue = Embedding(
      vocabularySize: configuration.vocabularySize, width: configuration.embeddingWidth,
      deviation: 1 / Double(configuration.embeddingWidth).squareRoot(), initializer: initializer)
    if let vectors {
      require(
        vectors.shape == _embedding.wrappedValue.weight.shape,
        "Expected vectors \(_embedding.wrappedValue.weight.shape), got \(vectors.shape).")
      withNoGrad { _embedding.wrappedValue.weight.copy(from: vectors) }
    }
    if configuration.hasMarker {
      _marker.wrappedValue = initializer.normal([configuration.embeddingWidth], deviation: 0.1)
    }
    _encoder.wrappedValue = encoder.makeEncoder(
      inputs: configuration.embeddingWidth, initializer: initializer)
    if configuration.task != .tagging {
      _pooling.wrappedValue = SourceToTokenPooling(
        width, activation: encoder.activation, initializer: initializer)
    }
    if configuration.task == .pair {
      _pairHead.wrappedValue = PairHead(
        inputs: width, width: configuration.headWidth, classes: configuration.classes,
        activation: encoder.activation, dropout: configuration.dropout, initializer: initializer)
    } else {
      _head.wrappedValue = ClassificationHead(
        inputs: width, width: configuration.headWidth, classes: configuration.classes,
        activation: encoder.activation, dropout: configuration.dropout, initializer: initializer)
    }
  }

  /// The scores of the classes.
  ///
  /// - Parameters:
  ///   - inputs: one batch of sequences; for a pair two, of equal B.
  ///   - dropout: where a training step's random zeros come from; nil drops nothing.
  /// - Returns: [B, classes], for tagging [B, N, classes].
  public func scores(_ inputs: [SequenceInput], dropout: Generator? = nil) -> Tensor {
    require(
      inputs.count == (configuration.task == .pair ? 2 : 1),
      "A model for \(configuration.task.rawValue) got \(inputs.count) batches of sequences.")
    let encoded = inputs.map { encode($0, dropout: dropout) }
    if let pairHead { return pairHead(encoded[0], encoded[1], dropout: dropout) }
    return head.map { $0(encoded[0], dropout: dropout) } ?? encoded[0]
  }

  private func encode(_ input: SequenceInput, dropout: Generator?) -> Tensor {
    let vectors = marked(embedding(input.tokens), input.markers)
    let features = encoder(
      vectors.dropped(configuration.dropout, by: dropout), padding: input.padding, dropout: dropout)
    return pooling.map { $0(features, padding: input.padding) } ?? features
  }

  private func marked(_ vectors: Tensor, _ places: [Int]?) -> Tensor {
    guard let marker, let places else { return vectors }
    let tokens = Tensor.arange(0, vectors.size(1), device: vectors.device)
    let isMarked = tokens .== Tensor(places, shape: [places.count, 1], device: vectors.device)
    return vectors + isMarked.unsqueeze(2).to(vectors.dtype) * marker
  }

  /// The number of scalars in the parameters of the encoder alone.
  public var encoderParameterCount: Int { encoder.parameterCount }
}
