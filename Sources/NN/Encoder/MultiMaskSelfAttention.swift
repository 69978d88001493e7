import Folding
import AttentionCore
import TensorizedAttention
import Torch

/// Multi-head multi-mask tensorized self-attention with its projections. For every head c of width D:
///
///     V = act(X·Wvᵀ + b_v)                           act only with `activatesValues`
///     Q = Z·Wqᵀ,   K = Z·Wkᵀ                         Z = X with `attendsToInput`, else Z = V
///     s = act(Z·W₁ᵀ + b₁)·W₂ᵀ + b₂                   source2token scores, one a feature
///     O = multiMaskAttention(Q, K, V, s, mask of c)
///     F = sigmoid([V; O]·W_fᵀ + b_f)                 with `hasGate`:
///     O ← F ⊙ V + (1 − F) ⊙ O
///     out = concat_c(O)·Woᵀ + b_o                    without Wo if no width is asked for
///
/// Shapes: X [B, N, inputs]; Q, K, V, s, O [B, N, H, D]; out [B, N, outputs or H·D].
///
/// The first half of the heads looks at earlier tokens only and the second at later ones, so that order
/// counts without positions; see ``MultiMaskOptions``.
///
/// Source: Shen et al., "Tensorized Self-Attention: Efficiently Modeling Pairwise and Global
/// Dependencies Together" (2019), section 3, with the options of its published code.
public final class MultiMaskSelfAttention: SequenceLayer {
  @Child("projections") private var projections: MultiMaskProjections
  @OptionalChild("gate") private var gate: HeadwiseAffine?
  @OptionalChild("o_proj") private var outputProjection: Affine?
  private let heads: Int
  private let headWidth: Int
  private let options: MultiMaskOptions

  /// Creates a layer of `heads` heads, each `headWidth` wide; with `outputs` nil it has no output
  /// map.
  public init(
    inputs: Int, heads: Int, headWidth: Int, outputs: Int?, activation: Activation,
    options: MultiMaskOptions, initializer: Initializer
  ) {
    require(
      !options.isDirectional || heads % 2 == 0,
      "Half of the heads look forward and half backward, got \(heads) heads.")
    _projections.wrappedValue = MultiMaskProjections(
      inputs: inputs, heads: heads, headWidth: headWidth, activation: activation, options: options,
      initializer: initializer)
    _gate.wrappedValue =
      options.hasGate
      ? HeadwiseAffine(heads: heads, 2 * headWidth, headWidth, initializer: initializer) : nil
    _outputProjection.wrappedValue = outputs.map {
      Affine(heads * headWidth, $0, initializer: initializer)
    }
    self.heads = heads
    self.headWidth = headWidth
    self.options = options
  }

  /// Applies the layer.
  public func callAsFunction(_ x: Tensor, padding: Padding?, dropout: Generator?) -> Tensor {
    let parts = projections(x)
    var attended = multiMaskAttention(
      queries: parts.queries, keys: parts.keys, values: parts.values,
      sourceLogits: parts.sourceLogits, masks: options.masks(heads: heads),
      tokenScore: options.tokenScore,
      sourceScore: options.sourceScore, lengths: padding?.lengths,
      dropout: alignmentDropout(dropout), layout: .tokensFirst)
    if let gate {
      let share = gate(Tensor.cat([parts.values, attended], axis: 3)).sigmoid()
      attended = attended + share * (parts.values - attended)
    }
    let joined = attended.reshape([x.size(0), x.size(1), heads * headWidth])
    return outputProjection.map { $0(joined) } ?? joined
  }
}

extension MultiMaskSelfAttention {
  /// A step's dropout of alignment weights, whose seed the generator draws.
  private func alignmentDropout(_ generator: Generator?) -> AlignmentDropout? {
    guard let generator, options.dropout > 0 else { return nil }
    let seed = Tensor.randint(0..<Int(Int32.max), [1], generator: generator).item(Int.self)
    return AlignmentDropout(keepProbability: 1 - options.dropout, seed: UInt64(seed))
  }
}

/// What a token and the tokens around it give to multi-mask attention.
///
/// With `attendsToInput` everything but W₂ reads X, so all heads' maps are one product.
final class MultiMaskProjections: Module {
  /// The rows of Wv and W₁, and with `attendsToInput` those of Wq and Wk; else of Wv alone.
  @Weight("input_weight") private var inputWeight: Tensor
  /// b_v and, with `attendsToInput`, b₁; queries and keys have none.
  @Weight("input_bias", decays: false) private var inputBias: Tensor
  /// Wq and Wk of each head where they read V, [H, 2·D, D].
  @OptionalChild("query_key") private var queryKey: HeadwiseAffine?
  /// W₁ and b₁ of each head where they read V.
  @OptionalChild("source_inner") private var sourceInner: HeadwiseAffine?
  /// W₂ and b₂; without them one linear map gives the scores.
  @OptionalChild("source") private var source: HeadwiseAffine?
  private let heads: Int
  private let headWidth: Int
  private let activation: Activation
  private let activatesValues: Bool

  /// Queries, keys, values and source2token scores, [B, N, H, D] each.
  struct Parts {
    let queries: Tensor
    let keys: Tensor
    let values: Tensor
    let sourceLogits: Tensor
  }

  init(
    inputs: Int, heads: Int, headWidth: Int, activation: Activation, options: MultiMaskOptions,
    initializer: Initializer
  ) {
    let inner = heads * headWidth
    let maps = (0..<(options.attendsToInput ? 4 : 1)).map { _ in
      initializer.glorot([inner, inputs])
    }
    _inputWeight.wrappedValue = Tensor.cat(maps)
    _inputBias.wrappedValue = initializer.constant([options.attendsToInput ? 2 * inner : inner], 0)
    if !options.attendsToInput {
      _queryKey.wrappedValue = HeadwiseAffine(
        heads: heads, headWidth, 2 * headWidth, hasBias: false, initializer: initializer)
      _sourceInner.wrappedValue = HeadwiseAffine(
        heads: heads, headWidth, headWidth, initializer: initializer)
    }
    _source.wrappedValue =
      options.hasDeepSourceScore
      ? HeadwiseAffine(heads: heads, headWidth, headWidth, initializer: initializer) : nil
    self.heads = heads
    self.headWidth = headWidth
    self.activation = activation
    activatesValues = options.activatesValues
  }

  func callAsFunction(_ x: Tensor) -> Parts {
    let mapped = x.linear(inputWeight, bias: paddedBias)
      .unflatten(2, [inputWeight.size(0) / (heads * headWidth), heads, headWidth])
    let linearValues = mapped.select(axis: 2, 0)
    let values = activatesValues ? activation(linearValues) : linearValues
    let (first, queries, keys) = scoreInputs(mapped, values)
    let sourceLogits = source.map { $0(activation(first)) } ?? first
    return Parts(queries: queries, keys: keys, values: values, sourceLogits: sourceLogits)
  }

  private func scoreInputs(_ mapped: Tensor, _ values: Tensor) -> (Tensor, Tensor, Tensor) {
    if let queryKey, let sourceInner {
      let parts = queryKey(values).chunk(2, axis: 3)
      return (sourceInner(values), parts[0], parts[1])
    }
    return (
      mapped.select(axis: 2, 1), mapped.select(axis: 2, 2), mapped.select(axis: 2, 3)
    )
  }

  /// The biases, zero where queries and keys have none, so that one product adds them.
  private var paddedBias: Tensor {
    let missing = inputWeight.size(0) - inputBias.size(0)
    return missing == 0 ? inputBias : inputBias.pad([0, missing])
  }
}
