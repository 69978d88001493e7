import AttentionCore
import Folding

/// One pass backward, by recomputation from ℓ': no probability is stored beyond a tile.
///
///     D(t) = ⟨du'(t), u'(t)⟩ − dℓ'(t),   dz(t,t') = p(t,t')·(⟨du'(t), u(t')⟩ − D(t))
///     du(t') = Σ_t p(t,t') du'(t),   dq = scale·Σ dz k,   dk = scale·Σ dz q
///
/// A unit owns a piece of a line, as keys and as queries. Pairs of tokens both inside cost five
/// products; pairs that only its keys see from outside four (no dq), and pairs that only its queries
/// see three (no dk, du). Nothing is added to memory that another unit writes, so the gradients are
/// bitwise the same in any order of the units.
public enum BackwardPass {
  /// The most places of a unit.
  static let largestUnit = 384
  /// The most keys, and queries, of a tile: whole panels of 2V columns and whole micro-tiles, and room
  /// for the common mode size 128, so that its q and du' are brought in once.
  static let blockSize = 192

  /// Runs a pass.
  public static func run(
    _ arguments: PassArguments, _ rows: BackwardRows, executor: ParallelExecutor
  ) {
    let shape = arguments.shape
    let fibers = arguments.fibers
    // Every task has a bias gradient of its own; they are added in the order of the tasks.
    let plan = WorkPlan(
      fibers: fibers, heads: shape.keyHeads, sequences: shape.batch, largest: unitPlaces(fibers),
      mostTasks: rows.biasGradient == nil ? 128 : 16)
    let sums = GradientSums(
      arguments, units: plan.count, tasks: plan.tasks, beta: rows.betaGradient != nil,
      bias: rows.biasGradient != nil)
    let bias = arguments.bias.map { BiasRows($0, BiasLayout(arguments)) }
    let reach = reach(fibers)
    withRotaryRows(arguments, places: reach + 1) { rotary in
      nonisolated(unsafe) let (rows, rotary, sums) = (rows, rotary, sums)
      executor.run(plan.tasks) { task in
        var worker = BackwardWorker(
          arguments, rows, bias: bias, rotary: rotary, reach: reach,
          biasSums: sums.biasSums(task: task))
        for index in plan.units(of: task) {
          guard let unit = plan.unit(index) else { continue }
          worker.run(unit, fibers: plan.fibers, betaSums: sums.betaSums(unit: index))
        }
      }
    }
    sums.reduce(plan, into: rows)
  }

  /// Two windows of the sliding support keep the part that is computed twice small.
  private static func unitPlaces(_ fibers: Fibers) -> Int {
    fibers.support == .slidingCausal
      ? min(largestUnit, max(96, 2 * fibers.mode.size)) : largestUnit
  }

  /// The most places between a unit's first key and its last observer.
  private static func reach(_ fibers: Fibers) -> Int {
    fibers.support == .slidingCausal
      ? min(fibers.longest, largestUnit + tileRows + 2 * fibers.mode.size) : fibers.longest
  }
}

/// Sums over many units: dβ, one partial sum a unit, and the bias gradient, one a task.
final class GradientSums {
  private let beta: UnsafeMutablePointer<Double>?
  private let bias: UnsafeMutablePointer<Float>?
  private let group: Int
  private let layout: BiasLayout
  private let tasks: Int

  init(_ arguments: PassArguments, units: Int, tasks: Int, beta: Bool, bias: Bool) {
    group = arguments.shape.group
    layout = BiasLayout(arguments)
    self.tasks = tasks
    self.beta = beta ? .allocate(capacity: max(units * group, 1)) : nil
    self.beta?.initialize(repeating: 0, count: max(units * group, 1))
    let count = max(tasks * layout.count, 1)
    self.bias = bias ? .allocate(capacity: count) : nil
    self.bias?.initialize(repeating: 0, count: count)
  }

  /// One sum for each query head of the unit's group.
  func betaSums(unit: Int) -> UnsafeMutablePointer<Double>? { beta.map { $0 + unit * group } }

  /// The bias gradient of a task.
  func biasSums(task: Int) -> UnsafeMutablePointer<Float>? {
    bias.map { $0 + task * layout.count }
  }

  /// Adds the partial sums in their fixed order to what is there.
  func reduce(_ plan: WorkPlan, into rows: BackwardRows) {
    if let beta, let target = rows.betaGradient {
      var sums = [Double](repeating: 0, count: plan.heads * group)
      for index in 0..<plan.count {
        let head = plan.head(index) * group
        for i in 0..<group { sums[head + i] += beta[index * group + i] }
      }
      for (head, sum) in sums.enumerated() { target[head] += Float(sum) }
    }
    if let bias, let target = rows.biasGradient {
      layout.forEach { outer, inner in
        var sum: Double = 0
        for task in 0..<tasks { sum += Double(bias[task * layout.count + inner]) }
        target[outer] += Float(sum)
      }
    }
  }

  deinit {
    beta?.deallocate()
    bias?.deallocate()
  }
}
