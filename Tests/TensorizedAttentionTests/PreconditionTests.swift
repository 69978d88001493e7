import Folding
import TensorizedAttention
import Testing
import Torch

/// A caller's mistakes stop the program, with a message that shows the shapes.
@Suite struct PreconditionTests {
  private func expectMessage(_ result: ExitTest.Result?, _ words: [String]) {
    let message = String(decoding: result?.standardErrorContent ?? [], as: UTF8.self)
    for word in words { #expect(message.contains(word), "\(message.prefix(400))") }
  }

  @Test("mismatched shapes stop the program")
  func shapes() async {
    let mismatch = await #expect(
      processExitsWith: .failure, observing: [\.standardErrorContent]
    ) {
      let (q, k) = (Tensor.zeros([1, 2, 8, 4]), Tensor.zeros([1, 2, 7, 4]))
      print(
        tensorizedAttention(
          queries: q, keys: k, values: k, pattern: AttentionPattern(fold: Fold([2, 4]))
        )
        .output)
    }
    expectMessage(mismatch, ["[1, 2, 8, 4]", "[1, 2, 7, 4]"])
    let beta = await #expect(processExitsWith: .failure, observing: [\.standardErrorContent]) {
      let rows = Tensor.zeros([1, 2, 8, 4])
      print(
        tensorizedAttention(
          queries: rows, keys: rows, values: rows, pattern: AttentionPattern(fold: Fold([2, 4])),
          beta: .zeros([3, 2])
        ).output)
    }
    expectMessage(beta, ["[2, 2]", "[3, 2]"])
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
    let small = await #expect(processExitsWith: .failure, observing: [\.standardErrorContent]) {
      let rows = Tensor.zeros([1, 2, 9, 4])
      print(
        tensorizedAttention(
          queries: rows, keys: rows, values: rows,
          pattern: AttentionPattern(fold: Fold([2, 4]), support: .block)
        ).output)
    }
    expectMessage(small, ["2x4 holds 8 tokens", "all 9"])
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
