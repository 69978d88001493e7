import AttentionCore
import Folding

/// A piece of work: some queries (or keys) of one line of one head of one sequence.
struct Unit {
  let sequence: Int
  let head: Int
  let fiber: Fiber
  /// The places on the line.
  let places: Range<Int>
}

/// Cuts a pass into units and the units into tasks, by the problem alone and never by the number of
/// threads, so that results do not depend on it.
struct WorkPlan {
  let fibers: Fibers
  let heads: Int
  let sequences: Int
  private let mostTasks: Int
  private let lines: Int
  private let chunks: Int
  private let chunkPlaces: Int

  /// - Parameter largest: the most places of a unit.
  /// - Parameter mostTasks: the most tasks.
  init(fibers: Fibers, heads: Int, sequences: Int, largest: Int, mostTasks: Int = 128) {
    self.mostTasks = mostTasks
    self.fibers = fibers
    self.heads = heads
    self.sequences = sequences
    lines = fibers.count
    var longest = 0
    // The first lines of a group are the longest, and groups differ only at the ends.
    for line in [0, fibers.mode.stride, lines - 1] where (0..<lines).contains(line) {
      longest = max(longest, fibers[line].queries.count)
    }
    let pieces = max(1, (longest + largest - 1) / largest)
    let even = (longest + pieces - 1) / pieces
    chunkPlaces = max(tileRows, (even + tileRows - 1) / tileRows * tileRows)
    chunks = max(1, (longest + chunkPlaces - 1) / chunkPlaces)
  }

  /// The number of units, some of which may be nil.
  var count: Int { sequences * heads * lines * chunks }

  /// The number of tasks: enough to balance, few enough to share a scratch among many units.
  var tasks: Int { min(count, mostTasks) }

  /// The units of a task.
  func units(of task: Int) -> Range<Int> {
    task * count / tasks..<(task + 1) * count / tasks
  }

  /// The head of a unit.
  func head(_ index: Int) -> Int { index / (chunks * lines) % heads }

  /// The unit with a number, or nil if its line ends before its chunk begins.
  func unit(_ index: Int) -> Unit? {
    let chunk = index % chunks
    let line = index / chunks % lines
    let sequence = index / (chunks * lines * heads)
    let fiber = fibers[line]
    let lower = fiber.queries.lowerBound + chunk * chunkPlaces
    let upper = min(fiber.queries.upperBound, lower + chunkPlaces)
    guard lower < upper else { return nil }
    return Unit(sequence: sequence, head: head(index), fiber: fiber, places: lower..<upper)
  }
}

/// Memory for the tiles of one task, aligned to cache lines, cut into pieces front to back and not
/// initialized.
struct Scratch: ~Copyable {
  private let base: UnsafeMutableRawPointer
  private let capacity: Int
  private var used = 0

  init(floats: Int) {
    capacity = floats + 16 * 32
    base = UnsafeMutableRawPointer.allocate(byteCount: capacity * 4, alignment: 64)
  }

  /// The next `count` floats.
  mutating func take(_ count: Int) -> UnsafeMutablePointer<Float> {
    let start = base.advanced(by: used * 4).assumingMemoryBound(to: Float.self)
    used += (count + 15) / 16 * 16
    require(used <= capacity, "The scratch of \(capacity) floats is too small for \(used).")
    return start
  }

  deinit { base.deallocate() }
}

/// How the mode bias is laid out so that a row can be read by whole vectors in the order of the keys.
///
/// Block supports: rows of n_k keys. Sliding: one row by falling distance, n_k − 1 … 0, so that it
/// runs with the keys. Either has room for a vector on both sides.
struct BiasLayout {
  let heads: Int
  let rows: Int
  private let size: Int
  private let isSliding: Bool
  private let headStride: Int
  private let rowStride: Int

  init(_ arguments: PassArguments) {
    size = arguments.mode.size
    isSliding = arguments.support == .slidingCausal
    rows = isSliding ? 1 : size
    rowStride = size + 2 * laneCount
    heads = arguments.biasHeadStride == 0 ? 1 : arguments.shape.heads
    headStride = heads == 1 ? 0 : rows * rowStride
  }

  /// The number of floats.
  var count: Int { heads * rows * rowStride }

  /// Where the row of the query at `place` begins, indexed by the place of the key.
  func offset(head: Int, place: Int) -> Int {
    head * headStride + laneCount + (isSliding ? size - 1 - place : place * rowStride)
  }

  /// Calls `body` with the index of each value in the caller's array and in this layout.
  func forEach(_ body: (_ outer: Int, _ inner: Int) -> Void) {
    for head in 0..<heads {
      for row in 0..<rows {
        for i in 0..<size {
          body(
            (head * rows + row) * size + (isSliding ? size - 1 - i : i),
            (head * rows + row) * rowStride + laneCount + i)
        }
      }
    }
  }
}

/// A mode bias in its ``BiasLayout``.
final class BiasRows {
  private let layout: BiasLayout
  private let base: UnsafeMutablePointer<Float>

  init(_ bias: UnsafePointer<Float>, _ layout: BiasLayout) {
    self.layout = layout
    base = .allocate(capacity: layout.count)
    base.initialize(repeating: 0, count: layout.count)
    layout.forEach { outer, inner in base[inner] = bias[outer] }
  }

  /// The bias of the query at `place`, indexed by the place of the key.
  func row(head: Int, place: Int) -> UnsafePointer<Float> {
    UnsafePointer(base) + layout.offset(head: head, place: place)
  }

  deinit { base.deallocate() }
}

/// Calls `body` with the angles of a pass for the places 0 ..< `places`, counted from a unit's first
/// key, or with nil where nothing is rotated.
func withRotaryRows(
  _ arguments: PassArguments, places: Int, _ body: (RotaryRows?) -> Void
) {
  guard let angles = arguments.angles else { return body(nil) }
  let table = RotaryTable(angles, places: places)
  table.values.withUnsafeBufferPointer { values in
    body(values.baseAddress.map { RotaryRows(base: $0, width: table.width) })
  }
}

extension Fiber {
  /// How many of the line's tokens lie before `length`.
  func count(within length: Int) -> Int {
    max(0, min(count, (length - start + stride - 1) / stride))
  }
}

extension Range<Int> {
  /// The range cut into nearly equal pieces of at most `most`, all but the last of whole micro-tiles.
  func pieces(of most: Int) -> [Range<Int>] {
    guard !isEmpty else { return [] }
    let number = (count + most - 1) / most
    let even = (count + number - 1) / number
    let step = (even + tileRows - 1) / tileRows * tileRows
    return Swift.stride(from: lowerBound, to: upperBound, by: step).map {
      $0..<Swift.min($0 + step, upperBound)
    }
  }
}
