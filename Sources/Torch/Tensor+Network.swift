// MARK: - Products

extension Tensor {
  /// The matrix product over the last two axes; leading axes broadcast.
  public func matmul(_ other: Tensor) -> Tensor { with("aten::matmul", other) }

  /// The matrix products [B, N, K] · [B, K, M] → [B, N, M].
  public func bmm(_ other: Tensor) -> Tensor { with("aten::bmm", other) }

  /// x Wᵀ + b.
  ///
  /// - Parameters:
  ///   - weight: W, [out, in].
  ///   - bias: b, [out].
  public func linear(_ weight: Tensor, bias: Tensor? = nil) -> Tensor {
    ATen.tensor("aten::linear", [.tensor(self), .tensor(weight), .optional(bias)])
  }

  /// The sum of products that `equation` spells in Einstein's convention: "bij,bjk->bik".
  public static func einsum(_ equation: String, _ tensors: [Tensor]) -> Tensor {
    ATen.tensor("aten::einsum", [.string(equation), .tensors(tensors)])
  }

  /// The rows of this table, [V, D], that `indices` lists, of any shape: [..., D].
  public func embedding(_ indices: Tensor) -> Tensor {
    ATen.tensor("aten::embedding", [.tensor(self), .tensor(indices)])
  }
}

// MARK: - Normalization and losses

extension Tensor {
  /// eˣ / Σ eˣ along `axis`, computed and returned in `dtype` if given.
  public func softmax(axis: Int = -1, dtype: DType? = nil) -> Tensor {
    ATen.tensor("aten::softmax.int", [.tensor(self), .int(axis), .optional(dtype)])
  }

  /// The logarithm of ``softmax(axis:dtype:)``.
  public func logSoftmax(axis: Int = -1, dtype: DType? = nil) -> Tensor {
    ATen.tensor("aten::log_softmax.int", [.tensor(self), .int(axis), .optional(dtype)])
  }

  /// How a loss joins the losses of its elements.
  public enum Reduction: Int, Sendable {
    case none = 0
    case mean = 1
    case sum = 2
  }

  /// −ln softmax(x)[target], in nats.
  ///
  /// This tensor holds logits, [N, C] or [B, C, ...]; `targets` holds classes, [N] or [B, ...].
  ///
  /// - Parameters:
  ///   - targets: int64 indices of the classes, or probabilities of this tensor's shape.
  ///   - weight: a weight a class, [C].
  ///   - reduction: how the losses are joined.
  ///   - ignoring: the target that counts for nothing.
  ///   - labelSmoothing: the share of the target that is spread over all classes.
  public func crossEntropy(
    _ targets: Tensor, weight: Tensor? = nil, reduction: Reduction = .mean,
    ignoring: Int = -100, labelSmoothing: Double = 0
  ) -> Tensor {
    ATen.tensor(
      "aten::cross_entropy_loss",
      [
        .tensor(self), .tensor(targets), .optional(weight), .int(reduction.rawValue),
        .int(ignoring), .double(labelSmoothing),
      ])
  }

  /// (x − target)², joined as `reduction` says.
  public func squaredError(_ target: Tensor, reduction: Reduction = .mean) -> Tensor {
    ATen.tensor("aten::mse_loss", [.tensor(self), .tensor(target), .int(reduction.rawValue)])
  }

  /// (x − mean) / √(variance + ε) · weight + bias over the last axes, which have `shape`.
  public func layerNorm(
    _ shape: [Int], weight: Tensor? = nil, bias: Tensor? = nil, epsilon: Double = 1e-5
  ) -> Tensor {
    ATen.tensor(
      "aten::layer_norm",
      [.tensor(self), .ints(shape), .optional(weight), .optional(bias), .double(epsilon)])
  }

  /// x / √(mean x² + ε) · weight over the last axes, which have `shape`.
  public func rmsNorm(_ shape: [Int], weight: Tensor? = nil, epsilon: Double = 1e-6) -> Tensor {
    ATen.tensor(
      "aten::rms_norm", [.tensor(self), .ints(shape), .optional(weight), .double(epsilon)])
  }

  /// Elements set to zero with `probability`, the others divided by what is left, if `training`.
  public func dropout(_ probability: Double, training: Bool) -> Tensor {
    if !training || probability == 0 { return self }
    return ATen.tensor("aten::dropout", [.tensor(self), .double(probability), true])
  }
}

// MARK: - Sequences

extension Tensor {
  /// The cross-correlation of this signal, [B, C, N], with a filter bank.
  ///
  /// - Parameters:
  ///   - weight: [O, C / groups, width].
  ///   - bias: [O].
  ///   - stride: the distance of neighboring outputs.
  ///   - padding: zeros added at both ends.
  ///   - dilation: the distance of neighboring taps.
  ///   - groups: channels are cut into as many groups, each with filters of its own.
  /// - Returns: [B, O, (N + 2·padding − dilation·(width − 1) − 1) / stride + 1].
  public func conv1d(
    _ weight: Tensor, bias: Tensor? = nil, stride: Int = 1, padding: Int = 0, dilation: Int = 1,
    groups: Int = 1
  ) -> Tensor {
    ATen.tensor(
      "aten::conv1d",
      [
        .tensor(self), .tensor(weight), .optional(bias), [stride], [padding], [dilation],
        .int(groups),
      ])
  }

  /// The maximum of `width` neighbors on the last axis.
  public func maxPool1d(_ width: Int, stride: Int? = nil, padding: Int = 0) -> Tensor {
    ATen.tensor("aten::max_pool1d", [.tensor(self), [width], [stride ?? width], [padding]])
  }

  /// The mean of `width` neighbors on the last axis.
  public func avgPool1d(_ width: Int, stride: Int? = nil, padding: Int = 0) -> Tensor {
    ATen.tensor("aten::avg_pool1d", [.tensor(self), [width], [stride ?? width], [padding]])
  }

  /// A long short-term memory run over this sequence, [B, N, D].
  ///
  /// - Parameters:
  ///   - state: hidden and cell, [layers · directions, B, width] each.
  ///   - parameters: for every layer and direction W_ih [4·width, in], W_hh [4·width, width] and,
  ///     if `hasBiases`, b_ih and b_hh [4·width]; gates in the order input, forget, cell, output.
  ///   - hasBiases: whether the parameters hold biases.
  ///   - layers: how many are stacked.
  ///   - dropout: the probability of zeros between layers while training.
  ///   - training: whether to drop.
  ///   - bidirectional: whether a second direction runs from the end.
  /// - Returns: the outputs [B, N, width · directions] and the last state.
  public func lstm(
    state: (hidden: Tensor, cell: Tensor), parameters: [Tensor], hasBiases: Bool = true,
    layers: Int = 1, dropout: Double = 0, training: Bool = false, bidirectional: Bool = false
  ) -> (outputs: Tensor, hidden: Tensor, cell: Tensor) {
    let results = ATen.tensors(
      "aten::lstm.input",
      [
        .tensor(self), .tensors([state.hidden, state.cell]), .tensors(parameters),
        .bool(hasBiases), .int(layers), .double(dropout), .bool(training), .bool(bidirectional),
        true,
      ])
    return (results[0], results[1], results[2])
  }
}

/// softmax(scale · Q Kᵀ + mask) V by libtorch's fused kernels.
///
/// - Parameters:
///   - queries: [B, H, N, D].
///   - keys: [B, G, M, D]; H a multiple of G if `groupedQueries`, else G = H.
///   - values: [B, G, M, D'].
///   - mask: added to the logits, or true where a key is seen; broadcasts to [B, H, N, M].
///   - isCausal: query i sees keys up to i; then there is no mask.
///   - scale: 1/√D by default.
///   - groupedQueries: whether H/G queries share a key head.
///   - dropout: the probability of zeros among the weights.
/// - Returns: [B, H, N, D'].
public func scaledDotProductAttention(
  queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor? = nil, isCausal: Bool = false,
  scale: Double? = nil, groupedQueries: Bool = false, dropout: Double = 0
) -> Tensor {
  ATen.tensor(
    "aten::scaled_dot_product_attention",
    [
      .tensor(queries), .tensor(keys), .tensor(values), .optional(mask), .double(dropout),
      .bool(isCausal),
    ],
    named: ["scale": .optional(scale), "enable_gqa": .bool(groupedQueries)])
}
