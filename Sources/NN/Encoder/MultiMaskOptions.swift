import AttentionCore
import TensorizedAttention

/// What may differ between layers of multi-mask attention. The defaults are those of stacked
/// encoders; ``sentence`` has those of single layers.
public struct MultiMaskOptions: Codable, Sendable, Hashable {
  /// Whether the first half of the heads sees earlier tokens only and the second half later ones; else
  /// every head sees both sides.
  public var isDirectional = true
  /// Whether a token sees itself.
  public var includesSelf = false
  /// Whether queries, keys and source2token scores read the layer's input; else its values.
  public var attendsToInput = true
  /// Whether values pass through the activation.
  public var activatesValues = false
  /// Whether source2token scores have two maps with the activation in between; else one map.
  public var hasDeepSourceScore = true
  /// Whether a gate mixes values and what was attended.
  public var hasGate = false
  /// φ_t, what a token2token score weighs.
  public var tokenScore = TokenScore.exponential
  /// φ_s, what a source2token score weighs.
  public var sourceScore = SourceScore.exponential
  /// The probability with which the product of a pair's two alignment weights is dropped.
  public var dropout = 0.0

  /// The defaults.
  public init() {}

  /// The options of the published sentence models: one layer whose queries, keys and scores read
  /// activated values, sigmoid token2token weights and a gate.
  public static var sentence: MultiMaskOptions {
    var options = MultiMaskOptions()
    options.attendsToInput = false
    options.activatesValues = true
    options.hasGate = true
    options.tokenScore = .sigmoid
    return options
  }

  /// The mask of each head.
  func masks(heads: Int) -> [PositionalMask] {
    if isDirectional { return PositionalMask.directional(heads: heads, strict: !includesSelf) }
    return Array(repeating: includesSelf ? .full : .diagonalDisabled, count: heads)
  }
}
