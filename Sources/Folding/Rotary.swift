/// Rotary position embedding of queries and keys, in HF's half-split convention: channel i pairs
/// with channel i + d/2, which turn by `position · base^(−2i/d)`.
///
/// Source: Su et al., "RoFormer" (2021), section 3.4.
public struct Rotary: Sendable, Hashable, Codable {
  /// Whose position the angle is.
  public enum Positions: String, Sendable, Hashable, Codable, CaseIterable {
    /// No rotation.
    case none
    /// In the pass of mode k, all d channels turn by the mode's own position: `⌊t / s_k⌋` for the
    /// sliding support, `a_k(t)` for the block ones. Neighbors along a mode are 1 apart.
    case mode
    /// One ordinary embedding at t, the same in every pass. Neighbors along a mode are `s_k` apart.
    case sequence
  }

  /// How angles are changed to serve longer sequences than a model was trained on.
  public enum Scaling: Sendable, Hashable, Codable {
    /// Positions as they are.
    case none
    /// Position interpolation: position / factor (Chen et al. 2023).
    case linear(factor: Double)
    /// NTK-aware: base · factor^(d/(d−2)).
    case ntk(factor: Double)
    /// YaRN (Peng et al. 2023): fast channels keep their frequency, slow ones are interpolated, with
    /// a ramp between; cosines and sines are multiplied by 0.1·ln(factor) + 1.
    case yarn(factor: Double, trainedLength: Int)
  }

  /// Whose position the angle is.
  public var positions: Positions
  /// The base of the frequencies; 10 000 in Llama.
  public var base: Double
  /// The scaling of mode k at index k − 1; modes beyond the array are not scaled.
  public var scaling: [Scaling]

  /// Creates an embedding.
  public init(_ positions: Positions, base: Double = 10_000, scaling: [Scaling] = []) {
    require(base > 1, "The rotary base must exceed 1, got \(base).")
    self.positions = positions
    self.base = base
    self.scaling = scaling
  }

  /// No rotation.
  public static let none = Rotary(.none)
}
