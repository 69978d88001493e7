import AttentionCore

/// D rounded up to whole vectors.
func padded(_ width: Int) -> Int { (width + laneCount - 1) / laneCount * laneCount }

/// A number of keys rounded up to whole panels of 2V.
func wholePanels(_ keys: Int) -> Int {
  (keys + 2 * laneCount - 1) / (2 * laneCount) * 2 * laneCount
}

/// Cosines and sines of the places from a unit's origin on.
struct RotaryRows {
  let base: UnsafePointer<Float>
  let width: Int

  func row(_ place: Int) -> UnsafePointer<Float> { base + place * width }
}

/// Copies D channels times a factor into a row of Dp channels and clears the rest.
@inline(__always)
func packRow(
  _ source: UnsafePointer<Float>, width: Int, factor: Float,
  into target: UnsafeMutablePointer<Float>
) {
  let whole = width / laneCount * laneCount
  var i = 0
  while i < whole {
    store(load(source + i) * factor, target + i)
    i += laneCount
  }
  if whole < width {
    store(Lanes.zero, target + whole)
    while i < width {
      target[i] = source[i] * factor
      i += 1
    }
  }
}

/// Rotates D channels and multiplies them by a factor: with c, s of the place,
/// x'_i = x_i·c_i − x_{i+D/2}·s_i and x'_{i+D/2} = x_{i+D/2}·c_i + x_i·s_i.
///
/// `direction` is 1, or −1 for the transposed rotation that gradients need.
@inline(__always)
func rotateRow(
  _ source: UnsafePointer<Float>, angles: UnsafePointer<Float>, width: Int, factor: Float,
  direction: Float, into target: UnsafeMutablePointer<Float>
) {
  let half = width / 2
  var i = 0
  while i + laneCount <= half {
    let c = load(angles + i) * factor
    let s = load(angles + half + i) * (factor * direction)
    let x = load(source + i)
    let y = load(source + half + i)
    store((x * c).addingProduct(y, -s), target + i)
    store((y * c).addingProduct(x, s), target + half + i)
    i += laneCount
  }
  while i < half {
    let c = angles[i] * factor
    let s = angles[half + i] * (factor * direction)
    let x = source[i]
    let y = source[half + i]
    target[i] = x * c - y * s
    target[half + i] = y * c + x * s
    i += 1
  }
}

/// Brings rows of a line into contiguous rows of Dp channels, rotated and scaled.
///
/// - Parameters:
///   - source: the row at place 0 of the range, and the distance to the next place.
///   - places: counted from the unit's origin, to find the angles.
@inline(never)
func packRows(
  _ source: UnsafePointer<Float>, distance: Int, places: Range<Int>, width: Int, factor: Float,
  rotary: RotaryRows?, into target: UnsafeMutablePointer<Float>
) {
  let paddedWidth = padded(width)
  var source = source
  var target = target
  for place in places {
    if let rotary {
      if paddedWidth > width { store(Lanes.zero, target + paddedWidth - laneCount) }
      rotateRow(
        source, angles: rotary.row(place), width: width, factor: factor, direction: 1,
        into: target)
    } else {
      packRow(source, width: width, factor: factor, into: target)
    }
    source += distance
    target += paddedWidth
  }
}

/// V vectors, the rows of a square that is transposed in registers.
struct Square {
  #if AVX512
    var rows:
      (
        Lanes, Lanes, Lanes, Lanes, Lanes, Lanes, Lanes, Lanes,
        Lanes, Lanes, Lanes, Lanes, Lanes, Lanes, Lanes, Lanes
      )
  #else
    var rows: (Lanes, Lanes, Lanes, Lanes, Lanes, Lanes, Lanes, Lanes)
  #endif

  /// Loads rows `step` apart.
  @inline(__always)
  init(_ p: UnsafePointer<Float>, step: Int) {
    #if AVX512
      rows = (
        load(p), load(p + step), load(p + 2 * step), load(p + 3 * step),
        load(p + 4 * step), load(p + 5 * step), load(p + 6 * step), load(p + 7 * step),
        load(p + 8 * step), load(p + 9 * step), load(p + 10 * step), load(p + 11 * step),
        load(p + 12 * step), load(p + 13 * step), load(p + 14 * step), load(p + 15 * step)
      )
    #else
      rows = (
        load(p), load(p + step), load(p + 2 * step), load(p + 3 * step),
        load(p + 4 * step), load(p + 5 * step), load(p + 6 * step), load(p + 7 * step)
      )
    #endif
  }

  /// Interleaves row r with row r + V/2. With the bits of (row, lane) written side by side, this
  /// rotates them by one; log2(V) rounds exchange row and lane.
  @inline(__always)
  mutating func shuffle() {
    #if AVX512
      let a = interleave(rows.0, rows.8)
      let b = interleave(rows.1, rows.9)
      let c = interleave(rows.2, rows.10)
      let d = interleave(rows.3, rows.11)
      let e = interleave(rows.4, rows.12)
      let f = interleave(rows.5, rows.13)
      let g = interleave(rows.6, rows.14)
      let h = interleave(rows.7, rows.15)
      rows = (
        a.low, a.high, b.low, b.high, c.low, c.high, d.low, d.high,
        e.low, e.high, f.low, f.high, g.low, g.high, h.low, h.high
      )
    #else
      let a = interleave(rows.0, rows.4)
      let b = interleave(rows.1, rows.5)
      let c = interleave(rows.2, rows.6)
      let d = interleave(rows.3, rows.7)
      rows = (a.low, a.high, b.low, b.high, c.low, c.high, d.low, d.high)
    #endif
  }

  /// Exchanges rows and lanes.
  @inline(__always)
  mutating func transpose() {
    shuffle()
    shuffle()
    shuffle()
    #if AVX512
      shuffle()
    #endif
  }

  /// Stores rows `step` apart.
  @inline(__always)
  func write(_ p: UnsafeMutablePointer<Float>, step: Int) {
    store(rows.0, p)
    store(rows.1, p + step)
    store(rows.2, p + 2 * step)
    store(rows.3, p + 3 * step)
    store(rows.4, p + 4 * step)
    store(rows.5, p + 5 * step)
    store(rows.6, p + 6 * step)
    store(rows.7, p + 7 * step)
    #if AVX512
      store(rows.8, p + 8 * step)
      store(rows.9, p + 9 * step)
      store(rows.10, p + 10 * step)
      store(rows.11, p + 11 * step)
      store(rows.12, p + 12 * step)
      store(rows.13, p + 13 * step)
      store(rows.14, p + 14 * step)
      store(rows.15, p + 15 * step)
    #endif
  }
}

/// Turns packed rows `[count, Dp]` into panels `[panel, Dp, 2V]` of transposed rows.
///
/// The source needs room for a whole number of panels; what lies behind `count` rows only reaches
/// columns that the mask discards.
@inline(never)
func transposeRows(
  _ source: UnsafePointer<Float>, count: Int, paddedWidth: Int,
  into panels: UnsafeMutablePointer<Float>
) {
  let v = laneCount
  let columns = 2 * v
  for group in 0..<(count + v - 1) / v {
    let from = source + group * v * paddedWidth
    let to = panels + group / 2 * paddedWidth * columns + group % 2 * v
    var d = 0
    while d < paddedWidth {
      var square = Square(from + d, step: paddedWidth)
      square.transpose()
      square.write(to + d * columns, step: columns)
      d += v
    }
  }
}
