import Foundation

/// A learning rate that rises linearly and falls along a half cosine:
///
///     rate(s) = peak · (s + 1) / w                                    for s < w
///     rate(s) = final + (peak − final) · (1 + cos(π·(s − w)/(S − w))) / 2   for w ≤ s < S
///     rate(s) = final                                                 for s ≥ S
///
/// with w warm-up steps and S steps in all.
public struct CosineSchedule: Sendable, Hashable {
  /// The highest rate.
  public let peak: Double
  /// The rate at the end.
  public let final: Double
  /// w.
  public let warmUpSteps: Int
  /// S.
  public let steps: Int

  /// Creates a schedule.
  public init(peak: Double, final: Double, warmUpSteps: Int, steps: Int) {
    precondition(
      warmUpSteps >= 0 && steps >= 0,
      "A schedule needs counts of steps, got \(warmUpSteps) of \(steps).")
    self.peak = peak
    self.final = final
    self.warmUpSteps = warmUpSteps
    self.steps = steps
  }

  /// The rate of a step, counted from 0.
  public func rate(step: Int) -> Double {
    if step < warmUpSteps { return peak * Double(step + 1) / Double(warmUpSteps) }
    guard step < steps else { return final }
    let progress = Double(step - warmUpSteps) / Double(steps - warmUpSteps)
    return final + (peak - final) * (1 + cos(.pi * progress)) / 2
  }
}
