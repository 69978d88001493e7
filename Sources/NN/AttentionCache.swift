import Folding
import TensorizedAttention
import Torch

/// What a layer remembers of the tokens so far, so that the next ones cost only themselves.
public protocol AttentionCache: AnyObject {
  /// The number of tokens so far.
  var length: Int { get }

  /// Appends the c ≥ 1 next tokens and returns their attention: the same rows as attention over the
  /// whole sequence. Queries [B, c, H, D], keys and values [B, c, G, D] before rotation; returns
  /// [B, c, H, D].
  func attend(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor
}

/// Rotated keys, and values, of all tokens so far, in buffers that double when they are full.
final class FullAttentionCache: AttentionCache {
  private(set) var length = 0
  private let attention: FullAttention
  /// [B, G, capacity, D] each.
  private var buffers: (keys: Tensor, values: Tensor)?

  init(_ attention: FullAttention) { self.attention = attention }

  func attend(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor {
    let (start, count) = (length, queries.size(1))
    let newKeys = attention.rotated(keys, start: start)
    let newValues = values.transpose(1, 2)
    let (allKeys, allValues) = append(newKeys, newValues)
    // A single query sees everything; several at the beginning are plainly causal; several later
    // ones see the past and, causally, each other.
    let mask =
      count > 1 && start > 0
      ? Tensor.ones([count, length], dtype: .bool, device: queries.device)
        .lowerTriangle(diagonal: start)
      : nil
    return scaledDotProductAttention(
      queries: attention.rotated(queries, start: start), keys: allKeys, values: allValues,
      mask: mask, isCausal: count > 1 && start == 0,
      groupedQueries: queries.size(2) > keys.size(2)
    ).transpose(1, 2)
  }

  private func append(_ keys: Tensor, _ values: Tensor) -> (keys: Tensor, values: Tensor) {
    let needed = length + keys.size(2)
    if buffers.map({ $0.keys.size(2) < needed }) ?? true {
      let capacity = max(needed, 2 * (buffers?.keys.size(2) ?? 128))
      buffers = (
        keys: grown(buffers?.keys, to: capacity, like: keys),
        values: grown(buffers?.values, to: capacity, like: values)
      )
    }
    guard let buffers else { return (keys, values) }
    buffers.keys.narrow(axis: 2, from: length, count: keys.size(2)).copy(from: keys)
    buffers.values.narrow(axis: 2, from: length, count: values.size(2)).copy(from: values)
    length = needed
    return (
      buffers.keys.narrow(axis: 2, from: 0, count: length),
      buffers.values.narrow(axis: 2, from: 0, count: length)
    )
  }

  private func grown(_ old: Tensor?, to capacity: Int, like new: Tensor) -> Tensor {
    let shape = [new.size(0), new.size(1), capacity, new.size(3)]
    let buffer = Tensor.zeros(shape, dtype: new.dtype, device: new.device)
    if let old {
      buffer.narrow(axis: 2, from: 0, count: length)
        .copy(from: old.narrow(axis: 2, from: 0, count: length))
    }
    return buffer
  }
}

/// The cache of tensorized attention, of which a window is the case of one mode.
final class FoldedAttentionCache: AttentionCache {
  private let cache: TensorizedAttentionCache
  private let beta: Tensor?

  init(pattern: AttentionPattern, beta: Tensor?) {
    cache = TensorizedAttentionCache(pattern: pattern)
    self.beta = beta
  }

  var length: Int { cache.count }

  func attend(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor {
    cache.attend(
      queries: queries, keys: keys, values: values, beta: beta?.to(queries.dtype),
      layout: .tokensFirst)
  }
}
