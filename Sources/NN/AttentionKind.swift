import Folding

/// Which attention a layer uses. In text and in JSON it is written
///
///     full
///     window:128
///     tensorized:32x128
///     tensorized:32x128,sliding-causal,joint,low-to-high,positions:mode,beta:-2
///
/// where everything after the fold may be left out (the second tensorized form writes the defaults
/// out) and may come in any order.
public enum AttentionKind: Sendable, Hashable {
  /// Ordinary causal attention over all tokens before.
  case full
  /// Causal attention over the last `size` tokens, the query's own included.
  case window(Int)
  /// Tensorized attention. `initialBeta` is the first value of the learned logit bias β, one scalar
  /// a head and mode except the lowest; nil leaves β out.
  case tensorized(AttentionPattern, initialBeta: Double?)

  /// The first β where none is asked for. With joint normalization it makes the far summaries
  /// start at e⁻² of a near key's weight, from where they are learned.
  public static let defaultInitialBeta = -2.0

  /// The largest number of keys that a query of a long sequence meets, nil if it grows with it.
  public var keysPerToken: Int? {
    switch self {
    case .full: nil
    case .window(let size): size
    case .tensorized(let pattern, _): pattern.fold.keysPerToken
    }
  }

  /// A short name for tables and files.
  public var name: String {
    switch self {
    case .full: "full"
    case .window(let size): "window \(size)"
    case .tensorized(let pattern, _): "tensorized \(pattern.fold)"
    }
  }

  /// Says why attention of this kind cannot see `tokens` tokens, or nil if it can: a block-causal fold
  /// has a place for so many only.
  public func objection(tokens: Int) -> String? {
    guard case .tensorized(let pattern, _) = self else { return nil }
    return pattern.objection(tokens: tokens)
  }
}
