import AttentionCore
import Folding

/// Multi-mask attention forward, without a tensor of scores: O = (E_t·(V∘E_s)) / (E_t·E_s).
///
/// A unit owns up to 384 queries of a head. For each block of keys it brings k (transposed), E_s and
/// V∘E_s into scratch, and for each six of its queries computes t, updates the running row maximum,
/// and adds to numerator and denominator. E_s is relative to a reference a feature that holds for the
/// whole head (``SourceReferences``), so only rows are rescaled as they go.
public enum MultiMaskForward {
  static let largestUnit = 384
  static let blockKeys = 128

  /// Runs the operator.
  public static func run(
    _ arguments: MultiMaskArguments, _ rows: MultiMaskForwardRows, executor: ParallelExecutor
  ) {
    let plan = HeadPlan(arguments.shape, largest: largestUnit)
    guard plan.count > 0 else { return }
    let source = SourceReferences(arguments, rows.sourceLogits, executor: executor)
    nonisolated(unsafe) let (rows, shared) = (rows, source)
    executor.run(plan.tasks) { task in
      var worker = MultiMaskForwardWorker(arguments, rows, shared)
      for index in plan.units(of: task) {
        let (head, queries) = plan.unit(index)
        worker.run(MaskedHead(arguments, index: head), queries: queries)
      }
    }
  }
}

/// The scratch of one task and the steps of a unit.
private struct MultiMaskForwardWorker: ~Copyable {
  let arguments: MultiMaskArguments
  let rows: MultiMaskForwardRows
  let source: SourceReferences
  let dropout: DropoutFactors?
  let isSigmoid: Bool
  let width: Int
  let paddedWidth: Int
  var scratch: Scratch
  /// [384, Dp] queries times scale·log2(e), and the sums Σ E_t·μ·(V∘E_s∘ν) and Σ E_t·E_s.
  let q: UnsafeMutablePointer<Float>
  let numerators: UnsafeMutablePointer<Float>
  let denominators: UnsafeMutablePointer<Float>
  /// [128, Dp] keys, and [panel, Dp, 2V] the same transposed.
  let k: UnsafeMutablePointer<Float>
  let kt: UnsafeMutablePointer<Float>
  /// [128, Dp] E_s and V∘E_s∘ν.
  let keyRows: SourceRows
  /// [6, 128] t, then E_t; with dropout E_t∘μ and μ; mantissas and slopes of the logistic φ_t.
  let t: UnsafeMutablePointer<Float>
  let dropped: UnsafeMutablePointer<Float>
  let kept: UnsafeMutablePointer<Float>
  let mantissas: UnsafeMutablePointer<Float>
  let slopes: UnsafeMutablePointer<Float>
  /// [384] running maxima of the exponents of log2 φ_t.
  let m: UnsafeMutablePointer<Float>
  /// V factors by which older sums shrink; maxima, references and sums of a tile's rows.
  let factors: UnsafeMutablePointer<Float>
  let tops: UnsafeMutablePointer<Float>
  let tileReferences: UnsafeMutablePointer<Float>
  let sums: UnsafeMutablePointer<Float>
  /// For wide vectors: rows of keys, and the sums.
  let wideRows: WideRows?
  let wideSums: WideSums

  init(
    _ arguments: MultiMaskArguments, _ rows: MultiMaskForwardRows, _ source: SourceReferences
  ) {
    self.arguments = arguments
    self.rows = rows
    self.source = source
    dropout = DropoutFactors(arguments.scheme.dropout)
    isSigmoid = arguments.scheme.tokenScore == .sigmoid
    width = arguments.shape.width
    paddedWidth = padded(width)
    // Short sequences get a small scratch: clearing a large one would take longer than they do.
    let tokens = arguments.shape.tokens
    let unit = min(MultiMaskForward.largestUnit, tokens) + tileRows + laneCount
    let most = unit * paddedWidth
    let block = min(MultiMaskForward.blockKeys, wholePanels(tokens)) * paddedWidth
    let tile = tileRows * MultiMaskForward.blockKeys
    let wide = source.hasWideVectors ? 1 : 0
    scratch = Scratch(
      floats: (3 + 3 * wide) * most + (4 + 3 * wide) * block + 5 * tile
        + unit + 512)
    q = scratch.take(most)
    numerators = scratch.take(most)
    denominators = scratch.take(most)
    k = scratch.take(block)
    kt = scratch.take(block)
    keyRows = SourceRows(weights: scratch.take(block), weightedValues: scratch.take(block))
    t = scratch.take(tile)
    dropped = scratch.take(tile)
    kept = scratch.take(tile)
    mantissas = scratch.take(tile)
    slopes = scratch.take(tile)
    m = scratch.take(unit)
    factors = scratch.take(laneCount)
    tops = scratch.take(laneCount)
    tileReferences = scratch.take(laneCount)
    sums = scratch.take(laneCount)
    wideRows =
      source.hasWideVectors
      ? WideRows(
        exponents: scratch.take(block), mantissas: scratch.take(block), values: scratch.take(block))
      : nil
    wideSums = WideSums(
      references: scratch.take(wide * most), numerators: scratch.take(wide * most),
      denominators: scratch.take(wide * most))
    tops.update(repeating: -.infinity, count: laneCount)
    // Rows beyond a tile's last query have weight 0, which still multiplies what stands here; and wide
    // vectors multiply by 1 where there is no dropout and no logistic φ_t.
    kept.update(repeating: 1, count: tile)
    mantissas.update(repeating: 1, count: tile)
    k.update(repeating: 0, count: block)
    q.update(repeating: 0, count: most)
  }

  mutating func run(_ head: MaskedHead, queries all: Range<Int>) {
    let queries = all.clamped(to: 0..<max(head.length, all.lowerBound))
    writePadding(head, max(queries.upperBound, all.lowerBound)..<all.upperBound)
    guard !queries.isEmpty else { return }
    packRows(
      rows.queries.row(head.sequence, head.head, queries.lowerBound),
      distance: rows.queries.tokenStride, places: queries, width: width,
      factor: Float(arguments.scheme.scale) * log2e, rotary: nil, into: q)
    let tiles = (queries.count + tileRows - 1) / tileRows * tileRows
    numerators.update(repeating: 0, count: tiles * paddedWidth)
    denominators.update(repeating: 0, count: tiles * paddedWidth)
    m.update(repeating: -.infinity, count: tiles)
    if !source.wideVectors[head.index].isEmpty { wideSums.clear(tiles * paddedWidth) }
    let seen = head.keys(of: queries)
    for block in stride(from: seen.lowerBound, to: seen.upperBound, by: MultiMaskForward.blockKeys)
    {
      let keys = block..<min(seen.upperBound, block + MultiMaskForward.blockKeys)
      packKeys(head, keys)
      for tile in stride(from: queries.lowerBound, to: queries.upperBound, by: tileRows) {
        attend(
          head, queries: tile..<min(queries.upperBound, tile + tileRows), keys: keys,
          row: tile - queries.lowerBound)
      }
    }
    for (row, query) in queries.enumerated() { write(head, query: query, row: row) }
  }

  private func packKeys(_ head: MaskedHead, _ keys: Range<Int>) {
    packRows(
      rows.keys.row(head.sequence, head.head, keys.lowerBound), distance: rows.keys.tokenStride,
      places: keys, width: width, factor: 1, rotary: nil, into: k)
    transposeRows(k, count: keys.count, paddedWidth: paddedWidth, into: kt)
    packSource(
      arguments, rows, head: head.index, keys: keys, references: source, into: keyRows,
      wide: source.wideVectors[head.index].isEmpty ? nil : wideRows)
  }

  /// Six queries against a block of keys.
  private func attend(_ head: MaskedHead, queries: Range<Int>, keys: Range<Int>, row: Int) {
    let seen = head.keys(of: queries).within(keys)
    guard !seen.isEmpty else { return }
    let (panel, stride) = (2 * laneCount, MultiMaskForward.blockKeys)
    multiplyPanels(
      q + row * paddedWidth, aRow: paddedWidth, panels: kt,
      range: seen.lowerBound / panel..<(seen.upperBound + panel - 1) / panel, width: width,
      into: t, sRow: stride)
    let bounds = TileBounds(rows: queries.count) {
      head.keys(of: queries.lowerBound + $0).within(keys)
    }
    let columns = vectors(seen)
    if isSigmoid {
      splitSigmoid(t, stride: stride, columns: columns, mantissas: mantissas, slopes: slopes)
    }
    head.hide(t, stride: stride, queries: queries, keys: keys, columns: columns)
    if let dropout {
      keepTokens(
        dropout, head: head.index, queries: queries, keys: keys, columns: columns, stride: stride,
        into: kept)
    }
    attendWide(head, queries: queries, keys: keys, row: row, bounds: bounds)
    weigh(columns, bounds: bounds, row: row)
    var weights = t
    if dropout != nil {
      multiplyElements(t, kept, stride: stride, columns: columns, into: dropped)
      weights = dropped
    }
    let (first, target) = (seen.lowerBound * paddedWidth, row * paddedWidth)
    multiplyRowsScaled(
      weights + seen.lowerBound, aRow: stride, keyRows.weightedValues + first, count: seen.count,
      numerators + target, paddedWidth: paddedWidth, factors: factors)
    multiplyRowsScaled(
      t + seen.lowerBound, aRow: stride, keyRows.weights + first, count: seen.count,
      denominators + target, paddedWidth: paddedWidth, factors: factors)
  }

  /// Turns six rows of exponents into E_t relative to the new row maxima.
  private func weigh(_ columns: Range<Int>, bounds: TileBounds, row: Int) {
    let stride = MultiMaskForward.blockKeys
    maskAndMaximize(t, stride: stride, columns: columns, bounds: bounds, half: 0, into: tops)
    maskAndMaximize(
      t + 3 * stride, stride: stride, columns: columns, bounds: bounds, half: 3, into: tops)
    let old = load(m + row)
    let top = larger(old, load(tops))
    let reference = top.replacing(with: Lanes.zero, where: top .== Lanes(repeating: -.infinity))
    store(reference, tileReferences)
    store(top, m + row)
    store(exp2(old - reference), factors)
    exponentiate(t, stride: stride, columns: columns, references: tileReferences, sums: sums)
    exponentiate(
      t + 3 * stride, stride: stride, columns: columns, references: tileReferences + 3,
      sums: sums + 3)
    if isSigmoid { multiplyElements(t, mantissas, stride: stride, columns: columns, into: t) }
  }

  private func attendWide(
    _ head: MaskedHead, queries: Range<Int>, keys: Range<Int>, row: Int, bounds: TileBounds
  ) {
    let columns = source.wideVectors[head.index]
    guard let wideRows, !columns.isEmpty else { return }
    let tile = WideTile(
      stride: MultiMaskForward.blockKeys, exponents: t, mantissas: mantissas, kept: kept,
      bounds: bounds)
    for i in 0..<queries.count {
      for column in columns {
        wideSums.add(
          tile, tileRow: i, keys: wideRows, paddedWidth: paddedWidth, row: row + i, column: column)
      }
    }
  }

  /// O, and for the backward pass 1/denominator relative to the references, or log2 of the whole
  /// denominator in wide vectors.
  private func write(_ head: MaskedHead, query: Int, row: Int) {
    let place = row * paddedWidth
    var l = 0
    while l < paddedWidth {
      let total = load(denominators + place + l)
      let inverse = (Lanes(repeating: 1) / total).replacing(
        with: Lanes.zero, where: total .<= Lanes.zero)
      store(load(numerators + place + l) * inverse, numerators + place + l)
      store(inverse, denominators + place + l)
      l += laneCount
    }
    for column in source.wideVectors[head.index] {
      for l in place + column..<place + column + laneCount {
        let total = wideSums.denominators[l]
        numerators[l] = total > 0 ? wideSums.numerators[l] / total : 0
        denominators[l] =
          total > 0 ? wideSums.references[l] + logarithm(total) * log2e : .infinity
      }
    }
    rows.output.row(head.sequence, head.head, query).update(from: numerators + place, count: width)
    guard let saved = rows.saved else { return }
    let index = head.index * arguments.shape.tokens + query
    (saved.normalizers + index * width).update(from: denominators + place, count: width)
    saved.references[index] = m[row] == -.infinity ? .infinity : m[row]
  }

  private func writePadding(_ head: MaskedHead, _ queries: Range<Int>) {
    for query in queries {
      rows.output.row(head.sequence, head.head, query).update(repeating: 0, count: width)
      guard let saved = rows.saved else { continue }
      let index = head.index * arguments.shape.tokens + query
      (saved.normalizers + index * width).update(repeating: 0, count: width)
      saved.references[index] = .infinity
    }
  }
}
