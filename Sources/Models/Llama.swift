import NN
import Torch

// The architecture of Touvron et al., "LLaMA: Open and Efficient Foundation Language Models"
// (2023), with checkpoint keys as in Hugging Face's LlamaForCausalLM, so that such weights load
// wherever a layer's attention has no logit bias.

/// y = (silu(x·W_gateᵀ) ⊙ x·W_upᵀ)·W_downᵀ
///
/// Source: Shazeer, "GLU Variants Improve Transformer" (2020).
final class LlamaMLP: Module {
  @Child("gate_proj") var gate: Linear
  @Child("up_proj") var up: Linear
  @Child("down_proj") var down: Linear

  init(_ configuration: LlamaConfiguration, initializer: Initializer) {
    let (width, inner) = (configuration.width, configuration.innerWidth)
    let deviation = configuration.initialDeviation
    _gate.wrappedValue = Linear(width, inner, deviation: deviation, initializer: initializer)
    _up.wrappedValue = Linear(width, inner, deviation: deviation, initializer: initializer)
    _down.wrappedValue = Linear(
      inner, width, deviation: configuration.residualDeviation, initializer: initializer)
  }

  func callAsFunction(_ x: Tensor) -> Tensor { down(gate(x).silu() * up(x)) }
}

final class LlamaBlock: Module {
  @Child("input_layernorm") var attentionNorm: RMSNorm
  @Child("self_attn") var attention: SelfAttention
  @Child("post_attention_layernorm") var mlpNorm: RMSNorm
  @Child("mlp") var mlp: LlamaMLP

  init(_ configuration: LlamaConfiguration, layer: Int, initializer: Initializer) {
    _attentionNorm.wrappedValue = RMSNorm(
      configuration.width, epsilon: configuration.normEpsilon, initializer: initializer)
    _attention.wrappedValue = SelfAttention(
      configuration.attentionShape, kind: configuration.attention[layer: layer],
      deviation: configuration.initialDeviation,
      outputDeviation: configuration.residualDeviation, initializer: initializer)
    _mlpNorm.wrappedValue = RMSNorm(
      configuration.width, epsilon: configuration.normEpsilon, initializer: initializer)
    _mlp.wrappedValue = LlamaMLP(configuration, initializer: initializer)
  }

  func callAsFunction(_ x: Tensor, cache: (any AttentionCache)?) -> Tensor {
    let attended = x + attention(attentionNorm(x), cache: cache)
    return attended + mlp(mlpNorm(attended))
  }
}

/// The decoder without its head: [B, N] tokens to [B, N, width].
final class LlamaInner: Module {
  @Child("embed_tokens") var embedding: Embedding
  @Children("layers") var layers: [LlamaBlock]
  @Child("norm") var norm: RMSNorm

  init(_ configuration: LlamaConfiguration, initializer: Initializer) {
    _embedding.wrappedValue = Embedding(
      vocabularySize: configuration.vocabularySize, width: configuration.width,
      deviation: configuration.initialDeviation, initializer: initializer)
    _layers.wrappedValue = (0..<configuration.layers).map {
      LlamaBlock(configuration, layer: $0, initializer: initializer)
    }
    _norm.wrappedValue = RMSNorm(
      configuration.width, epsilon: configuration.normEpsilon, initializer: initializer)
  }

  func callAsFunction(
    _ tokens: Tensor, caches: [any AttentionCache]?, precision: Precision?
  ) -> Tensor {
    var x = embedding(tokens).to(dtype: precision?.dtype)
    for (index, layer) in layers.enumerated() { x = layer(x, cache: caches?[index]) }
    return norm(x)
  }
}

/// A Llama-shaped decoder whose every layer chooses its attention.
public final class Llama: LanguageModel {
  @Child("model") var inner: LlamaInner
  @OptionalChild("lm_head") var head: Linear?

  /// The configuration.
  public let configuration: LlamaConfiguration
  /// The element type of what flows between the weights; nil for that of the weights. Caches keep the one that
  /// they began with.
  public var precision: Precision?

  /// Creates a model with random weights.
  ///
  /// - Throws: ``LlamaConfigurationError`` if the configuration contradicts itself.
  public init(_ configuration: LlamaConfiguration, initializer: Initializer) throws {
    try configuration.validate()
    self.configuration = configuration
    _inner.wrappedValue = LlamaInner(configuration, initializer: initializer)
    _head.wrappedValue =
      configuration.isHeadTied
      ? nil
      : Linear(
        configuration.width, configuration.vocabularySize,
        deviation: configuration.initialDeviation, initializer: initializer)
  }

  /// The number of different tokens.
  public var vocabularySize: Int { configuration.vocabularySize }

  /// Where the weights are.
  public var device: Device { inner.embedding.weight.device }

  /// Scores the next token at every position, in the element type that ``precision`` says.
  public func callAsFunction(_ tokens: Tensor, caches: [any AttentionCache]?) -> Tensor {
    let x = inner(tokens, caches: caches, precision: precision)
    return head.map { $0(x) } ?? inner.embedding.scores(x)
  }

  /// One empty cache a layer.
  public func makeCaches() -> [any AttentionCache] { inner.layers.map { $0.attention.makeCache() } }
}

/// The sizes of a ``Llama``, with the keys of Hugging Face's `config.json` and, added to them,
/// `attention`.
public struct LlamaConfiguration: Codable, Sendable, Hashable {
  /// V, the number of different tokens.
  public var vocabularySize = 256
  /// The width of the residual stream.
  public var width = 256
  /// The width inside the MLP.
  public var innerWidth = 704
  /// The number of layers.
  public var layers = 6
  /// H, the query heads of a layer.
  public var heads = 4
  /// G, the key/value heads of a layer; divides H.
  public var groups = 4
  /// D, the width of a head; even.
  public var headWidth = 64
  /// The base of the rotary frequencies.
  public var rotaryBase = 10_000.0
  /// What keeps a norm of zeros finite.
  public var normEpsilon = 1e-5
  /// Whether the embedding serves as the output layer.
  public var isHeadTied = true
  /// The standard deviation of the first weights.
  public var initialDeviation = 0.02
  /// The attention of the layers.
  public var attention = AttentionStack([.full])

  /// The defaults: 4.9 million parameters over bytes.
  public init() {}

  /// Changes the width and, in proportion, the heads' width and the MLP's: D = width/H, rounded to
  /// even, and 8/3 · width rounded up to a multiple of 32.
  public mutating func resize(toWidth width: Int) {
    self.width = width
    headWidth = max(2, width / max(1, heads) / 2 * 2)
    innerWidth = (width * 8 / 3 + 31) / 32 * 32
  }

  /// The deviation of weights that write to the residual stream: the sum over 2·layers of them
  /// keeps the variance of one (Radford et al. 2019, section 2.3).
  var residualDeviation: Double { initialDeviation / Double(2 * layers).squareRoot() }

  var attentionShape: SelfAttention.Shape {
    SelfAttention.Shape(
      width: width, heads: heads, groups: groups, headWidth: headWidth, rotaryBase: rotaryBase)
  }

  /// Checks that the sizes fit one another.
  ///
  /// - Throws: ``LlamaConfigurationError``.
  public func validate() throws {
    let sizes = [
      (CodingKeys.vocabularySize, vocabularySize), (.width, width), (.innerWidth, innerWidth),
      (.layers, layers), (.heads, heads), (.groups, groups), (.headWidth, headWidth),
    ]
    for (key, value) in sizes where value < 1 {
      throw LlamaConfigurationError("Expected \(key.rawValue) to be at least 1, found \(value).")
    }
    guard heads % groups == 0 else {
      throw LlamaConfigurationError(
        "Expected num_attention_heads to be a multiple of num_key_value_heads, "
          + "found \(heads) and \(groups).")
    }
    guard headWidth % 2 == 0 else {
      throw LlamaConfigurationError(
        "Expected an even head_dim, whose channels rotary positions pair, found \(headWidth).")
    }
  }

  enum CodingKeys: String, CodingKey {
    case vocabularySize = "vocab_size"
    case width = "hidden_size"
    case innerWidth = "intermediate_size"
    case layers = "num_hidden_layers"
    case heads = "num_attention_heads"
    case groups = "num_key_value_heads"
    case headWidth = "head_dim"
    case rotaryBase = "rope_theta"
    case normEpsilon = "rms_norm_eps"
    case isHeadTied = "tie_word_embeddings"
    case initialDeviation = "initializer_range"
    case attention
  }
}

/// Why a configuration cannot be built.
public struct LlamaConfigurationError: Error, Equatable, CustomStringConvertible {
  /// The sentence to print.
  public let description: String

  init(_ description: String) { self.description = description }
}
