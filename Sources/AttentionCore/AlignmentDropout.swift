import Folding

/// Dropout of alignment weights: after the denominator is known, E_t and E_s are each kept with
/// probability √p and divided by it, so that a product of both is kept with probability p.
///
/// The choice for an element is a hash of the seed and its indices. So every implementation makes the
/// same one, in any order, and the backward pass makes it again instead of storing it.
public struct AlignmentDropout: Sendable, Hashable {
  /// p, the probability with which a product of both weights is kept.
  public var keepProbability: Double
  /// A training step draws another mask with another seed.
  public var seed: UInt64

  /// Describes dropout.
  ///
  /// - Precondition: 0 < p ≤ 1.
  public init(keepProbability: Double, seed: UInt64) {
    require(
      keepProbability > 0 && keepProbability <= 1,
      "Dropout keeps with a probability above 0 and at most 1, got \(keepProbability).")
    self.keepProbability = keepProbability
    self.seed = seed
  }

  /// Which weights an element belongs to.
  public enum Stream: UInt64, Sendable {
    /// E_t: rows are queries, columns keys.
    case tokens = 0
    /// E_s: rows are keys, columns features.
    case source = 1
  }

  /// 1/√p, the factor on what is kept.
  public var factor: Double { 1 / keepProbability.squareRoot() }

  /// An element is kept if the upper 24 bits of its hash are below this.
  public var threshold: UInt32 { UInt32((keepProbability.squareRoot() * 0x1p24).rounded()) }

  /// The part of the hash that the elements of a row share.
  ///
  /// - Parameter head: the index b·H + h.
  public func rowKey(_ stream: Stream, head: Int, row: Int) -> UInt32 {
    var x = AlignmentDropout.mixed(seed ^ (stream.rawValue &* 0x9E37_79B9_7F4A_7C15))
    x = AlignmentDropout.mixed(x &+ UInt64(truncatingIfNeeded: head))
    x = AlignmentDropout.mixed(x &+ UInt64(truncatingIfNeeded: row))
    return UInt32(truncatingIfNeeded: x >> 32)
  }

  /// The constants of ``isKept(rowKey:column:)``: the distance between columns, and two multipliers.
  public static let step: UInt32 = 0x9E37_79B9
  /// See ``step``.
  public static let multipliers: (UInt32, UInt32) = (0x7FEB_352D, 0x846C_A68B)

  /// Whether the element in a column of a row is kept.
  public func isKept(rowKey: UInt32, column: Int) -> Bool {
    // An avalanche of 32 bits: multiplications carry low bits up, shifts bring high bits down.
    var x = rowKey &+ UInt32(truncatingIfNeeded: column) &* AlignmentDropout.step
    x ^= x >> 16
    x = x &* AlignmentDropout.multipliers.0
    x ^= x >> 15
    x = x &* AlignmentDropout.multipliers.1
    x ^= x >> 16
    return x >> 8 < threshold
  }

  /// One 64-bit avalanche.
  private static func mixed(_ value: UInt64) -> UInt64 {
    var x = value &+ 0x9E37_79B9_7F4A_7C15
    x = (x ^ (x >> 30)) &* 0xBF58_476D_1CE4_E5B9
    x = (x ^ (x >> 27)) &* 0x94D0_49BB_1331_11EB
    return x ^ (x >> 31)
  }
}
