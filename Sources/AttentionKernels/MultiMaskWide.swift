import AttentionCore

// Wide vectors: features whose source logits spread so far that no reference serves every query. Here a
// query and a feature have a reference of their own, and every score an exponential of its own, which
// costs about eight times the factorized products and is right at any logit.

/// Rows of a block of keys for wide vectors, `[keys, Dp]` each.
struct WideRows {
  /// The exponents of log2 φ_s, and the mantissas.
  let exponents: UnsafeMutablePointer<Float>
  let mantissas: UnsafeMutablePointer<Float>
  /// ν·v.
  let values: UnsafeMutablePointer<Float>
}

/// Six queries against a block of keys, row after row `stride` apart.
struct WideTile {
  let stride: Int
  /// Exponents of log2 φ_t, −∞ where hidden between the first and the last key: weight 0.
  let exponents: UnsafePointer<Float>
  /// Mantissas of φ_t and μ; 1 for the exponential and without dropout.
  let mantissas: UnsafePointer<Float>
  let kept: UnsafePointer<Float>
  let bounds: TileBounds

  /// From the first to the last key that a row sees.
  func keys(row: Int) -> Range<Int> { Int(bounds.lower[row])..<Int(bounds.upper[row]) }
}

/// Sums of wide vectors, `[queries, Dp]` each: relative to 2^reference, an own one for every element.
struct WideSums {
  let references: UnsafeMutablePointer<Float>
  let numerators: UnsafeMutablePointer<Float>
  let denominators: UnsafeMutablePointer<Float>

  /// Sums of nothing.
  func clear(_ count: Int) {
    references.update(repeating: -.infinity, count: count)
    numerators.update(repeating: 0, count: count)
    denominators.update(repeating: 0, count: count)
  }

  /// Adds the scores of one query, whose sums begin at `row`, in one vector of features.
  @inline(never)
  func add(
    _ tile: WideTile, tileRow: Int, keys: WideRows, paddedWidth: Int, row: Int, column: Int
  ) {
    let place = row * paddedWidth + column
    let seen = tile.keys(row: tileRow)
    let first = tileRow * tile.stride
    let old = load(references + place)
    var top = old
    var key = seen.lowerBound * paddedWidth + column
    for j in seen {
      top = larger(top, load(keys.exponents + key) + tile.exponents[first + j])
      key += paddedWidth
    }
    let reference = top.replacing(with: Lanes.zero, where: top .== Lanes(repeating: -.infinity))
    let factor = exp2(old - reference)
    var numerator = load(numerators + place) * factor
    var denominator = load(denominators + place) * factor
    key = seen.lowerBound * paddedWidth + column
    for j in seen {
      let exponent = load(keys.exponents + key) + tile.exponents[first + j] - reference
      let weight = exp2(exponent) * (load(keys.mantissas + key) * tile.mantissas[first + j])
      denominator += weight
      numerator = numerator.addingProduct(
        weight * tile.kept[first + j], load(keys.values + key))
      key += paddedWidth
    }
    store(top, references + place)
    store(numerator, numerators + place)
    store(denominator, denominators + place)
  }
}

/// What the backward pass of wide vectors reads a query, `[queries, Dp]` each.
struct WideQueries {
  /// dO and O.
  let upstream: UnsafeMutablePointer<Float>
  let output: UnsafeMutablePointer<Float>
  /// log2 of the denominator, +∞ where a query sees no key.
  let logDenominators: UnsafeMutablePointer<Float>
}

/// Gradients that wide vectors add to a block of keys, `[keys, Dp]` each: of log φ_s, and of ν·v.
struct WideGradients {
  let source: UnsafeMutablePointer<Float>
  let values: UnsafeMutablePointer<Float>

  func clear(_ count: Int) {
    source.update(repeating: 0, count: count)
    values.update(repeating: 0, count: count)
  }

  /// Adds what one query sends to its keys by all wide vectors, and writes what it sends to its own
  /// scores, `tokenGradients` by column.
  @inline(never)
  func add(
    _ tile: WideTile, tileRow: Int, keys: WideRows, queries: WideQueries, paddedWidth: Int,
    row: Int, columns: UnsafeBufferPointer<Int>, tokenGradients: UnsafeMutablePointer<Float>
  ) {
    let first = tileRow * tile.stride
    for j in tile.keys(row: tileRow) {
      let exponent = Lanes(repeating: tile.exponents[first + j])
      let (mantissa, kept) = (tile.mantissas[first + j], tile.kept[first + j])
      var total = Lanes.zero
      for column in columns {
        let (place, key) = (row * paddedWidth + column, j * paddedWidth + column)
        let logWeight =
          load(keys.exponents + key) + exponent - load(queries.logDenominators + place)
        let weight = exp2(logWeight) * (load(keys.mantissas + key) * mantissa)
        let gradient = weight * load(queries.upstream + place)
        let difference =
          gradient * ((load(keys.values + key) * kept) - load(queries.output + place))
        total += difference
        store(load(source + key) + difference, source + key)
        store(load(values + key).addingProduct(gradient, Lanes(repeating: kept)), values + key)
      }
      tokenGradients[j] = sum(total)
    }
  }
}
