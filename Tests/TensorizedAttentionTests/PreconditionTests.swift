import AttentionCore
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

  @Test("mistakes in a call of multi-mask attention stop the program")
  func multiMask() async {
    let shapes = await #expect(processExitsWith: .failure, observing: [\.standardErrorContent]) {
      let (q, s) = (Tensor.zeros([1, 2, 8, 4]), Tensor.zeros([1, 2, 7, 4]))
      print(
        multiMaskAttention(
          queries: q, keys: q, values: q, sourceLogits: s, masks: [.full, .full]))
    }
    expectMessage(shapes, ["queries [1, 2, 8, 4]", "source logits [1, 2, 7, 4]"])
    let count = await #expect(processExitsWith: .failure, observing: [\.standardErrorContent]) {
      let q = Tensor.zeros([1, 2, 8, 4])
      print(multiMaskAttention(queries: q, keys: q, values: q, sourceLogits: q, masks: [.full]))
    }
    expectMessage(count, ["one mask for each of the 2 heads, got 1"])
    let size = await #expect(processExitsWith: .failure, observing: [\.standardErrorContent]) {
      let q = Tensor.zeros([1, 1, 8, 4])
      let mask = PositionalMask.custom(TokenMask(tokens: 5) { _, _ in true })
      print(multiMaskAttention(queries: q, keys: q, values: q, sourceLogits: q, masks: [mask]))
    }
    expectMessage(size, ["for 5 tokens, the sequence has 8"])
    let types = await #expect(processExitsWith: .failure, observing: [\.standardErrorContent]) {
      let q = Tensor.zeros([1, 1, 8, 4])
      print(
        multiMaskAttention(
          queries: q, keys: q, values: q.to(.float64), sourceLogits: q, masks: [.full]))
    }
    expectMessage(types, ["agree in type and device", "float64"])
    let window = await #expect(processExitsWith: .failure, observing: [\.standardErrorContent]) {
      let q = Tensor.zeros([1, 1, 8, 4])
      print(
        multiMaskAttention(
          queries: q, keys: q, values: q, sourceLogits: q, masks: [.window(left: -1, right: 2)]))
    }
    expectMessage(window, ["-1 and 2"])
    let dropout = await #expect(processExitsWith: .failure, observing: [\.standardErrorContent]) {
      print(AlignmentDropout(keepProbability: 0, seed: 1))
    }
    expectMessage(dropout, ["above 0 and at most 1, got 0.0"])
    let ragged = await #expect(processExitsWith: .failure, observing: [\.standardErrorContent]) {
      print(TokenMask([[true, false], [true]]))
    }
    expectMessage(ragged, ["rows of [1, 2] for 2 tokens"])
  }
}
