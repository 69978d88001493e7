import AttentionCore
import Folding

// What stands between six rows of products ⟨q, k⟩·scale·log2(e) and the weights E_t of multi-mask
// attention, shared by the forward and the backward sweep.

/// A head of a sequence with its mask, cut to the real tokens.
struct MaskedHead {
  /// The index b·H + h.
  let index: Int
  let sequence: Int
  let head: Int
  /// The number of real tokens.
  let length: Int
  let mask: PositionalMask

  init(_ arguments: MultiMaskArguments, index: Int) {
    self.index = index
    sequence = index / arguments.shape.heads
    head = index % arguments.shape.heads
    length = arguments.shape.length(sequence)
    mask = arguments.scheme.masks[head]
  }

  /// From the first to the last key that a query sees.
  func keys(of query: Int) -> Range<Int> { mask.keys(of: query, count: length) }

  /// From the first to the last key that any of the queries sees.
  func keys(of queries: Range<Int>) -> Range<Int> {
    queries.reduce(0..<0) { $0.joined(keys(of: $1)) }
  }

  /// From the first to the last query that sees any of the keys.
  func observers(of keys: Range<Int>) -> Range<Int> {
    keys.reduce(0..<0) { $0.joined(mask.observers(of: $1, count: length)) }
  }

  /// Hides what lies between the first and the last key of a query and is not seen.
  func hide(
    _ logits: UnsafeMutablePointer<Float>, stride: Int, queries: Range<Int>, keys: Range<Int>,
    columns: Range<Int>
  ) {
    switch mask {
    case .diagonalDisabled:
      for query in queries where keys.contains(query) {
        logits[(query - queries.lowerBound) * stride + query - keys.lowerBound] = -.infinity
      }
    case .custom(let mask):
      mask.bytes.withUnsafeBufferPointer { bytes in
        for (i, query) in queries.enumerated() {
          let row = query * mask.tokens + keys.lowerBound
          for j in columns.clamped(to: 0..<keys.count) where bytes[row + j] == 0 {
            logits[i * stride + j] = -.infinity
          }
        }
      }
    default: break
    }
  }
}

extension Range<Int> {
  /// The smallest range that holds both; empty ones count for nothing.
  func joined(_ other: Range<Int>) -> Range<Int> {
    if isEmpty { return other }
    if other.isEmpty { return self }
    return Swift.min(lowerBound, other.lowerBound)..<Swift.max(upperBound, other.upperBound)
  }
}

/// Splits six rows of logits of the logistic φ_t in place: exponents stay, mantissas (and slopes) go to
/// buffers of the same stride.
@inline(never)
func splitSigmoid(
  _ logits: UnsafeMutablePointer<Float>, stride: Int, columns: Range<Int>,
  mantissas: UnsafeMutablePointer<Float>, slopes: UnsafeMutablePointer<Float>
) {
  for i in 0..<tileRows {
    var j = i * stride + columns.lowerBound
    while j < i * stride + columns.upperBound {
      let score = Score(sigmoid: load(logits + j))
      store(score.exponent, logits + j)
      store(score.mantissa, mantissas + j)
      store(score.slope, slopes + j)
      j += laneCount
    }
  }
}

/// Multiplies six rows elementwise: target = a∘b.
@inline(never)
func multiplyElements(
  _ a: UnsafePointer<Float>, _ b: UnsafePointer<Float>, stride: Int, columns: Range<Int>,
  into target: UnsafeMutablePointer<Float>
) {
  for i in 0..<tileRows {
    var j = i * stride + columns.lowerBound
    while j < i * stride + columns.upperBound {
      store(load(a + j) * load(b + j), target + j)
      j += laneCount
    }
  }
}

/// The dropout factors μ of six queries and a block of keys.
@inline(never)
func keepTokens(
  _ dropout: DropoutFactors, head: Int, queries: Range<Int>, keys: Range<Int>,
  columns: Range<Int>, stride: Int, into factors: UnsafeMutablePointer<Float>
) {
  for (i, query) in queries.enumerated() {
    let rowKey = dropout.rowKey(.tokens, head: head, row: query)
    var j = columns.lowerBound
    while j < columns.upperBound {
      store(
        dropout.factors(rowKey: rowKey, column: keys.lowerBound + j), factors + i * stride + j)
      j += laneCount
    }
  }
}

/// Cuts heads into chunks of queries and those into tasks, by the problem alone, so that results do not
/// depend on the number of threads.
struct HeadPlan {
  let heads: Int
  let tokens: Int
  private let chunks: Int
  private let chunkTokens: Int

  init(_ shape: AttentionShape, largest: Int) {
    heads = shape.batch * shape.heads
    tokens = shape.tokens
    let pieces = max(1, (tokens + largest - 1) / largest)
    let even = (tokens + pieces - 1) / pieces
    chunkTokens = max(tileRows, (even + tileRows - 1) / tileRows * tileRows)
    chunks = (tokens + chunkTokens - 1) / chunkTokens
  }

  var count: Int { heads * chunks }

  /// Enough to balance, few enough to share a scratch among many units.
  var tasks: Int { min(count, 128) }

  func units(of task: Int) -> Range<Int> { task * count / tasks..<(task + 1) * count / tasks }

  /// The head and the queries of a unit. Chunks come from both ends in turn: under a mask to one side
  /// the cost grows along the head, and tasks take neighbors.
  func unit(_ index: Int) -> (head: Int, queries: Range<Int>) {
    let place = index % chunks
    let chunk = place % 2 == 0 ? place / 2 : chunks - 1 - place / 2
    let lower = chunk * chunkTokens
    return (index / chunks, lower..<min(tokens, lower + chunkTokens))
  }
}
