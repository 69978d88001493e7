import Synchronization

/// The plans of shapes that were asked for before: forming a plan's macros takes microseconds, and a call asks
/// for the same ones a dozen times.
final class PlanMemo<Shape: Hashable & Sendable, Plans: Sendable>: Sendable {
  private let known = Mutex<[Shape: Plans]>([:])

  /// The plans of a shape, formed on first use.
  func callAsFunction(_ shape: Shape, forming form: () -> Plans) -> Plans {
    if let plans = known.withLock({ $0[shape] }) { return plans }
    let plans = form()
    known.withLock { $0[shape] = plans }
    return plans
  }
}
