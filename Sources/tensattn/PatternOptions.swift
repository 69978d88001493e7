import ArgumentParser
import Folding
import TensorizedAttention
import Torch

extension Support: ExpressibleByArgument {}
extension Normalization: ExpressibleByArgument {}
extension ChainOrder: ExpressibleByArgument {}
extension Rotary.Positions: ExpressibleByArgument {}
extension Backend: ExpressibleByArgument {}

/// Options that describe an attention pattern.
struct PatternOptions: ParsableArguments {
  @Option(
    help: "The mode sizes n_1x…xn_m, top mode first, such as 16x8.",
    transform: parseFold)
  var fold: Fold

  @Option(help: "Which keys a query sees along a mode.")
  var support = Support.slidingCausal

  @Option(
    help: """
      One softmax a mode, or one over the whole row; by default joint, from high to low per-mode.
      """)
  var normalization: Normalization?

  @Option(help: "The order of the passes; joint needs low-to-high.")
  var order = ChainOrder.lowToHigh

  @Option(help: "Rotary positions: none, of each mode, or of the sequence.")
  var positions = Rotary.Positions.none

  @Option(help: "The base of the rotary frequencies.")
  var ropeBase = 10_000.0

  func validate() throws {
    if let objection = normalization?.objection(order: order) { throw ValidationError(objection) }
    guard ropeBase > 1, ropeBase < .infinity else {
      throw ValidationError("--rope-base must exceed 1, not \(ropeBase).")
    }
  }

  var pattern: AttentionPattern {
    AttentionPattern(
      fold: fold, support: support,
      normalization: normalization ?? (order == .lowToHigh ? .joint : .perMode), order: order,
      rotary: Rotary(positions, base: ropeBase))
  }
}
