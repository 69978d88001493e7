import AttentionCore
import Folding

/// Some heads of one sequence, with every query head of their key heads.
struct Slice {
  let shape: AttentionShape
  let batch: Int
  /// The first query head.
  let head: Int
  /// The first key head.
  let keyHead: Int
  /// The index of the first row in a contiguous `[B, H, N]`.
  let firstRow: Int
}

extension CPUAttention {
  /// The bytes of q, k, u and u' that one slice may touch: half of a common shared cache.
  private static let sliceBytes = 16 << 20

  /// A problem cut by sequences and key heads.
  func slices(_ shape: AttentionShape) -> [Slice] {
    guard shape.tokens > 0 else { return [] }
    let bytes = 4 * shape.tokens * shape.width * (2 + 3 * shape.group)
    let most = min(shape.keyHeads, max(1, CPUAttention.sliceBytes / bytes))
    return (0..<shape.batch).flatMap { batch in
      stride(from: 0, to: shape.keyHeads, by: most).map { keyHead in
        let keyHeads = min(most, shape.keyHeads - keyHead)
        let head = keyHead * shape.group
        return Slice(
          shape: AttentionShape(
            batch: 1, heads: keyHeads * shape.group, keyHeads: keyHeads, tokens: shape.tokens,
            width: shape.width, lengths: shape.lengths.map { [$0[batch]] }),
          batch: batch, head: head, keyHead: keyHead,
          firstRow: (batch * shape.heads + head) * shape.tokens)
      }
    }
  }
}

extension AttentionInputs {
  func slice(_ slice: Slice, _ pattern: AttentionPattern) -> AttentionInputs {
    AttentionInputs(
      queries: queries.advanced(batch: slice.batch, head: slice.head),
      keys: keys.advanced(batch: slice.batch, head: slice.keyHead),
      values: values.advanced(batch: slice.batch, head: slice.keyHead),
      beta: beta.map { $0 + slice.head }, betaStride: betaStride,
      biases: zip(biases, pattern.fold.modes).map { bias, mode in
        bias.map {
          BiasPointer(
            $0.values + ($0.isPerHead ? slice.head * pattern.biasCount(mode) : 0),
            isPerHead: $0.isPerHead)
        }
      })
  }
}

extension SavedPasses {
  func slice(_ slice: Slice) -> SavedPasses {
    SavedPasses(
      values: values.map { $0 + slice.firstRow * slice.shape.width },
      logSumExps: logSumExps.map { $0 + slice.firstRow })
  }
}

extension CPUAttention.GradientRows {
  func slice(
    _ slice: Slice, _ pattern: AttentionPattern, _ inputs: AttentionInputs
  ) -> CPUAttention.GradientRows {
    CPUAttention.GradientRows(
      output: output.advanced(batch: slice.batch, head: slice.head),
      logSumExp: logSumExp.map { $0 + slice.firstRow },
      queries: queries.advanced(batch: slice.batch, head: slice.head),
      keys: keys.advanced(batch: slice.batch, head: slice.keyHead),
      values: values.advanced(batch: slice.batch, head: slice.keyHead),
      beta: beta.map { $0 + slice.head },
      biases: zip(biases, zip(inputs.biases, pattern.fold.modes)).map { gradient, other in
        gradient.map {
          $0 + (other.0?.isPerHead == true ? slice.head * pattern.biasCount(other.1) : 0)
        }
      })
  }
}
