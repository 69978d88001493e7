import Folding
import Foundation
import TensorizedAttention

extension PropertyReport {
  /// The pattern, its reach, and a table of the properties.
  public var text: String {
    let order = pattern.order.rawValue
    let positions = pattern.rotary.positions.rawValue
    let rows = checks.map { check in
      [check.name, check.passed.map { $0 ? "yes" : "NO" } ?? "n/a", check.detail]
    }
    return """
      \(pattern.fold) \(pattern.support.rawValue) \(pattern.normalization.rawValue) \(order), \
      positions \(positions), \(tokens) tokens, \(backend.rawValue)
      \(pattern.fold.keysPerToken) keys a token at most; reach \(keysReached)

      \(table(["property", "holds", "measured"], rows, leftAligned: 3))
      """
  }

  /// Keys reached / past keys, and the same of the whole fold if that is longer.
  private var keysReached: String {
    let counts = { (reach: Reach) in
      "\(reach.reached)/\(reach.possible) (\(String(format: "%.1f %%", reach.share * 100)))"
    }
    guard let reachOfFold, pattern.fold.capacity > tokens else { return counts(reach) }
    return "\(counts(reach)), of \(pattern.fold.capacity) tokens \(counts(reachOfFold))"
  }
}
