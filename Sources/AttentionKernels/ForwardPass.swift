import AttentionCore
import Folding

/// One pass forward: u'(t) = Σ softmax(z(t,·)) u, with the log-sum-exp of each row.
///
/// A unit owns up to 192 queries of a line. For each block of keys it brings k (rotated, transposed)
/// and u into scratch, and for each six of its queries computes scores, updates the running maximum m
/// and sum l of the softmax, and adds to the output: one sweep, no score outlives its tile.
public enum ForwardPass {
  /// The most queries of a unit.
  static let largestUnit = 192
  /// The keys of a block: k and u of a block stay near the core while all queries pass over them.
  static let blockKeys = 128

  /// Runs a pass.
  public static func run(
    _ arguments: PassArguments, _ rows: ForwardRows, executor: ParallelExecutor
  ) {
    let shape = arguments.shape
    let fibers = arguments.fibers
    let plan = WorkPlan(
      fibers: fibers, heads: shape.heads, sequences: shape.batch, largest: largestUnit)
    guard plan.count > 0 else { return }
    let reach =
      arguments.support == .slidingCausal
      ? min(fibers.longest, largestUnit + tileRows + arguments.mode.size) : fibers.longest
    let bias = arguments.bias.map { BiasRows($0, BiasLayout(arguments)) }
    withRotaryRows(arguments, places: reach + 1) { rotary in
      nonisolated(unsafe) let (rows, rotary) = (rows, rotary)
      executor.run(plan.tasks) { task in
        var worker = ForwardWorker(arguments, rows, bias: bias, rotary: rotary)
        for index in plan.units(of: task) {
          if let unit = plan.unit(index) { worker.run(unit, fibers: plan.fibers) }
        }
      }
    }
  }
}

/// The scratch of one task and the steps of a unit.
private struct ForwardWorker: ~Copyable {
  let arguments: PassArguments
  let rows: ForwardRows
  let bias: BiasRows?
  let rotary: RotaryRows?
  let width: Int
  let paddedWidth: Int
  var scratch: Scratch
  /// [192, Dp] rotated queries times scale·log2(e).
  let q: UnsafeMutablePointer<Float>
  /// [192, Dp] sums of p·u.
  let o: UnsafeMutablePointer<Float>
  /// [128, Dp] rotated keys.
  let k: UnsafeMutablePointer<Float>
  /// [panel, Dp, 2V] the same, transposed.
  let kt: UnsafeMutablePointer<Float>
  /// [128, Dp] running values.
  let u: UnsafeMutablePointer<Float>
  /// [6, 128] scores, then weights.
  let s: UnsafeMutablePointer<Float>
  /// [192] running maxima, in units of log 2.
  let m: UnsafeMutablePointer<Float>
  /// [192] running sums.
  let l: UnsafeMutablePointer<Float>
  /// V factors by which older sums shrink.
  let factors: UnsafeMutablePointer<Float>
  /// V maxima of the six rows of a tile, what their logits are taken relative to, and sums.
  let tops: UnsafeMutablePointer<Float>
  let references: UnsafeMutablePointer<Float>
  let sums: UnsafeMutablePointer<Float>

  init(_ arguments: PassArguments, _ rows: ForwardRows, bias: BiasRows?, rotary: RotaryRows?) {
    self.arguments = arguments
    self.rows = rows
    self.bias = bias
    self.rotary = rotary
    width = arguments.shape.width
    paddedWidth = padded(width)
    let most = ForwardPass.largestUnit + tileRows + laneCount
    let block = ForwardPass.blockKeys
    scratch = Scratch(
      floats: (2 * most + 3 * block) * paddedWidth + tileRows * block + 3 * most + 128)
    q = scratch.take(most * paddedWidth)
    o = scratch.take(most * paddedWidth)
    k = scratch.take(block * paddedWidth)
    kt = scratch.take(block * paddedWidth)
    u = scratch.take(block * paddedWidth)
    s = scratch.take(tileRows * block)
    m = scratch.take(most)
    l = scratch.take(most)
    factors = scratch.take(laneCount)
    tops = scratch.take(laneCount)
    references = scratch.take(laneCount)
    sums = scratch.take(laneCount)
    tops.update(repeating: -.infinity, count: laneCount)
    sums.update(repeating: 0, count: laneCount)
  }

  mutating func run(_ unit: Unit, fibers: Fibers) {
    let shape = arguments.shape
    // Keys end at the sequence's length; queries beyond it are padding.
    let length = shape.length(unit.sequence)
    let keyCount = unit.fiber.count(within: length)
    let places = unit.places.clamped(to: 0..<max(keyCount, unit.places.lowerBound))
    writePadding(unit, from: places.upperBound)
    guard !places.isEmpty else { return }
    let firstKey = fibers.keys(of: places.lowerBound, count: keyCount).lowerBound
    let lastKey = fibers.keys(of: places.upperBound - 1, count: keyCount).upperBound
    packQueries(unit, places: places, origin: firstKey)
    var block = firstKey
    while block < lastKey {
      let keys = block..<min(lastKey, block + ForwardPass.blockKeys)
      packKeys(unit, keys: keys, origin: firstKey)
      var tile = places.lowerBound
      while tile < places.upperBound {
        let queries = tile..<min(places.upperBound, tile + tileRows)
        attend(
          unit, queries: queries, keys: keys, first: places.lowerBound, fibers: fibers,
          keyCount: keyCount)
        tile += tileRows
      }
      block = keys.upperBound
    }
    writeRows(unit, places: places)
  }

  private func queryToken(_ unit: Unit, _ place: Int) -> Int {
    unit.fiber.token(at: place) - arguments.shape.queries.lowerBound
  }

  private func lsePointer(_ unit: Unit) -> Int {
    (unit.sequence * arguments.shape.heads + unit.head) * rows.logSumExpStride
  }

  private func packQueries(_ unit: Unit, places: Range<Int>, origin: Int) {
    packRows(
      rows.queries.row(unit.sequence, unit.head, queryToken(unit, places.lowerBound)),
      distance: rows.queries.tokenStride * unit.fiber.stride,
      places: places.lowerBound - origin..<places.upperBound - origin, width: width,
      factor: arguments.scale * log2e, rotary: rotary, into: q)
    let tiles = (places.count + tileRows - 1) / tileRows * tileRows
    o.update(repeating: 0, count: tiles * paddedWidth)
    m.update(repeating: -.infinity, count: tiles)
    l.update(repeating: 0, count: tiles)
  }

  private func packKeys(_ unit: Unit, keys: Range<Int>, origin: Int) {
    let head = unit.head / arguments.shape.group
    let token = unit.fiber.token(at: keys.lowerBound)
    let places = keys.lowerBound - origin..<keys.upperBound - origin
    packRows(
      rows.keys.row(unit.sequence, head, token),
      distance: rows.keys.tokenStride * unit.fiber.stride, places: places, width: width, factor: 1,
      rotary: rotary, into: k)
    transposeRows(k, count: keys.count, paddedWidth: paddedWidth, into: kt)
    packRows(
      rows.values.row(unit.sequence, rows.valuesAreGrouped ? head : unit.head, token),
      distance: rows.values.tokenStride * unit.fiber.stride, places: places, width: width,
      factor: 1, rotary: nil, into: u)
  }

  /// Six queries against a block of keys.
  private func attend(
    _ unit: Unit, queries: Range<Int>, keys: Range<Int>, first: Int, fibers: Fibers,
    keyCount: Int
  ) {
    let row = queries.lowerBound - first
    // The keys that any of the queries sees, counted from the block's first.
    let lower = fibers.keys(of: queries.lowerBound, count: keyCount).lowerBound
    let upper = fibers.keys(of: queries.upperBound - 1, count: keyCount).upperBound
    let seen = (lower..<upper).within(keys)
    guard !seen.isEmpty else { return }
    let columns = 2 * laneCount
    multiplyPanels(
      q + row * paddedWidth, aRow: paddedWidth, panels: kt,
      range: seen.lowerBound / columns..<(seen.upperBound + columns - 1) / columns, width: width,
      into: s, sRow: ForwardPass.blockKeys)
    softmax(
      unit, queries: queries, keys: keys, row: row, columns: vectors(seen), fibers: fibers,
      keyCount: keyCount)
    multiplyRowsScaled(
      s + seen.lowerBound, aRow: ForwardPass.blockKeys, u + seen.lowerBound * paddedWidth,
      count: seen.count, o + row * paddedWidth, paddedWidth: paddedWidth, factors: factors)
  }

  /// Turns six rows of scores into weights relative to the new maxima, over whole vectors of columns.
  ///
  /// The six rows go through each step together: their sums are independent, and the short loops
  /// over columns end at the same place for all of them.
  private func softmax(
    _ unit: Unit, queries: Range<Int>, keys: Range<Int>, row: Int, columns: Range<Int>,
    fibers: Fibers, keyCount: Int
  ) {
    let bounds = TileBounds(queries, keys: keys, fibers: fibers, keyCount: keyCount)
    adjust(unit, queries: queries, keys: keys, columns: columns)
    let stride = ForwardPass.blockKeys
    maskAndMaximize(s, stride: stride, columns: columns, bounds: bounds, half: 0, into: tops)
    maskAndMaximize(
      s + 3 * stride, stride: stride, columns: columns, bounds: bounds, half: 3, into: tops)
    // Lanes from 6 on hold −∞ and 0 and leave the next rows' m and l as they are.
    let old = load(m + row)
    let top = larger(old, load(tops))
    // A row of −∞ alone keeps the weights 0: exp2(−∞ − 0).
    let reference = top.replacing(
      with: Lanes.zero, where: top .== Lanes(repeating: -.infinity))
    let factor = exp2(old - reference)
    store(reference, references)
    store(top, m + row)
    store(factor, factors)
    exponentiate(s, stride: stride, columns: columns, references: references, sums: sums)
    exponentiate(
      s + 3 * stride, stride: stride, columns: columns, references: references + 3,
      sums: sums + 3)
    store(load(sums).addingProduct(load(l + row), factor), l + row)
  }

  /// Adds β and the mode bias and puts the diagonal right, where there are any.
  private func adjust(
    _ unit: Unit, queries: Range<Int>, keys: Range<Int>, columns: Range<Int>
  ) {
    let beta = arguments.beta?[unit.head] ?? 0
    guard beta != 0 || bias != nil || rows.carried != nil else { return }
    let carried = rows.carried.map { $0 + lsePointer(unit) }
    for (i, place) in queries.enumerated() {
      adjustLogits(
        s + i * ForwardPass.blockKeys, columns, beta: beta,
        bias: bias?.row(head: unit.head, place: place), keys: keys, place: place,
        carried: carried.map { $0[queryToken(unit, place)] })
    }
  }

  private func writeRows(_ unit: Unit, places: Range<Int>) {
    for (row, place) in places.enumerated() {
      let token = queryToken(unit, place)
      let total = l[row]
      packRow(
        o + row * paddedWidth, width: width, factor: total > 0 ? 1 / total : 0, token: token,
        unit: unit)
      rows.logSumExp[lsePointer(unit) + token] =
        total > 0 ? m[row] * ln2 + logarithm(total) : -.infinity
    }
  }

  @inline(__always)
  private func packRow(
    _ source: UnsafeMutablePointer<Float>, width: Int, factor: Float, token: Int, unit: Unit
  ) {
    let target = rows.output.row(unit.sequence, unit.head, token)
    var i = 0
    while i + laneCount <= width {
      store(load(source + i) * factor, target + i)
      i += laneCount
    }
    while i < width {
      target[i] = source[i] * factor
      i += 1
    }
  }

  private func writePadding(_ unit: Unit, from place: Int) {
    for place in max(
      place, unit.places.lowerBound)..<max(
        unit.places.upperBound, max(place, unit.places.lowerBound))
    {
      let token = queryToken(unit, place)
      rows.output.row(unit.sequence, unit.head, token).update(repeating: 0, count: width)
      rows.logSumExp[lsePointer(unit) + token] = -.infinity
    }
  }
}
