// The one product that everything else is made of: six rows of C against one or two vectors of
// columns, C (+)= A·B with B's rows contiguous. 6 × 2 accumulators, two vectors of B and a broadcast
// of A fit the 16 registers of AVX2, and twelve independent sums hide the latency (4 cycles × 2
// units) of the fused multiply-add.

/// The rows of a micro-tile.
let tileRows = 6

/// What the sums of a tile start from.
enum TileStart {
  /// Zero: C = A·B.
  case zero
  /// What is there: C += A·B.
  case add
  /// What is there times a factor a row: C = diag(f)·C + A·B.
  case scale
}

/// C[r, 0 ..< 2V] for six rows r.
///
/// - Parameters:
///   - a: A[r, k] at `r·aRow + k·aStep`.
///   - b: B[k, ·] at `k·bStep`.
///   - count: the number of k.
///   - c: C[r, ·] at `r·cRow`.
///   - factors: six factors, read if the tile starts with `.scale`.
@inline(__always)
func multiplyWide(
  _ start: TileStart, _ a: UnsafePointer<Float>, aRow: Int, aStep: Int,
  _ b: UnsafePointer<Float>, bStep: Int, count: Int,
  _ c: UnsafeMutablePointer<Float>, cRow: Int, factors: UnsafePointer<Float>
) {
  let v = laneCount
  var c00 = Lanes.zero
  var c01 = Lanes.zero
  var c10 = Lanes.zero
  var c11 = Lanes.zero
  var c20 = Lanes.zero
  var c21 = Lanes.zero
  var c30 = Lanes.zero
  var c31 = Lanes.zero
  var c40 = Lanes.zero
  var c41 = Lanes.zero
  var c50 = Lanes.zero
  var c51 = Lanes.zero
  if start != .zero {
    (c00, c01) = (load(c), load(c + v))
    (c10, c11) = (load(c + cRow), load(c + cRow + v))
    (c20, c21) = (load(c + 2 * cRow), load(c + 2 * cRow + v))
    (c30, c31) = (load(c + 3 * cRow), load(c + 3 * cRow + v))
    (c40, c41) = (load(c + 4 * cRow), load(c + 4 * cRow + v))
    (c50, c51) = (load(c + 5 * cRow), load(c + 5 * cRow + v))
  }
  if start == .scale {
    (c00, c01) = (c00 * factors[0], c01 * factors[0])
    (c10, c11) = (c10 * factors[1], c11 * factors[1])
    (c20, c21) = (c20 * factors[2], c21 * factors[2])
    (c30, c31) = (c30 * factors[3], c31 * factors[3])
    (c40, c41) = (c40 * factors[4], c41 * factors[4])
    (c50, c51) = (c50 * factors[5], c51 * factors[5])
  }
  var a = a
  var b = b
  for _ in 0..<count {
    let b0 = load(b)
    let b1 = load(b + v)
    var x = Lanes(repeating: a[0])
    c00 = c00.addingProduct(x, b0)
    c01 = c01.addingProduct(x, b1)
    x = Lanes(repeating: a[aRow])
    c10 = c10.addingProduct(x, b0)
    c11 = c11.addingProduct(x, b1)
    x = Lanes(repeating: a[2 * aRow])
    c20 = c20.addingProduct(x, b0)
    c21 = c21.addingProduct(x, b1)
    x = Lanes(repeating: a[3 * aRow])
    c30 = c30.addingProduct(x, b0)
    c31 = c31.addingProduct(x, b1)
    x = Lanes(repeating: a[4 * aRow])
    c40 = c40.addingProduct(x, b0)
    c41 = c41.addingProduct(x, b1)
    x = Lanes(repeating: a[5 * aRow])
    c50 = c50.addingProduct(x, b0)
    c51 = c51.addingProduct(x, b1)
    a += aStep
    b += bStep
  }
  store(c00, c)
  store(c01, c + v)
  store(c10, c + cRow)
  store(c11, c + cRow + v)
  store(c20, c + 2 * cRow)
  store(c21, c + 2 * cRow + v)
  store(c30, c + 3 * cRow)
  store(c31, c + 3 * cRow + v)
  store(c40, c + 4 * cRow)
  store(c41, c + 4 * cRow + v)
  store(c50, c + 5 * cRow)
  store(c51, c + 5 * cRow + v)
}

/// C[r, 0 ..< V] for six rows r: the columns that ``multiplyWide`` leaves over.
@inline(__always)
func multiplyNarrow(
  _ start: TileStart, _ a: UnsafePointer<Float>, aRow: Int, aStep: Int,
  _ b: UnsafePointer<Float>, bStep: Int, count: Int,
  _ c: UnsafeMutablePointer<Float>, cRow: Int, factors: UnsafePointer<Float>
) {
  var c0 = Lanes.zero
  var c1 = Lanes.zero
  var c2 = Lanes.zero
  var c3 = Lanes.zero
  var c4 = Lanes.zero
  var c5 = Lanes.zero
  if start != .zero {
    c0 = load(c)
    c1 = load(c + cRow)
    c2 = load(c + 2 * cRow)
    c3 = load(c + 3 * cRow)
    c4 = load(c + 4 * cRow)
    c5 = load(c + 5 * cRow)
  }
  if start == .scale {
    c0 *= factors[0]
    c1 *= factors[1]
    c2 *= factors[2]
    c3 *= factors[3]
    c4 *= factors[4]
    c5 *= factors[5]
  }
  var a = a
  var b = b
  for _ in 0..<count {
    let b0 = load(b)
    c0 = c0.addingProduct(Lanes(repeating: a[0]), b0)
    c1 = c1.addingProduct(Lanes(repeating: a[aRow]), b0)
    c2 = c2.addingProduct(Lanes(repeating: a[2 * aRow]), b0)
    c3 = c3.addingProduct(Lanes(repeating: a[3 * aRow]), b0)
    c4 = c4.addingProduct(Lanes(repeating: a[4 * aRow]), b0)
    c5 = c5.addingProduct(Lanes(repeating: a[5 * aRow]), b0)
    a += aStep
    b += bStep
  }
  store(c0, c)
  store(c1, c + cRow)
  store(c2, c + 2 * cRow)
  store(c3, c + 3 * cRow)
  store(c4, c + 4 * cRow)
  store(c5, c + 5 * cRow)
}

/// Six rows of scores against panels of transposed keys: S[r, j] = Σ_d A[r, d]·Bᵀ[d, j].
///
/// - Parameters:
///   - a: six rows of D channels, `aRow` apart.
///   - panels: `[panel, Dp, 2V]`.
///   - range: the panels wanted.
///   - width: D, the channels to sum over.
@inline(never)
func multiplyPanels(
  _ a: UnsafePointer<Float>, aRow: Int, panels: UnsafePointer<Float>, range: Range<Int>,
  width: Int, into s: UnsafeMutablePointer<Float>, sRow: Int
) {
  multiplyAgainstPanels(
    .zero, a, aRow: aRow, panels: panels, range: range, width: width, into: s, sRow: sRow)
}

/// As ``multiplyPanels(_:aRow:panels:range:width:into:sRow:)``, added to what is there.
@inline(never)
func multiplyPanelsAdding(
  _ a: UnsafePointer<Float>, aRow: Int, panels: UnsafePointer<Float>, range: Range<Int>,
  width: Int, into s: UnsafeMutablePointer<Float>, sRow: Int
) {
  multiplyAgainstPanels(
    .add, a, aRow: aRow, panels: panels, range: range, width: width, into: s, sRow: sRow)
}

@inline(__always)
private func multiplyAgainstPanels(
  _ start: TileStart, _ a: UnsafePointer<Float>, aRow: Int, panels: UnsafePointer<Float>,
  range: Range<Int>, width: Int, into s: UnsafeMutablePointer<Float>, sRow: Int
) {
  let columns = 2 * laneCount
  let panelSize = padded(width) * columns
  for panel in range {
    multiplyWide(
      start, a, aRow: aRow, aStep: 1, panels + panel * panelSize, bStep: columns,
      count: width, s + panel * columns, cRow: sRow, factors: a)
  }
}

/// Six rows over all Dp channels: pairs of vectors, and the one that may be left.
@inline(__always)
private func multiplyAcross(
  _ start: TileStart, _ a: UnsafePointer<Float>, aRow: Int, aStep: Int,
  _ b: UnsafePointer<Float>, count: Int, _ c: UnsafeMutablePointer<Float>, paddedWidth: Int,
  factors: UnsafePointer<Float>
) {
  var column = 0
  while column + 2 * laneCount <= paddedWidth {
    multiplyWide(
      start, a, aRow: aRow, aStep: aStep, b + column, bStep: paddedWidth, count: count, c + column,
      cRow: paddedWidth, factors: factors)
    column += 2 * laneCount
  }
  if column < paddedWidth {
    multiplyNarrow(
      start, a, aRow: aRow, aStep: aStep, b + column, bStep: paddedWidth, count: count, c + column,
      cRow: paddedWidth, factors: factors)
  }
}

/// Six rows of outputs over all Dp channels: C = diag(f)·C + A·B, A's rows `aRow` apart.
@inline(never)
func multiplyRowsScaled(
  _ a: UnsafePointer<Float>, aRow: Int, _ b: UnsafePointer<Float>, count: Int,
  _ c: UnsafeMutablePointer<Float>, paddedWidth: Int, factors: UnsafePointer<Float>
) {
  multiplyAcross(
    .scale, a, aRow: aRow, aStep: 1, b, count: count, c, paddedWidth: paddedWidth,
    factors: factors)
}

/// Six rows over all Dp channels: C += A·B, A's rows `aRow` apart.
@inline(never)
func multiplyRowsAdding(
  _ a: UnsafePointer<Float>, aRow: Int, _ b: UnsafePointer<Float>, count: Int,
  _ c: UnsafeMutablePointer<Float>, paddedWidth: Int
) {
  multiplyAcross(
    .add, a, aRow: aRow, aStep: 1, b, count: count, c, paddedWidth: paddedWidth, factors: a)
}

/// Six rows over all Dp channels: C += Aᵀ·B, where six neighbors of a row of A are the six rows of Aᵀ
/// and its rows are `aStep` apart.
@inline(never)
func multiplyColumnsAdding(
  _ a: UnsafePointer<Float>, aStep: Int, _ b: UnsafePointer<Float>, count: Int,
  _ c: UnsafeMutablePointer<Float>, paddedWidth: Int
) {
  multiplyAcross(
    .add, a, aRow: 1, aStep: aStep, b, count: count, c, paddedWidth: paddedWidth, factors: a)
}
