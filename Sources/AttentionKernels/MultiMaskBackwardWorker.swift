import AttentionCore
import Folding

/// The scratch of one task of ``MultiMaskBackward`` and the steps of a block of keys.
struct MultiMaskBackwardWorker: ~Copyable {
  private typealias Block = MultiMaskBackward
  private let arguments: MultiMaskArguments
  private let rows: MultiMaskBackwardRows
  private let source: SourceReferences
  private let dropout: DropoutFactors?
  private let isSigmoid: Bool
  private let width: Int
  private let paddedWidth: Int
  private var scratch: Scratch
  /// [192, Dp] queries times scale·log2(e), G and H, and dq of a tile.
  private let q: UnsafeMutablePointer<Float>
  private let g: UnsafeMutablePointer<Float>
  private let h: UnsafeMutablePointer<Float>
  private let dq: UnsafeMutablePointer<Float>
  /// [192, Dp] keys, E_s and V∘E_s∘ν, and [panel, Dp, 2V] the same transposed.
  private let k: UnsafeMutablePointer<Float>
  private let kt: UnsafeMutablePointer<Float>
  private let keyRows: SourceRows
  private let weightsT: UnsafeMutablePointer<Float>
  private let weightedValuesT: UnsafeMutablePointer<Float>
  /// [192, Dp] dk·log2(e), X and Y of the block.
  private let dk: UnsafeMutablePointer<Float>
  private let x: UnsafeMutablePointer<Float>
  private let y: UnsafeMutablePointer<Float>
  /// [192, 192] t, then E_t; the gradients, then dt; with dropout E_t∘μ.
  private let p: UnsafeMutablePointer<Float>
  private let dt: UnsafeMutablePointer<Float>
  private let dropped: UnsafeMutablePointer<Float>
  /// [6, 192] mantissas and slopes of the logistic φ_t, μ, and what wide vectors add to dlog φ_t.
  private let mantissas: UnsafeMutablePointer<Float>
  private let slopes: UnsafeMutablePointer<Float>
  private let kept: UnsafeMutablePointer<Float>
  private let wideTokens: UnsafeMutablePointer<Float>
  /// [192] references of the rows, six zeros, and sums that nobody reads.
  private let references: UnsafeMutablePointer<Float>
  private let zeros: UnsafeMutablePointer<Float>
  private let totals: UnsafeMutablePointer<Float>
  /// Three rows of Dp channels.
  private let row: UnsafeMutablePointer<Float>
  private let wideRows: WideRows?
  private let wideQueries: WideQueries
  private let wideGradients: WideGradients

  init(
    _ arguments: MultiMaskArguments, _ rows: MultiMaskBackwardRows, _ source: SourceReferences
  ) {
    self.arguments = arguments
    self.rows = rows
    self.source = source
    dropout = DropoutFactors(arguments.scheme.dropout)
    isSigmoid = arguments.scheme.tokenScore == .sigmoid
    width = arguments.shape.width
    paddedWidth = padded(width)
    // Short sequences get a small scratch: clearing a large one would take longer than they do.
    let rowCount = min(Block.blockSize, wholePanels(arguments.shape.tokens)) + tileRows
    let block = rowCount * paddedWidth
    let pairs = rowCount * Block.blockSize
    let tile = tileRows * Block.blockSize
    let wide = source.hasWideVectors ? block : 0
    let drop = dropout == nil ? 0 : pairs
    scratch = Scratch(
      floats: 13 * block + 8 * wide + 2 * pairs + drop + 4 * tile + 3 * paddedWidth + rowCount + 512
    )
    q = scratch.take(block)
    g = scratch.take(block)
    h = scratch.take(block)
    dq = scratch.take(block)
    k = scratch.take(block)
    kt = scratch.take(block)
    keyRows = SourceRows(weights: scratch.take(block), weightedValues: scratch.take(block))
    weightsT = scratch.take(block)
    weightedValuesT = scratch.take(block)
    dk = scratch.take(block)
    x = scratch.take(block)
    y = scratch.take(block)
    p = scratch.take(pairs)
    dt = scratch.take(pairs)
    dropped = scratch.take(drop)
    mantissas = scratch.take(tile)
    slopes = scratch.take(tile)
    kept = scratch.take(tile)
    wideTokens = scratch.take(tile)
    references = scratch.take(rowCount)
    zeros = scratch.take(tileRows)
    totals = scratch.take(tileRows)
    row = scratch.take(3 * paddedWidth)
    wideRows =
      wide == 0
      ? nil
      : WideRows(
        exponents: scratch.take(wide), mantissas: scratch.take(wide), values: scratch.take(wide))
    wideQueries = WideQueries(
      upstream: scratch.take(wide), output: scratch.take(wide), logDenominators: scratch.take(wide))
    wideGradients = WideGradients(source: scratch.take(wide), values: scratch.take(wide))
    // What lies beyond a tile's last row or column has weight 0 in every product and must be finite.
    for pointer in [q, g, h, k, keyRows.weights, keyRows.weightedValues] {
      pointer.update(repeating: 0, count: block)
    }
    for pointer in [kept, mantissas, slopes] { pointer.update(repeating: 1, count: tile) }
    references.update(repeating: 0, count: rowCount)
    zeros.update(repeating: 0, count: tileRows)
  }

  /// dk, dv and ds of a block of keys, and what its queries get from it.
  mutating func run(
    _ head: MaskedHead, keys all: Range<Int>, queriesGradient: MutableRows<Float>
  ) {
    let keys = all.clamped(to: 0..<max(head.length, all.lowerBound))
    for key in max(keys.upperBound, all.lowerBound)..<all.upperBound {
      for target in [rows.keysGradient, rows.valuesGradient, rows.sourceLogitsGradient] {
        target.row(head.sequence, head.head, key).update(repeating: 0, count: width)
      }
    }
    guard !keys.isEmpty else { return }
    packKeys(head, keys)
    for pointer in [dk, x, y] {
      pointer.update(repeating: 0, count: (keys.count + tileRows) * paddedWidth)
    }
    let isWide = !source.wideVectors[head.index].isEmpty
    if isWide { wideGradients.clear((keys.count + tileRows) * paddedWidth) }
    for queries in head.observers(of: keys).pieces(of: Block.blockSize) {
      packQueries(head, queries)
      dq.update(repeating: 0, count: (queries.count + tileRows) * paddedWidth)
      for tile in stride(from: queries.lowerBound, to: queries.upperBound, by: tileRows) {
        differentiate(
          head, queries: tile..<min(queries.upperBound, tile + tileRows), keys: keys,
          row: tile - queries.lowerBound)
      }
      addToKeys(head, queries: queries, keys: keys)
      for (i, query) in queries.enumerated() {
        addRow(
          dq + i * paddedWidth, width: width, factor: Float(arguments.scheme.scale),
          to: queriesGradient.row(head.sequence, head.head, query))
      }
    }
    for (i, key) in keys.enumerated() { write(head, key: key, place: i * paddedWidth) }
  }

  private func packKeys(_ head: MaskedHead, _ keys: Range<Int>) {
    let forward = rows.forward
    packRows(
      forward.keys.row(head.sequence, head.head, keys.lowerBound),
      distance: forward.keys.tokenStride, places: keys, width: width, factor: 1, rotary: nil,
      into: k)
    transposeRows(k, count: keys.count, paddedWidth: paddedWidth, into: kt)
    packSource(
      arguments, forward, head: head.index, keys: keys, references: source, into: keyRows,
      wide: source.wideVectors[head.index].isEmpty ? nil : wideRows)
    transposeRows(
      keyRows.weights, count: keys.count, paddedWidth: paddedWidth, into: weightsT)
    transposeRows(
      keyRows.weightedValues, count: keys.count, paddedWidth: paddedWidth, into: weightedValuesT)
  }

  /// q, G = dO/denominator, H = −G∘O, and the references of the rows.
  private func packQueries(_ head: MaskedHead, _ queries: Range<Int>) {
    let (b, n) = (head.sequence, head.index * arguments.shape.tokens + queries.lowerBound)
    let (forward, first) = (rows.forward, queries.lowerBound)
    let columns = source.wideVectors[head.index]
    packRows(
      forward.queries.row(b, head.head, first), distance: forward.queries.tokenStride,
      places: queries, width: width, factor: Float(arguments.scheme.scale) * log2e, rotary: nil,
      into: q)
    packRows(
      rows.outputGradient.row(b, head.head, first), distance: rows.outputGradient.tokenStride,
      places: queries, width: width, factor: 1, rotary: nil, into: g)
    packRows(
      forward.output.reading.row(b, head.head, first), distance: forward.output.tokenStride,
      places: queries, width: width, factor: 1, rotary: nil, into: h)
    let normalizers = UnsafePointer(rows.saved.normalizers + n * width)
    for i in 0..<queries.count {
      packRow(normalizers + i * width, width: width, factor: 1, into: row)
      references[i] = rows.saved.references[n + i]
      let place = i * paddedWidth
      for column in columns { keepWide(place + column, logDenominators: load(row + column)) }
      for column in columns { store(Lanes.zero, row + column) }
      for l in stride(from: 0, to: paddedWidth, by: laneCount) {
        let gradient = load(g + place + l) * load(row + l)
        store(gradient, g + place + l)
        store(-(gradient * load(h + place + l)), h + place + l)
      }
    }
  }

  private func keepWide(_ place: Int, logDenominators: Lanes) {
    store(load(g + place), wideQueries.upstream + place)
    store(load(h + place), wideQueries.output + place)
    store(logDenominators, wideQueries.logDenominators + place)
  }

  /// Six rows of E_t and dt; 0 wherever a query sees no key.
  private func differentiate(
    _ head: MaskedHead, queries: Range<Int>, keys: Range<Int>, row: Int
  ) {
    let stride = Block.blockSize
    let (weights, gradients) = (p + row * stride, dt + row * stride)
    let seen = head.keys(of: queries).within(keys)
    let columns = vectors(seen)
    // Products come in whole panels, of which this keeps the columns that someone sees.
    defer { clearUnseen(row: row, rows: queries.count, keys: keys.count, columns: columns) }
    guard !seen.isEmpty else { return }
    multiply(q, kt, row: row, seen: seen, into: weights)
    let bounds = TileBounds(rows: queries.count) {
      head.keys(of: queries.lowerBound + $0).within(keys)
    }
    if isSigmoid {
      splitSigmoid(weights, stride: stride, columns: columns, mantissas: mantissas, slopes: slopes)
    }
    head.hide(weights, stride: stride, queries: queries, keys: keys, columns: columns)
    multiply(g, weightedValuesT, row: row, seen: seen, into: gradients)
    if let dropout {
      keepTokens(
        dropout, head: head.index, queries: queries, keys: keys, columns: columns, stride: stride,
        into: kept)
      multiplyElements(gradients, kept, stride: stride, columns: columns, into: gradients)
    }
    multiply(h, weightsT, row: row, seen: seen, into: gradients, adding: true)
    differentiateWide(head, queries: queries, keys: keys, row: row, bounds: bounds)
    for half in [0, 3] {
      differentiateRows(
        weights + half * stride, gradients + half * stride, stride: stride, columns: columns,
        bounds: bounds, half: half, shifts: references + row + half, corrections: zeros,
        totals: totals)
    }
    finish(head, row: row, rows: queries.count, columns: columns)
    multiplyRowsAdding(
      gradients + seen.lowerBound, aRow: stride, k + seen.lowerBound * paddedWidth,
      count: seen.count, dq + row * paddedWidth, paddedWidth: paddedWidth)
  }

  /// Keys are taken in sixes later, some of which these queries may not see.
  private func clearUnseen(row: Int, rows: Int, keys: Int, columns: Range<Int>) {
    let end = vectors(0..<(keys + tileRows - 1) / tileRows * tileRows).upperBound
    for i in row..<row + rows {
      for pointer in [p, dt] {
        clear(pointer + i * Block.blockSize, 0..<columns.lowerBound)
        clear(pointer + i * Block.blockSize, columns.upperBound..<end)
      }
      if dropout != nil {
        clear(dropped + i * Block.blockSize, 0..<columns.lowerBound)
        clear(dropped + i * Block.blockSize, columns.upperBound..<end)
      }
    }
  }

  private func multiply(
    _ a: UnsafeMutablePointer<Float>, _ panels: UnsafeMutablePointer<Float>, row: Int,
    seen: Range<Int>, into target: UnsafeMutablePointer<Float>, adding: Bool = false
  ) {
    let panel = 2 * laneCount
    let range = seen.lowerBound / panel..<(seen.upperBound + panel - 1) / panel
    let rows = a + row * paddedWidth
    if adding {
      multiplyPanelsAdding(
        rows, aRow: paddedWidth, panels: panels, range: range, width: width, into: target,
        sRow: Block.blockSize)
    } else {
      multiplyPanels(
        rows, aRow: paddedWidth, panels: panels, range: range, width: width, into: target,
        sRow: Block.blockSize)
    }
  }

  /// What the logistic φ_t, wide vectors and dropout do to six rows after the exponentials.
  private func finish(_ head: MaskedHead, row: Int, rows: Int, columns: Range<Int>) {
    let stride = Block.blockSize
    let (weights, gradients) = (p + row * stride, dt + row * stride)
    if isSigmoid {
      multiplyElements(weights, mantissas, stride: stride, columns: columns, into: weights)
      multiplyElements(gradients, mantissas, stride: stride, columns: columns, into: gradients)
    }
    if !source.wideVectors[head.index].isEmpty {
      for i in 0..<rows {
        for j in Swift.stride(from: columns.lowerBound, to: columns.upperBound, by: laneCount) {
          let place = i * stride + j
          store(load(gradients + place) + load(wideTokens + place), gradients + place)
        }
      }
    }
    if isSigmoid {
      multiplyElements(gradients, slopes, stride: stride, columns: columns, into: gradients)
    }
    if dropout != nil {
      multiplyElements(
        weights, kept, stride: stride, columns: columns, into: dropped + row * stride)
    }
  }

  private func differentiateWide(
    _ head: MaskedHead, queries: Range<Int>, keys: Range<Int>, row: Int, bounds: TileBounds
  ) {
    let columns = source.wideVectors[head.index]
    guard let wideRows, !columns.isEmpty else { return }
    let stride = Block.blockSize
    wideTokens.update(repeating: 0, count: tileRows * stride)
    let tile = WideTile(
      stride: stride, exponents: p + row * stride, mantissas: mantissas, kept: kept, bounds: bounds)
    columns.withUnsafeBufferPointer { columns in
      for i in 0..<queries.count {
        wideGradients.add(
          tile, tileRow: i, keys: wideRows, queries: wideQueries, paddedWidth: paddedWidth,
          row: row + i, columns: columns, tokenGradients: wideTokens + i * stride)
      }
    }
  }

  /// X += (E_t∘μ)ᵀ·G, Y += E_tᵀ·H and dk += dtᵀ·q, six keys at a time over the queries that see any.
  private func addToKeys(_ head: MaskedHead, queries: Range<Int>, keys: Range<Int>) {
    let numeratorWeights = dropout == nil ? p : dropped
    for key in stride(from: keys.lowerBound, to: keys.upperBound, by: tileRows) {
      let six = key..<min(keys.upperBound, key + tileRows)
      let observers = head.observers(of: six).within(queries)
      guard !observers.isEmpty else { continue }
      let column = key - keys.lowerBound
      let (first, target) = (observers.lowerBound * Block.blockSize + column, column * paddedWidth)
      let offset = observers.lowerBound * paddedWidth
      multiplyColumnsAdding(
        numeratorWeights + first, aStep: Block.blockSize, g + offset, count: observers.count,
        x + target, paddedWidth: paddedWidth)
      multiplyColumnsAdding(
        p + first, aStep: Block.blockSize, h + offset, count: observers.count, y + target,
        paddedWidth: paddedWidth)
      multiplyColumnsAdding(
        dt + first, aStep: Block.blockSize, q + offset, count: observers.count, dk + target,
        paddedWidth: paddedWidth)
    }
  }

  /// dk, dv and ds of one key, whose rows of the block begin at `place`.
  private func write(_ head: MaskedHead, key: Int, place: Int) {
    let (b, forward) = (head.sequence, rows.forward)
    let (values, logits, gradients) = (row, row + paddedWidth, row + 2 * paddedWidth)
    let factor = arguments.scheme.sourceScore.factor(width: width)
    packRow(
      dk + place, width: width, factor: ln2, into: gradients)
    rows.keysGradient.row(b, head.head, key).update(from: gradients, count: width)
    packRow(forward.values.row(b, head.head, key), width: width, factor: 1, into: values)
    packRow(
      forward.sourceLogits.row(b, head.head, key), width: width, factor: sourceFactor(arguments),
      into: logits)
    let isWide = !source.wideVectors[head.index].isEmpty
    let rowKey = dropout?.rowKey(.source, head: head.index, row: key) ?? 0
    for l in stride(from: 0, to: paddedWidth, by: laneCount) {
      let kept = dropout?.factors(rowKey: rowKey, column: l) ?? Lanes(repeating: 1)
      let weight = load(keyRows.weights + place + l)
      var dv = weight * load(x + place + l)
      var ds = weight * load(y + place + l)
      ds += kept * load(values + l) * dv
      if isWide {
        dv += load(wideGradients.values + place + l)
        ds += load(wideGradients.source + place + l)
      }
      var slope = Lanes(repeating: Float(factor))
      if arguments.scheme.sourceScore.isSigmoid { slope *= Score(sigmoid: load(logits + l)).slope }
      store(dv * kept, values + l)
      store(ds * slope, logits + l)
    }
    rows.valuesGradient.row(b, head.head, key).update(from: values, count: width)
    rows.sourceLogitsGradient.row(b, head.head, key).update(from: logits, count: width)
  }
}
