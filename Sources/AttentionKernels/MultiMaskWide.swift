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
  /// Exponents of log2 φ_t, −∞ where hidden between the first and the last key.
  let exponents: UnsafeMutablePointer<Float>
  /// Mantissas of the logistic φ_t, nil for the exponential.
  let mantissas: UnsafeMutablePointer<Float>?
  /// μ, nil without dropout.
  let kept: UnsafeMutablePointer<Float>?
  let bounds: TileBounds

  /// Calls `body` with every key that a row sees: its column, exponent, mantissa and μ.
  @inline(__always)
  func forEachKey(
    row: Int, _ body: (_ j: Int, _ exponent: Lanes, _ mantissa: Lanes, _ kept: Lanes) -> Void
  ) {
    for j in Int(bounds.lower[row])..<Int(bounds.upper[row]) {
      let x = exponents[row * stride + j]
      if x == -.infinity { continue }
      body(
        j, Lanes(repeating: x), Lanes(repeating: mantissas?[row * stride + j] ?? 1),
        Lanes(repeating: kept?[row * stride + j] ?? 1))
    }
  }
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
    let old = load(references + place)
    var top = old
    tile.forEachKey(row: tileRow) { j, x, _, _ in
      top = larger(top, x + load(keys.exponents + j * paddedWidth + column))
    }
    let reference = top.replacing(with: Lanes.zero, where: top .== Lanes(repeating: -.infinity))
    let factor = exp2(old - reference)
    var numerator = load(numerators + place) * factor
    var denominator = load(denominators + place) * factor
    tile.forEachKey(row: tileRow) { j, x, mantissa, kept in
      let key = j * paddedWidth + column
      let exponent = x + load(keys.exponents + key) - reference
      let weight = exp2(exponent) * (mantissa * load(keys.mantissas + key))
      denominator += weight
      numerator = numerator.addingProduct(weight * kept, load(keys.values + key))
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

  /// Adds what one query sends to its keys, and to its own scores `tokenGradients` (by column).
  @inline(never)
  func add(
    _ tile: WideTile, tileRow: Int, keys: WideRows, queries: WideQueries, paddedWidth: Int,
    row: Int, column: Int, tokenGradients: UnsafeMutablePointer<Float>
  ) {
    let place = row * paddedWidth + column
    let logDenominator = load(queries.logDenominators + place)
    let (upstream, output) = (load(queries.upstream + place), load(queries.output + place))
    tile.forEachKey(row: tileRow) { j, x, mantissa, kept in
      let key = j * paddedWidth + column
      let exponent = x + load(keys.exponents + key) - logDenominator
      let weight = exp2(exponent) * (mantissa * load(keys.mantissas + key))
      let gradient = weight * upstream
      let difference = gradient * ((kept * load(keys.values + key)) - output)
      tokenGradients[j] += sum(difference)
      store(load(source + key) + difference, source + key)
      store(load(values + key).addingProduct(gradient, kept), values + key)
    }
  }
}
