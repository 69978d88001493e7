import Dispatch

/// Runs independent tasks, on whatever threads its owner provides.
///
/// The kernels cut their work into tasks that do not depend on the number of threads and write
/// disjoint memory, so results are bitwise the same under every executor. A program that also uses
/// libtorch passes libtorch's own pool here: two pools would fight over the cores.
public struct ParallelExecutor: Sendable {
  private let body: @Sendable (_ count: Int, _ task: (Int) -> Void) -> Void

  /// Wraps a function that runs `task(0) … task(count − 1)` in any order and returns when all ended.
  public init(_ body: @escaping @Sendable (_ count: Int, _ task: (Int) -> Void) -> Void) {
    self.body = body
  }

  /// Runs `count` tasks and returns when all have ended.
  public func run(_ count: Int, _ task: (Int) -> Void) {
    if count > 0 { body(count, task) }
  }

  /// One task after the other on the calling thread.
  public static let serial = ParallelExecutor { count, task in
    for index in 0..<count { task(index) }
  }

  /// The threads of Dispatch, one a core.
  public static let dispatch = ParallelExecutor { count, task in
    // Tasks write disjoint memory, which the type system cannot see.
    nonisolated(unsafe) let task = task
    DispatchQueue.concurrentPerform(iterations: count, execute: { task($0) })
  }
}
