import AttentionCore

// The key side of multi-mask attention: log φ_s in units of log 2, its reference a feature, and the
// rows E_s and V∘E_s that enter the products.

/// log2 φ(x/log2 e) for x in units of log 2, split so that no logarithm is needed: φ = 2^exponent ·
/// mantissa with mantissa 1 for the exponential, and for the logistic function
/// σ = 2^min(x, 0) / (1 + 2^−|x|), mantissa between ½ and 1.
struct Score {
  var exponent: Lanes
  var mantissa: Lanes
  /// d log φ / dx.
  var slope: Lanes

  @_transparent
  init(sigmoid x: Lanes) {
    let isNegative = x .< Lanes.zero
    exponent = Lanes.zero.replacing(with: x, where: isNegative)
    let tail = exp2(x.replacing(with: -x, where: x .> Lanes.zero))
    let one = Lanes(repeating: 1)
    mantissa = one / (one + tail)
    slope = mantissa * tail.replacing(with: one, where: isNegative)
  }
}

/// 2^(y − c) for integers c ≥ y − ½, lane by lane; 0 below 2^−126.
///
/// The fraction is taken from y alone, so that another c changes the exponent and no bit besides:
/// tokens that a query does not see cannot show in its output by way of the reference.
@_transparent
func scaledExp2(_ y: Lanes, _ c: Lanes) -> Lanes {
  let rounder = Lanes(repeating: 12_582_912)
  let whole = (y + rounder) - rounder
  let k = whole - c
  let lowest = Lanes(repeating: -126)
  let scale = exp2(k.replacing(with: lowest, where: k .< lowest))
  return (exp2(y - whole) * scale).replacing(with: Lanes.zero, where: k .< lowest)
}

/// 1/√p where an element of dropout is kept, 0 elsewhere.
@_transparent
func keptFactors(rowKey: UInt32, column: Int, threshold: UInt32, factor: Float) -> Lanes {
  let places = laneIndices() &+ IntLanes(repeating: Int32(truncatingIfNeeded: column))
  var x =
    UnsignedLanes(truncatingIfNeeded: places) &* UnsignedLanes(repeating: AlignmentDropout.step)
  x = x &+ UnsignedLanes(repeating: rowKey)
  x ^= x &>> UnsignedLanes(repeating: 16)
  x = x &* UnsignedLanes(repeating: AlignmentDropout.multipliers.0)
  x ^= x &>> UnsignedLanes(repeating: 15)
  x = x &* UnsignedLanes(repeating: AlignmentDropout.multipliers.1)
  x ^= x &>> UnsignedLanes(repeating: 16)
  x = x &>> UnsignedLanes(repeating: 8)
  // Both are below 2^24, where a signed comparison serves.
  let isKept =
    unsafeBitCast(x, to: IntLanes.self) .< IntLanes(repeating: Int32(truncatingIfNeeded: threshold))
  return Lanes.zero.replacing(with: Lanes(repeating: factor), where: isKept)
}

/// The references of E_s: for every (sequence, head) and feature l an integer c_l, at least the
/// largest log2 φ_s of its keys.
///
/// A vector of features is wide if a feature's logs spread over more than ``widestSpread``: then one
/// reference cannot serve every query, and the vector is attended score by score.
final class SourceReferences {
  /// Products of E_t and E_s reach down to 2^−80 of their references where a row's best key has the
  /// worst s. Gradients divide by them, so 2^80 · |dO| · |v| must stay below 2^127.
  static let widestSpread: Float = 80

  private let base: UnsafeMutablePointer<Float>
  /// For every (sequence, head), the first columns of its wide vectors.
  private(set) var wideVectors: [[Int]]
  private let paddedWidth: Int

  /// Whether any vector is wide.
  var hasWideVectors: Bool { wideVectors.contains { !$0.isEmpty } }

  init(_ arguments: MultiMaskArguments, _ logits: Rows<Float>, executor: ParallelExecutor) {
    let shape = arguments.shape
    let heads = shape.batch * shape.heads
    paddedWidth = padded(shape.width)
    base = .allocate(capacity: max(heads * paddedWidth, 1))
    base.initialize(repeating: 0, count: max(heads * paddedWidth, 1))
    let spreads = UnsafeMutablePointer<Float>.allocate(capacity: max(heads * paddedWidth, 1))
    defer { spreads.deallocate() }
    nonisolated(unsafe) let (base, wide, logits) = (base, spreads, logits)
    let width = paddedWidth
    executor.run(heads) { head in
      SourceReferences.find(
        arguments, logits, head: head, into: base + head * width, spreads: wide + head * width)
    }
    wideVectors = (0..<heads).map { head in
      stride(from: 0, to: width, by: laneCount).filter { column in
        (0..<laneCount).contains {
          !(spreads[head * width + column + $0] <= SourceReferences.widestSpread)
        }
      }
    }
  }

  /// The references of one head, and how far below them its keys reach.
  private static func find(
    _ arguments: MultiMaskArguments, _ logits: Rows<Float>, head: Int,
    into references: UnsafeMutablePointer<Float>, spreads: UnsafeMutablePointer<Float>
  ) {
    let shape = arguments.shape
    let (sequence, width) = (head / shape.heads, shape.width)
    let top: Float = arguments.scheme.sourceScore.isSigmoid ? 0 : .infinity
    let factor = sourceFactor(arguments)
    let length = shape.length(sequence)
    spreads.initialize(repeating: 0, count: padded(width))
    for l in 0..<width where length > 0 {
      references[l] = -.infinity
      spreads[l] = .infinity
    }
    // `spreads` holds the lowest log until the end.
    for j in 0..<length {
      let row = logits.row(sequence, head % shape.heads, j)
      var l = 0
      while l + laneCount <= width {
        let y = load(row + l) * factor
        let x = y.replacing(with: Lanes(repeating: top), where: y .> Lanes(repeating: top))
        store(larger(load(references + l), x), references + l)
        let low = load(spreads + l)
        store(low.replacing(with: x, where: x .< low), spreads + l)
        l += laneCount
      }
      while l < width {
        let x = min(row[l] * factor, top)
        references[l] = max(references[l], x)
        spreads[l] = min(spreads[l], x)
        l += 1
      }
    }
    for l in 0..<width where length > 0 {
      references[l] = references[l].rounded(.up)
      spreads[l] = references[l] - spreads[l]
    }
  }

  /// c of a (sequence, head).
  func row(head: Int) -> UnsafePointer<Float> { UnsafePointer(base) + head * paddedWidth }

  deinit { base.deallocate() }
}

/// The factor that turns a source logit into units of log 2.
func sourceFactor(_ arguments: MultiMaskArguments) -> Float {
  Float(arguments.scheme.sourceScore.factor(width: arguments.shape.width)) * log2e
}

/// Rows of one block of keys.
struct SourceRows {
  /// `[keys, Dp]`: E_s relative to its references, 0 in wide vectors.
  let weights: UnsafeMutablePointer<Float>
  /// `[keys, Dp]`: V∘E_s∘ν with the dropout factors ν.
  let weightedValues: UnsafeMutablePointer<Float>
}

/// Fills the rows of a block of keys.
///
/// - Parameters:
///   - head: the index b·H + h.
///   - references: c of the head, and its wide vectors.
///   - wide: where wide vectors keep their exponents, mantissas and ν·v.
@inline(never)
func packSource(
  _ arguments: MultiMaskArguments, _ rows: MultiMaskForwardRows, head: Int, keys: Range<Int>,
  references: SourceReferences, into target: SourceRows, wide: WideRows?
) {
  let shape = arguments.shape
  let (sequence, h, width) = (head / shape.heads, head % shape.heads, shape.width)
  let paddedWidth = padded(width)
  packRows(
    rows.sourceLogits.row(sequence, h, keys.lowerBound), distance: rows.sourceLogits.tokenStride,
    places: keys, width: width, factor: sourceFactor(arguments), rotary: nil, into: target.weights)
  packRows(
    rows.values.row(sequence, h, keys.lowerBound), distance: rows.values.tokenStride,
    places: keys, width: width, factor: 1, rotary: nil, into: target.weightedValues)
  let isSigmoid = arguments.scheme.sourceScore.isSigmoid
  let dropout = DropoutFactors(arguments.scheme.dropout)
  let wideVectors = references.wideVectors[head]
  let c = references.row(head: head)
  for (i, key) in keys.enumerated() {
    let (e, w) = (target.weights + i * paddedWidth, target.weightedValues + i * paddedWidth)
    let rowKey = dropout?.rowKey(.source, head: head, row: key) ?? 0
    var l = 0
    while l < paddedWidth {
      var exponent = load(e + l)
      var mantissa = Lanes(repeating: 1)
      if isSigmoid {
        let score = Score(sigmoid: exponent)
        (exponent, mantissa) = (score.exponent, score.mantissa)
      }
      var value = load(w + l)
      if let dropout { value *= dropout.factors(rowKey: rowKey, column: l) }
      if let wide {
        store(exponent, wide.exponents + i * paddedWidth + l)
        store(mantissa, wide.mantissas + i * paddedWidth + l)
        store(value, wide.values + i * paddedWidth + l)
      }
      let weight = scaledExp2(exponent, load(c + l)) * mantissa
      store(weight, e + l)
      store(value * weight, w + l)
      l += laneCount
    }
    for column in wideVectors {
      store(Lanes.zero, e + column)
      store(Lanes.zero, w + column)
    }
  }
}

/// Dropout as the kernels apply it.
struct DropoutFactors {
  let dropout: AlignmentDropout
  let threshold: UInt32
  let factor: Float

  init?(_ dropout: AlignmentDropout?) {
    guard let dropout else { return nil }
    self.dropout = dropout
    threshold = dropout.threshold
    factor = Float(dropout.factor)
  }

  func rowKey(_ stream: AlignmentDropout.Stream, head: Int, row: Int) -> UInt32 {
    dropout.rowKey(stream, head: head, row: row)
  }

  @_transparent
  func factors(rowKey: UInt32, column: Int) -> Lanes {
    keptFactors(rowKey: rowKey, column: column, threshold: threshold, factor: factor)
  }
}
