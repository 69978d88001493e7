import Folding
import TensorizedAttention
import Testing
import Torch

/// A caller's mistakes stop the program.
@Suite struct PreconditionTests {
  @Test("mismatched shapes stop the program")
  func shapes() async {
    await #expect(processExitsWith: .failure) {
      let (q, k) = (Tensor.zeros([1, 2, 8, 4]), Tensor.zeros([1, 2, 7, 4]))
      print(
        tensorizedAttention(
          queries: q, keys: k, values: k, pattern: AttentionPattern(fold: Fold([2, 4]))
        )
        .output)
    }
    await #expect(processExitsWith: .failure) {
      let rows = Tensor.zeros([1, 2, 8, 4])
      print(
        tensorizedAttention(
          queries: rows, keys: rows, values: rows, pattern: AttentionPattern(fold: Fold([2, 4])),
          beta: .zeros([3, 2])
        ).output)
    }
    await #expect(processExitsWith: .failure) {
      let (q, k) = (Tensor.zeros([1, 2, 8, 4]), Tensor.zeros([1, 2, 8, 4], dtype: .float64))
      print(
        tensorizedAttention(
          queries: q, keys: k, values: k, pattern: AttentionPattern(fold: Fold([2, 4]))
        )
        .output)
    }
  }

  @Test("a fold too small for its block support stops the program")
  func smallFold() async {
    await #expect(processExitsWith: .failure) {
      let rows = Tensor.zeros([1, 2, 9, 4])
      print(
        tensorizedAttention(
          queries: rows, keys: rows, values: rows,
          pattern: AttentionPattern(fold: Fold([2, 4]), support: .block)
        ).output)
    }
  }

  @Test("a cache of a support that is not causal stops the program")
  func bidirectionalCache() async {
    await #expect(processExitsWith: .failure) {
      print(
        TensorizedAttentionCache(
          pattern: AttentionPattern(fold: Fold([2, 4]), support: .block)
        ).count)
    }
  }
}
