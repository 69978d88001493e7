import AttentionCPU
import AttentionCore
import Folding
import Testing

/// A caller's mistakes stop the program instead of reading beyond an array.
@Suite struct PreconditionTests {
  @Test("arrays of another size than the shape stop the program")
  func arrays() async {
    await #expect(processExitsWith: .failure) {
      print(
        AttentionProblem<Float>(
          shape: AttentionShape(batch: 1, heads: 2, tokens: 3, width: 4),
          pattern: AttentionPattern(fold: Fold([2, 2])), queries: [Float](repeating: 0, count: 24),
          keys: [Float](repeating: 0, count: 23), values: [Float](repeating: 0, count: 24)))
    }
    await #expect(processExitsWith: .failure) {
      print(
        AttentionProblem<Float>(
          shape: AttentionShape(batch: 1, heads: 1, tokens: 1, width: 1),
          pattern: AttentionPattern(fold: Fold([2, 2])), queries: [0], keys: [0], values: [0],
          beta: [0]))
    }
    await #expect(processExitsWith: .failure) {
      print(
        AttentionProblem<Float>(
          shape: AttentionShape(batch: 1, heads: 1, tokens: 1, width: 1),
          pattern: AttentionPattern(fold: Fold([2, 2])), queries: [0], keys: [0], values: [0],
          biases: [[0, 0, 0]]))
    }
  }

  @Test("a fold too small for its block support stops the program")
  func smallFold() async {
    await #expect(processExitsWith: .failure) {
      print(
        AttentionProblem<Float>(
          shape: AttentionShape(batch: 1, heads: 1, tokens: 5, width: 1),
          pattern: AttentionPattern(fold: Fold([2, 2]), support: .block),
          queries: [0, 0, 0, 0, 0], keys: [0, 0, 0, 0, 0], values: [0, 0, 0, 0, 0]))
    }
  }

  @Test("impossible sizes stop the program")
  func shapes() async {
    await #expect(processExitsWith: .failure) {
      print(AttentionShape(batch: 1, heads: 3, keyHeads: 2, tokens: 4, width: 8))
    }
    await #expect(processExitsWith: .failure) {
      print(AttentionShape(batch: 1, heads: 1, tokens: 4, width: 0))
    }
    await #expect(processExitsWith: .failure) {
      print(AttentionShape(batch: 2, heads: 1, tokens: 4, width: 8, lengths: [4, 5]))
    }
    await #expect(processExitsWith: .failure) {
      print(AttentionShape(batch: 1, heads: 1, tokens: 4, width: 8, queries: 3..<5))
    }
  }

  @Test("rotary positions of an odd width stop the program")
  func oddWidth() async {
    await #expect(processExitsWith: .failure) {
      print(RotaryAngles(Rotary(.mode), mode: Fold([2, 2]).modes[0], width: 5) as Any)
    }
  }
}
