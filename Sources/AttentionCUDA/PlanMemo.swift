import Synchronization

/// The plans of shapes that were asked for before: forming a plan's macros takes microseconds, and a call asks
/// for the same ones a dozen times. Forgets all when there are too many, as with a new length at every call.
package final class PlanMemo<Shape: Hashable & Sendable, Plans: Sendable>: Sendable {
  private static var most: Int { 1024 }
  private let known = Mutex<[Shape: Plans]>([:])

  package init() {}

  /// The plans of a shape, formed on first use.
  package func callAsFunction(_ shape: Shape, forming form: () -> Plans) -> Plans {
    if let plans = known.withLock({ $0[shape] }) { return plans }
    let plans = form()
    known.withLock {
      if $0.count >= Self.most { $0.removeAll() }
      $0[shape] = plans
    }
    return plans
  }
}
