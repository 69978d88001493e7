import AttentionCore
import Folding

/// Multi-mask attention backward, by recomputation of E_t tile by tile.
///
/// With G = dO/denominator and H = −G∘O, both relative to the references:
///
///     dlog φ_t = E_t∘(μ∘(G·(V∘E_s∘ν)ᵀ) + H·E_sᵀ),   X = (E_t∘μ)ᵀ·G,   Y = E_tᵀ·H
///     dv = ν∘E_s∘X,   dlog φ_s = E_s∘(ν∘v∘X + Y),   dq = scale·dt·K,   dk = scale·dtᵀ·Q
///
/// Seven products a tile. A unit owns some blocks of keys of a head and meets every query that sees
/// them, so dk, dv and ds are its own. Each unit of a head sums dq by itself and the sums are added
/// in a fixed order: the gradients are bitwise the same in any order of the units.
public enum MultiMaskBackward {
  /// The most keys, and queries, of a tile.
  static let blockSize = 192
  /// Heads are cut until there are so many units: each but the first costs a dq.
  private static let wantedUnits = 16

  /// Runs the backward pass.
  public static func run(
    _ arguments: MultiMaskArguments, _ rows: MultiMaskBackwardRows, executor: ParallelExecutor
  ) {
    let shape = arguments.shape
    let heads = shape.batch * shape.heads
    guard heads * shape.tokens > 0 else { return }
    let blocks = (shape.tokens + blockSize - 1) / blockSize
    let parts = max(1, min(blocks, (wantedUnits + heads - 1) / heads))
    let source = SourceReferences(arguments, rows.forward.sourceLogits, executor: executor)
    let sums = QuerySums(shape, parts: parts)
    nonisolated(unsafe) let (rows, shared) = (rows, source)
    let tasks = min(heads * parts, 128)
    executor.run(tasks) { task in
      var worker = MultiMaskBackwardWorker(arguments, rows, shared)
      for unit in task * heads * parts / tasks..<(task + 1) * heads * parts / tasks {
        let head = MaskedHead(arguments, index: unit / parts)
        let part = unit % parts
        for block in stride(from: part, to: blocks, by: parts) {
          let lower = block * blockSize
          worker.run(
            head, keys: lower..<min(shape.tokens, lower + blockSize),
            queriesGradient: part == 0 ? rows.queriesGradient : sums.rows(part))
        }
      }
    }
    sums.reduce(into: rows.queriesGradient, executor: executor)
  }
}

/// dq of every part of the heads but the first, whose sums go to the caller's memory.
private final class QuerySums: Sendable {
  private let shape: AttentionShape
  private let parts: Int
  // Units write disjoint rows, which the type system cannot see.
  nonisolated(unsafe) private let base: UnsafeMutablePointer<Float>

  private var count: Int { shape.batch * shape.heads * shape.tokens * shape.width }

  init(_ shape: AttentionShape, parts: Int) {
    self.shape = shape
    self.parts = parts
    let count = shape.batch * shape.heads * shape.tokens * shape.width * (parts - 1)
    base = .allocate(capacity: max(count, 1))
    base.initialize(repeating: 0, count: count)
  }

  func rows(_ part: Int) -> MutableRows<Float> {
    let (n, d) = (shape.tokens, shape.width)
    return MutableRows(
      base + (part - 1) * count, batchStride: shape.heads * n * d, headStride: n * d,
      tokenStride: d)
  }

  /// Adds the parts in their order.
  func reduce(into target: MutableRows<Float>, executor: ParallelExecutor) {
    guard parts > 1 else { return }
    nonisolated(unsafe) let target = target
    executor.run(shape.batch * shape.heads) { head in
      for part in 1..<parts {
        let own = rows(part)
        for token in 0..<shape.tokens {
          addRow(
            own.row(head / shape.heads, head % shape.heads, token), width: shape.width, factor: 1,
            to: target.row(head / shape.heads, head % shape.heads, token))
        }
      }
    }
  }

  deinit { base.deallocate() }
}

/// target += factor·source over D channels.
@inline(__always)
func addRow(
  _ source: UnsafePointer<Float>, width: Int, factor: Float,
  to target: UnsafeMutablePointer<Float>
) {
  var i = 0
  while i + laneCount <= width {
    store(load(target + i).addingProduct(load(source + i), Lanes(repeating: factor)), target + i)
    i += laneCount
  }
  while i < width {
    target[i] += source[i] * factor
    i += 1
  }
}
