/// φ_t: how the product t of a query and a key becomes an alignment weight.
public enum TokenScore: String, Sendable, Hashable, Codable, CaseIterable {
  /// exp t, as in stacked layers.
  case exponential
  /// 1 / (1 + e⁻ᵗ), as in the published single layers.
  case sigmoid
}

/// φ_s: how the source2token logit s of a key and feature becomes an alignment weight.
public enum SourceScore: String, Sendable, Hashable, Codable, CaseIterable {
  /// exp s.
  case exponential
  /// 1 / (1 + e⁻ˢ).
  case sigmoid
  /// exp (s/√D).
  case scaledExponential
  /// 1 / (1 + e^(−s/√D)), as in the published translation model.
  case scaledSigmoid

  /// Whether the weight is a logistic function of the logit.
  public var isSigmoid: Bool { self == .sigmoid || self == .scaledSigmoid }

  /// The factor on s: 1, or 1/√D.
  public func factor(width: Int) -> Double {
    self == .scaledExponential || self == .scaledSigmoid ? 1 / Double(width).squareRoot() : 1
  }
}

/// What multi-mask attention computes, without its tensors.
public struct MultiMaskScheme: Sendable, Hashable {
  /// One mask a head.
  public var masks: [PositionalMask]
  /// φ_t.
  public var tokenScore: TokenScore
  /// φ_s.
  public var sourceScore: SourceScore
  /// The factor on ⟨q, k⟩.
  public var scale: Double
  /// Which alignment weights are dropped; nil for none.
  public var dropout: AlignmentDropout?

  /// Collects the choices.
  public init(
    masks: [PositionalMask], tokenScore: TokenScore = .exponential,
    sourceScore: SourceScore = .exponential, scale: Double, dropout: AlignmentDropout? = nil
  ) {
    self.masks = masks
    self.tokenScore = tokenScore
    self.sourceScore = sourceScore
    self.scale = scale
    self.dropout = dropout
  }

  /// Why the scheme does not fit a problem, or nil.
  public func objection(_ shape: AttentionShape) -> String? {
    if masks.count != shape.heads {
      return "Expected one mask for each of the \(shape.heads) heads, got \(masks.count)."
    }
    if shape.keyHeads != shape.heads {
      return "Multi-mask attention has as many key heads as query heads, got \(shape.heads) and "
        + "\(shape.keyHeads)."
    }
    return masks.lazy.compactMap { $0.objection(tokens: shape.tokens) }.first
  }
}
