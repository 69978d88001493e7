import AttentionCore

// What stands between a row of products ⟨q, k⟩·scale·log2(e) and the logits of a pass, shared by the
// forward and the backward sweep. Columns are counted from the first key of the block.

/// Adds β and the mode bias and puts the diagonal right: no β there, and ℓ in joint normalization.
///
/// - Parameters:
///   - columns: whole vectors.
///   - bias: the query's row of the bias, indexed by the place of the key.
///   - keys: the places of the block's keys.
///   - place: the place of the query.
///   - carried: ℓ of the pass below.
@inline(__always)
func adjustLogits(
  _ score: UnsafeMutablePointer<Float>, _ columns: Range<Int>, beta: Float,
  bias: UnsafePointer<Float>?, keys: Range<Int>, place: Int, carried: Float?
) {
  if let bias {
    let row = bias + keys.lowerBound
    var j = columns.lowerBound
    while j < columns.upperBound {
      store(load(score + j).addingProduct(load(row + j), Lanes(repeating: log2e)), score + j)
      j += laneCount
    }
  }
  let holdsDiagonal = keys.contains(place)
  let diagonal = place - keys.lowerBound
  let own = holdsDiagonal ? score[diagonal] : 0
  if beta != 0 {
    let shift = Lanes(repeating: beta * log2e)
    var j = columns.lowerBound
    while j < columns.upperBound {
      store(load(score + j) + shift, score + j)
      j += laneCount
    }
  }
  if holdsDiagonal { score[diagonal] = carried.map { $0 * log2e } ?? own }
}

/// Sets the columns outside from ..< to, in the vectors that hold its ends, to −∞.
@inline(__always)
func maskEdges(_ score: UnsafeMutablePointer<Float>, from: Int, to: Int) {
  let hidden = Lanes(repeating: -.infinity)
  if from % laneCount != 0 {
    let j = from / laneCount * laneCount
    let limit = IntLanes(repeating: Int32(truncatingIfNeeded: from - j))
    store(load(score + j).replacing(with: hidden, where: laneIndices() .< limit), score + j)
  }
  if to % laneCount != 0 {
    let j = to / laneCount * laneCount
    let limit = IntLanes(repeating: Int32(truncatingIfNeeded: to - j))
    store(load(score + j).replacing(with: hidden, where: laneIndices() .>= limit), score + j)
  }
}

/// Sets whole vectors of columns to 0.
@inline(__always)
func clear(_ score: UnsafeMutablePointer<Float>, _ columns: Range<Int>) {
  var j = columns.lowerBound
  while j < columns.upperBound {
    store(Lanes.zero, score + j)
    j += laneCount
  }
}

/// The whole vectors that hold a range of columns.
@inline(__always)
func vectors(_ columns: Range<Int>) -> Range<Int> {
  columns.lowerBound / laneCount * laneCount..<(columns.upperBound + laneCount - 1) / laneCount
    * laneCount
}

extension Range<Int> {
  /// The part of the range within `block`, counted from the block's first; possibly empty.
  @inline(__always)
  func within(_ block: Range<Int>) -> Range<Int> {
    let lower = Swift.max(lowerBound, block.lowerBound)
    return lower - block.lowerBound..<Swift.max(lower, Swift.min(upperBound, block.upperBound))
      - block.lowerBound
  }
}
