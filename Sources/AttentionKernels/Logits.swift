import AttentionCore
import Folding

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

/// The columns that each of six queries sees in a block of keys; none for rows beyond the last.
struct TileBounds {
  private(set) var lower = SIMD8<Int32>.zero
  private(set) var upper = SIMD8<Int32>.zero
  /// The columns that every row sees: vectors inside need no mask.
  private(set) var inner: Range<Int>

  init(_ queries: Range<Int>, keys: Range<Int>, fibers: Fibers, keyCount: Int) {
    self.init(rows: queries.count) {
      fibers.keys(of: queries.lowerBound + $0, count: keyCount).within(keys)
    }
  }

  /// From the columns that each of up to six rows sees.
  @inline(__always)
  init(rows: Int, seen: (_ row: Int) -> Range<Int>) {
    var from = 0
    var to = rows == tileRows ? Int.max : 0
    for i in 0..<rows {
      let seen = seen(i)
      lower[i] = Int32(truncatingIfNeeded: seen.lowerBound)
      upper[i] = Int32(truncatingIfNeeded: seen.upperBound)
      from = max(from, seen.lowerBound)
      to = min(to, seen.upperBound)
    }
    inner = from..<max(from, to)
  }

  /// Whether a vector of columns lies inside for every row.
  @_transparent
  func covers(_ column: Int) -> Bool {
    column >= inner.lowerBound && column + laneCount <= inner.upperBound
  }

  /// Another value, −∞ for logits, in the columns that a row does not see.
  @_transparent
  func masked(
    _ logits: Lanes, column: Int, row: Int, with hiddenValue: Float = -.infinity
  ) -> Lanes {
    let index = laneIndices() &+ IntLanes(repeating: Int32(truncatingIfNeeded: column))
    let hidden =
      (index .< IntLanes(repeating: lower[row])) .| (index .>= IntLanes(repeating: upper[row]))
    return logits.replacing(with: Lanes(repeating: hiddenValue), where: hidden)
  }
}

/// Masks three rows of logits and finds their maxima: rows `half` to `half + 2` of a tile.
@inline(never)
func maskAndMaximize(
  _ s: UnsafeMutablePointer<Float>, stride: Int, columns: Range<Int>, bounds: TileBounds,
  half: Int, into tops: UnsafeMutablePointer<Float>
) {
  var top0 = Lanes(repeating: -.infinity)
  var top1 = top0
  var top2 = top0
  var j = columns.lowerBound
  while j < columns.upperBound {
    var (x0, x1, x2) = (load(s + j), load(s + stride + j), load(s + 2 * stride + j))
    if !bounds.covers(j) {
      x0 = bounds.masked(x0, column: j, row: half)
      x1 = bounds.masked(x1, column: j, row: half + 1)
      x2 = bounds.masked(x2, column: j, row: half + 2)
      store(x0, s + j)
      store(x1, s + stride + j)
      store(x2, s + 2 * stride + j)
    }
    top0 = larger(top0, x0)
    top1 = larger(top1, x1)
    top2 = larger(top2, x2)
    j += laneCount
  }
  tops[half] = largest(top0)
  tops[half + 1] = largest(top1)
  tops[half + 2] = largest(top2)
}

/// exp2(s − reference) of three rows in place, and their sums.
@inline(never)
func exponentiate(
  _ s: UnsafeMutablePointer<Float>, stride: Int, columns: Range<Int>,
  references: UnsafeMutablePointer<Float>, sums: UnsafeMutablePointer<Float>
) {
  let shift0 = Lanes(repeating: references[0])
  let shift1 = Lanes(repeating: references[1])
  let shift2 = Lanes(repeating: references[2])
  var sum0 = Lanes.zero
  var sum1 = Lanes.zero
  var sum2 = Lanes.zero
  var j = columns.lowerBound
  while j < columns.upperBound {
    let w0 = exp2(load(s + j) - shift0)
    let w1 = exp2(load(s + stride + j) - shift1)
    let w2 = exp2(load(s + 2 * stride + j) - shift2)
    store(w0, s + j)
    store(w1, s + stride + j)
    store(w2, s + 2 * stride + j)
    sum0 += w0
    sum1 += w1
    sum2 += w2
    j += laneCount
  }
  sums[0] = sum(sum0)
  sums[1] = sum(sum1)
  sums[2] = sum(sum2)
}

/// p = exp2(z − ℓ') and dz = p·(dp − D) of three rows in place, masked, and the sums of dz.
@inline(never)
func differentiateRows(
  _ p: UnsafeMutablePointer<Float>, _ dz: UnsafeMutablePointer<Float>, stride: Int,
  columns: Range<Int>, bounds: TileBounds, half: Int, shifts: UnsafeMutablePointer<Float>,
  corrections: UnsafeMutablePointer<Float>, totals: UnsafeMutablePointer<Float>
) {
  let (shift0, correction0) = (Lanes(repeating: shifts[0]), Lanes(repeating: corrections[0]))
  let (shift1, correction1) = (Lanes(repeating: shifts[1]), Lanes(repeating: corrections[1]))
  let (shift2, correction2) = (Lanes(repeating: shifts[2]), Lanes(repeating: corrections[2]))
  var total0 = Lanes.zero
  var total1 = Lanes.zero
  var total2 = Lanes.zero
  var j = columns.lowerBound
  while j < columns.upperBound {
    var (x0, x1, x2) = (load(p + j), load(p + stride + j), load(p + 2 * stride + j))
    var (y0, y1, y2) = (load(dz + j), load(dz + stride + j), load(dz + 2 * stride + j))
    if !bounds.covers(j) {
      x0 = bounds.masked(x0, column: j, row: half)
      x1 = bounds.masked(x1, column: j, row: half + 1)
      x2 = bounds.masked(x2, column: j, row: half + 2)
      // What hidden columns hold may not be finite, and 0·∞ is not 0.
      y0 = bounds.masked(y0, column: j, row: half, with: 0)
      y1 = bounds.masked(y1, column: j, row: half + 1, with: 0)
      y2 = bounds.masked(y2, column: j, row: half + 2, with: 0)
    }
    let (p0, p1, p2) = (exp2(x0 - shift0), exp2(x1 - shift1), exp2(x2 - shift2))
    store(p0, p + j)
    store(p1, p + stride + j)
    store(p2, p + 2 * stride + j)
    let d0 = p0 * (y0 - correction0)
    let d1 = p1 * (y1 - correction1)
    let d2 = p2 * (y2 - correction2)
    store(d0, dz + j)
    store(d1, dz + stride + j)
    store(d2, dz + 2 * stride + j)
    total0 += d0
    total1 += d1
    total2 += d2
    j += laneCount
  }
  totals[0] = sum(total0)
  totals[1] = sum(total1)
  totals[2] = sum(total2)
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

/// The whole vectors that hold a range of columns; none for an empty one, wherever it lies.
@inline(__always)
func vectors(_ columns: Range<Int>) -> Range<Int> {
  if columns.isEmpty { return 0..<0 }
  return columns.lowerBound / laneCount * laneCount..<(columns.upperBound + laneCount - 1)
    / laneCount
    * laneCount
}

extension Range<Int> {
  /// The part of the range within `block`, counted from the block's first; possibly empty.
  @_transparent
  func within(_ block: Range<Int>) -> Range<Int> {
    let lower = Swift.min(Swift.max(lowerBound, block.lowerBound), block.upperBound)
    return lower - block.lowerBound..<Swift.max(lower, Swift.min(upperBound, block.upperBound))
      - block.lowerBound
  }
}
