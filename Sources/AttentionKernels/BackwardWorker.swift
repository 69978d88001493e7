import AttentionCore
import Folding

/// The scratch of one task of ``BackwardPass`` and the steps of a unit.
struct BackwardWorker: ~Copyable {
  private typealias Block = BackwardPass
  private let arguments: PassArguments
  private let rows: BackwardRows
  private let bias: BiasRows?
  private let rotary: RotaryRows?
  private let biasSums: UnsafeMutablePointer<Float>?
  private let biasLayout: BiasLayout
  private let width: Int
  private let paddedWidth: Int
  private let reach: Int
  private var scratch: Scratch
  /// [192, Dp] rotated queries times scale·log2(e), and du' of the same tokens.
  private let q: UnsafeMutablePointer<Float>
  private let upstream: UnsafeMutablePointer<Float>
  /// [192, Dp] rotated keys, and [panel, Dp, 2V] the same transposed.
  private let k: UnsafeMutablePointer<Float>
  private let kt: UnsafeMutablePointer<Float>
  /// [192, Dp] running values (only to be transposed), and [panel, Dp, 2V].
  private let u: UnsafeMutablePointer<Float>
  private let ut: UnsafeMutablePointer<Float>
  /// [192, 192] logits, then weights p; and ⟨du', u⟩, then dz.
  private let p: UnsafeMutablePointer<Float>
  private let dz: UnsafeMutablePointer<Float>
  /// [384, Dp] gradients of the unit's places, of rotated q and k.
  private let dq: UnsafeMutablePointer<Float>
  private let dk: UnsafeMutablePointer<Float>
  private let du: UnsafeMutablePointer<Float>
  /// D of every query that the unit meets, counted from its origin.
  private let corrections: UnsafeMutablePointer<Float>
  /// Of the six rows of a tile: ℓ'·log2(e), D, and the sums of dz.
  private let shifts: UnsafeMutablePointer<Float>
  private let rowCorrections: UnsafeMutablePointer<Float>
  private let totals: UnsafeMutablePointer<Float>

  init(
    _ arguments: PassArguments, _ rows: BackwardRows, bias: BiasRows?, rotary: RotaryRows?,
    reach: Int, biasSums: UnsafeMutablePointer<Float>?
  ) {
    self.arguments = arguments
    self.rows = rows
    self.bias = bias
    self.rotary = rotary
    self.biasSums = biasSums
    self.reach = reach
    biasLayout = BiasLayout(arguments)
    width = arguments.shape.width
    paddedWidth = padded(width)
    let block = Block.blockSize + tileRows
    let unit = Block.largestUnit + tileRows
    scratch = Scratch(
      floats: (6 * block + 3 * unit) * paddedWidth + 2 * block * Block.blockSize + reach + 64)
    q = scratch.take(block * paddedWidth)
    upstream = scratch.take(block * paddedWidth)
    k = scratch.take(block * paddedWidth)
    kt = scratch.take(block * paddedWidth)
    u = scratch.take(block * paddedWidth)
    ut = scratch.take(block * paddedWidth)
    p = scratch.take(block * Block.blockSize)
    dz = scratch.take(block * Block.blockSize)
    dq = scratch.take(unit * paddedWidth)
    dk = scratch.take(unit * paddedWidth)
    du = scratch.take(unit * paddedWidth)
    corrections = scratch.take(reach + 64)
    shifts = scratch.take(tileRows)
    rowCorrections = scratch.take(tileRows)
    totals = scratch.take(tileRows)
    // Rows beyond a tile's last query see nothing, whatever these say; they must be finite.
    shifts.update(repeating: 0, count: tileRows)
    rowCorrections.update(repeating: 0, count: tileRows)
    // Columns that the mask hides still enter a product with their weight 0: they must be finite.
    k.update(repeating: 0, count: block * paddedWidth)
    u.update(repeating: 0, count: block * paddedWidth)
    q.update(repeating: 0, count: block * paddedWidth)
    upstream.update(repeating: 0, count: block * paddedWidth)
  }

  /// All gradients of a unit's places, for every query head that shares its key head.
  mutating func run(
    _ unit: Unit, fibers: Fibers, betaSums: UnsafeMutablePointer<Double>?
  ) {
    let keyCount = unit.fiber.count(within: arguments.shape.length(unit.sequence))
    let places =
      unit.places
      .lowerBound..<max(
        unit.places.lowerBound, min(unit.places.upperBound, keyCount))
    writePadding(unit, places.upperBound..<unit.places.upperBound)
    guard !places.isEmpty else { return }
    let line = Line(unit: unit, fibers: fibers, keyCount: keyCount, places: places)
    zero(dk, places.count)
    zero(du, places.count)
    for member in 0..<arguments.shape.group {
      let head = unit.head * arguments.shape.group + member
      zero(dq, places.count)
      if !rows.valuesAreGrouped, member > 0 { zero(du, places.count) }
      computeCorrections(line, head: head)
      var betaSum = 0.0
      for keys in places.pieces(of: Block.blockSize) {
        packKeys(line, head: head, keys: keys)
        for queries in line.observerPieces(of: keys, most: Block.blockSize) {
          sweep(line, head: head, queries: queries, keys: keys, betaSum: &betaSum)
        }
      }
      for keys in line.outerKeyPieces(most: Block.blockSize) {
        packKeys(line, head: head, keys: keys)
        for queries in places.pieces(of: Block.blockSize) {
          sweep(line, head: head, queries: queries, keys: keys, betaSum: &betaSum)
        }
      }
      betaSums?[member] = betaSum
      addRotatedBack(dq, line, to: rows.queriesGradient, head: head, factor: arguments.scale)
      if !rows.valuesAreGrouped { writeValues(line, head: head) }
    }
    // q in scratch carries scale·log2(e); dk wants scale alone.
    addRotatedBack(dk, line, to: rows.keysGradient, head: unit.head, factor: ln2)
    if rows.valuesAreGrouped { writeValues(line, head: unit.head) }
  }

  /// One tile of queries against one of keys: p and dz, and what they add to the gradients.
  private mutating func sweep(
    _ line: Line, head: Int, queries: Range<Int>, keys: Range<Int>, betaSum: inout Double
  ) {
    packQueries(line, head: head, queries: queries)
    let ownsQueries = line.places.contains(queries.lowerBound)
    let ownsKeys = line.places.contains(keys.lowerBound)
    for tile in stride(from: queries.lowerBound, to: queries.upperBound, by: tileRows) {
      let six = tile..<min(queries.upperBound, tile + tileRows)
      let row = tile - queries.lowerBound
      let seen = line.keys(of: six).within(keys)
      products(row: row, seen: seen)
      differentiate(
        line, head: head, queries: six, keys: keys, row: row, columns: vectors(seen),
        ownsQueries: ownsQueries, betaSum: &betaSum)
      if ownsQueries, !seen.isEmpty {
        multiplyRowsAdding(
          dz + row * Block.blockSize + seen.lowerBound, aRow: Block.blockSize,
          k + seen.lowerBound * paddedWidth, count: seen.count,
          dq + (tile - line.places.lowerBound) * paddedWidth, paddedWidth: paddedWidth)
      }
    }
    if ownsKeys { addToKeys(line, queries: queries, keys: keys) }
  }

  /// ⟨q, k⟩ and ⟨du', u⟩ of six rows.
  private func products(row: Int, seen: Range<Int>) {
    guard !seen.isEmpty else { return }
    let columns = 2 * laneCount
    let panels = seen.lowerBound / columns..<(seen.upperBound + columns - 1) / columns
    multiplyPanels(
      q + row * paddedWidth, aRow: paddedWidth, panels: kt, range: panels, width: width,
      into: p + row * Block.blockSize, sRow: Block.blockSize)
    multiplyPanels(
      upstream + row * paddedWidth, aRow: paddedWidth, panels: ut, range: panels, width: width,
      into: dz + row * Block.blockSize, sRow: Block.blockSize)
  }

  /// Turns six rows of products into p and dz; 0 wherever a query sees no key.
  private func differentiate(
    _ line: Line, head: Int, queries: Range<Int>, keys: Range<Int>, row: Int,
    columns: Range<Int>, ownsQueries: Bool, betaSum: inout Double
  ) {
    let stride = Block.blockSize
    let (weights, gradients) = (p + row * stride, dz + row * stride)
    // Keys are taken in sixes later, some of which these queries may not see.
    let sixes = (keys.count + tileRows - 1) / tileRows * tileRows
    let end = vectors(0..<sixes).upperBound
    for i in 0..<queries.count {
      clear(weights + i * stride, 0..<columns.lowerBound)
      clear(weights + i * stride, columns.upperBound..<end)
      clear(gradients + i * stride, 0..<columns.lowerBound)
      clear(gradients + i * stride, columns.upperBound..<end)
    }
    guard !columns.isEmpty else { return }
    let index =
      (line.unit.sequence * arguments.shape.heads + head) * arguments.shape.tokens
    adjust(line, head: head, queries: queries, keys: keys, weights, columns, index: index)
    for (i, place) in queries.enumerated() {
      // A row without keys has ℓ' = −∞ and weights 0: exp2(z − ∞).
      let lse = rows.logSumExp[index + line.token(place)]
      shifts[i] = lse == -.infinity ? .infinity : lse * log2e
      rowCorrections[i] = corrections[place - line.origin]
    }
    let bounds = TileBounds(queries, keys: keys, fibers: line.fibers, keyCount: line.keyCount)
    for half in [0, 3] {
      differentiateRows(
        weights + half * stride, gradients + half * stride, stride: stride, columns: columns,
        bounds: bounds, half: half, shifts: shifts + half, corrections: rowCorrections + half,
        totals: totals + half)
    }
    collect(
      line, head: head, queries: queries, keys: keys, gradients, columns, index: index,
      ownsQueries: ownsQueries, betaSum: &betaSum)
  }

  /// Adds β and the mode bias and puts the diagonal right, where there are any.
  private func adjust(
    _ line: Line, head: Int, queries: Range<Int>, keys: Range<Int>,
    _ weights: UnsafeMutablePointer<Float>, _ columns: Range<Int>, index: Int
  ) {
    let beta = arguments.beta?[head] ?? 0
    guard beta != 0 || bias != nil || rows.carried != nil else { return }
    for (i, place) in queries.enumerated() {
      adjustLogits(
        weights + i * Block.blockSize, columns, beta: beta,
        bias: bias?.row(head: head, place: place), keys: keys, place: place,
        carried: rows.carried?[index + line.token(place)])
    }
  }

  /// Takes from dz what is not for q and k: the joint diagonal, dβ and the gradient of the bias.
  private func collect(
    _ line: Line, head: Int, queries: Range<Int>, keys: Range<Int>,
    _ gradients: UnsafeMutablePointer<Float>, _ columns: Range<Int>, index: Int,
    ownsQueries: Bool, betaSum: inout Double
  ) {
    for (i, place) in queries.enumerated() {
      let gradient = gradients + i * Block.blockSize
      let holdsDiagonal = keys.contains(place)
      let diagonal = holdsDiagonal ? gradient[place - keys.lowerBound] : 0
      if holdsDiagonal, let carriedGradient = rows.carriedGradient {
        // The diagonal logit was ℓ, not a product of q and k.
        if ownsQueries { carriedGradient[index + line.token(place)] = diagonal }
        gradient[place - keys.lowerBound] = 0
      }
      guard ownsQueries else { continue }
      betaSum += Double(totals[i]) - Double(diagonal)
      guard let biasSums else { continue }
      let target = biasSums + biasLayout.offset(head: head, place: place) + keys.lowerBound
      let seen = vectors(line.keys(of: place..<place + 1).within(keys))
      for j in Swift.stride(from: seen.lowerBound, to: seen.upperBound, by: laneCount) {
        store(load(target + j) + load(gradient + j), target + j)
      }
    }
  }

  /// du += pᵀ·du' and dk += dzᵀ·q, six keys at a time over the queries that see any of them.
  private func addToKeys(_ line: Line, queries: Range<Int>, keys: Range<Int>) {
    for key in stride(from: keys.lowerBound, to: keys.upperBound, by: tileRows) {
      let last = min(keys.upperBound, key + tileRows) - 1
      let observers = line.observers(of: key..<last + 1).within(queries)
      guard !observers.isEmpty else { continue }
      let column = key - keys.lowerBound
      let target = (key - line.places.lowerBound) * paddedWidth
      let first = observers.lowerBound * Block.blockSize + column
      multiplyColumnsAdding(
        p + first, aStep: Block.blockSize, upstream + observers.lowerBound * paddedWidth,
        count: observers.count, du + target, paddedWidth: paddedWidth)
      multiplyColumnsAdding(
        dz + first, aStep: Block.blockSize, q + observers.lowerBound * paddedWidth,
        count: observers.count, dk + target, paddedWidth: paddedWidth)
    }
  }

  private func computeCorrections(_ line: Line, head: Int) {
    let all = line.queriesMet
    for place in all {
      let token = line.token(place)
      let gradient = rows.outputGradient.row(line.unit.sequence, head, token)
      let output = rows.output.row(line.unit.sequence, head, token)
      var total = Lanes.zero
      var i = 0
      while i + laneCount <= width {
        total = total.addingProduct(load(gradient + i), load(output + i))
        i += laneCount
      }
      var dot = sum(total)
      while i < width {
        dot += gradient[i] * output[i]
        i += 1
      }
      if let dlse = rows.logSumExpGradient {
        dot -=
          dlse[
            (line.unit.sequence * arguments.shape.heads + head) * arguments.shape.tokens + token]
      }
      corrections[place - line.origin] = dot
    }
  }

  private func packQueries(_ line: Line, head: Int, queries: Range<Int>) {
    let token = line.token(queries.lowerBound)
    let places = queries.lowerBound - line.origin..<queries.upperBound - line.origin
    packRows(
      rows.queries.row(line.unit.sequence, head, token),
      distance: rows.queries.tokenStride * line.unit.fiber.stride, places: places, width: width,
      factor: arguments.scale * log2e, rotary: rotary, into: q)
    packRows(
      rows.outputGradient.row(line.unit.sequence, head, token),
      distance: rows.outputGradient.tokenStride * line.unit.fiber.stride, places: places,
      width: width, factor: 1, rotary: nil, into: upstream)
  }

  private func packKeys(_ line: Line, head: Int, keys: Range<Int>) {
    let token = line.token(keys.lowerBound)
    let places = keys.lowerBound - line.origin..<keys.upperBound - line.origin
    packRows(
      rows.keys.row(line.unit.sequence, line.unit.head, token),
      distance: rows.keys.tokenStride * line.unit.fiber.stride, places: places, width: width,
      factor: 1, rotary: rotary, into: k)
    transposeRows(k, count: keys.count, paddedWidth: paddedWidth, into: kt)
    packRows(
      rows.values.row(
        line.unit.sequence, rows.valuesAreGrouped ? line.unit.head : head, token),
      distance: rows.values.tokenStride * line.unit.fiber.stride, places: places, width: width,
      factor: 1, rotary: nil, into: u)
    transposeRows(u, count: keys.count, paddedWidth: paddedWidth, into: ut)
  }

  private func zero(_ pointer: UnsafeMutablePointer<Float>, _ count: Int) {
    pointer.update(repeating: 0, count: (count + tileRows) * paddedWidth)
  }

  /// Adds the gradients of rotated rows, turned back, to the rows they belong to.
  private func addRotatedBack(
    _ source: UnsafeMutablePointer<Float>, _ line: Line, to target: MutableRows<Float>, head: Int,
    factor: Float
  ) {
    for (i, place) in line.places.enumerated() {
      let gradient = source + i * paddedWidth
      if let rotary {
        // Rows of q are free by now: every tile packs its own.
        rotateRow(
          gradient, angles: rotary.row(place - line.origin), width: width, factor: factor,
          direction: -1, into: q)
        add(q, factor: 1, to: target.row(line.unit.sequence, head, line.token(place)))
      } else {
        add(gradient, factor: factor, to: target.row(line.unit.sequence, head, line.token(place)))
      }
    }
  }

  private func add(
    _ source: UnsafeMutablePointer<Float>, factor: Float, to target: UnsafeMutablePointer<Float>
  ) {
    var i = 0
    while i + laneCount <= width {
      store(
        load(target + i).addingProduct(load(source + i), Lanes(repeating: factor)), target + i)
      i += laneCount
    }
    while i < width {
      target[i] += source[i] * factor
      i += 1
    }
  }

  private func writeValues(_ line: Line, head: Int) {
    for (i, place) in line.places.enumerated() {
      rows.valuesGradient.row(line.unit.sequence, head, line.token(place))
        .update(from: du + i * paddedWidth, count: width)
    }
  }

  /// Padding has no gradient.
  private func writePadding(_ unit: Unit, _ places: Range<Int>) {
    let shape = arguments.shape
    for place in places {
      let token = unit.fiber.token(at: place)
      if rows.valuesAreGrouped {
        rows.valuesGradient.row(unit.sequence, unit.head, token).update(repeating: 0, count: width)
      }
      for head in unit.head * shape.group..<(unit.head + 1) * shape.group {
        if !rows.valuesAreGrouped {
          rows.valuesGradient.row(unit.sequence, head, token).update(repeating: 0, count: width)
        }
        rows.carriedGradient?[(unit.sequence * shape.heads + head) * shape.tokens + token] = 0
      }
    }
  }
}

/// A unit's line, cut to the real tokens of its sequence.
private struct Line {
  let unit: Unit
  let fibers: Fibers
  /// The number of real tokens on the line.
  let keyCount: Int
  /// The unit's places that are real tokens.
  let places: Range<Int>

  /// The first place that the unit meets as key or query; angles are counted from here.
  var origin: Int {
    min(keys(of: places).lowerBound, observers(of: places).lowerBound)
  }

  /// Every query whose gradient the unit needs.
  var queriesMet: Range<Int> {
    let observers = observers(of: places)
    return min(
      observers.lowerBound, places.lowerBound)..<max(
        observers.upperBound, places.upperBound)
  }

  func token(_ place: Int) -> Int { unit.fiber.token(at: place) }

  /// The keys that any of the queries sees.
  func keys(of queries: Range<Int>) -> Range<Int> {
    let first = fibers.keys(of: queries.lowerBound, count: keyCount)
    let last = fibers.keys(of: queries.upperBound - 1, count: keyCount)
    return first.lowerBound..<last.upperBound
  }

  /// The queries that see any of the keys.
  func observers(of keys: Range<Int>) -> Range<Int> {
    let first = fibers.observers(of: keys.lowerBound, count: keyCount)
    let last = fibers.observers(of: keys.upperBound - 1, count: keyCount)
    return first.lowerBound..<last.upperBound
  }

  /// The observers of some of the unit's keys in tiles that lie either inside the unit or outside.
  func observerPieces(of keys: Range<Int>, most: Int) -> [Range<Int>] {
    let all = observers(of: keys)
    let before = all.clamped(to: 0..<places.lowerBound)
    let after = all.clamped(to: places.upperBound..<max(places.upperBound, keyCount))
    return before.pieces(of: most) + places.pieces(of: most).filter { all.overlaps($0) }
      + after.pieces(of: most)
  }

  /// The keys outside the unit that its queries see, in tiles.
  func outerKeyPieces(most: Int) -> [Range<Int>] {
    let all = keys(of: places)
    let before = all.clamped(to: 0..<places.lowerBound)
    let after = all.clamped(to: places.upperBound..<max(places.upperBound, keyCount))
    return before.pieces(of: most) + after.pieces(of: most)
  }
}
