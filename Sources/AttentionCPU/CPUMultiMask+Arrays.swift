import AttentionCore
import Folding

extension CPUAttention {
  /// Multi-mask attention on arrays, as the reference does it: output and all gradients. The tensor
  /// layer passes memory instead.
  ///
  /// - Parameters:
  ///   - problem: the whole sequences to attend.
  ///   - outputGradient: dO.
  ///   - layout: how the arrays lie; the reference knows only heads first.
  public func multiMaskGradients(
    _ problem: MultiMaskProblem<Float>, outputGradient: [Float], layout: Layout = .headsFirst
  ) -> (output: [Float], gradients: MultiMaskGradients<Float>) {
    let shape = problem.shape
    let arguments = MultiMaskArguments(shape: shape, scheme: problem.scheme)
    let inputs = [
      problem.queries, problem.keys, problem.values, problem.sourceLogits, outputGradient,
    ]
    .map(Memory.init)
    let count = problem.queries.count
    // Whatever is not written shows.
    let written = (0..<4).map { _ in Memory(repeating: .nan, count: count) }
    let dq = Memory(repeating: 0, count: count)
    let normalizers = Memory(repeating: .nan, count: count)
    let references = Memory(repeating: .nan, count: count / shape.width)
    let rows = { (memory: Memory) in memory.rows(shape, heads: shape.heads, layout) }
    return withExtendedLifetime((inputs, normalizers, references)) {
      let saved = MultiMaskSaved(normalizers: normalizers.base, references: references.base)
      let forward = MultiMaskForwardRows(
        queries: rows(inputs[0]).reading, keys: rows(inputs[1]).reading,
        values: rows(inputs[2]).reading, sourceLogits: rows(inputs[3]).reading,
        output: rows(written[0]), saved: saved)
      multiMaskForward(arguments, forward)
      multiMaskBackward(
        arguments,
        MultiMaskBackwardRows(
          forward: forward, saved: saved, outputGradient: rows(inputs[4]).reading,
          queriesGradient: rows(dq), keysGradient: rows(written[1]),
          valuesGradient: rows(written[2]), sourceLogitsGradient: rows(written[3])))
      return (
        written[0].array,
        MultiMaskGradients(
          queries: dq.array, keys: written[1].array, values: written[2].array,
          sourceLogits: written[3].array)
      )
    }
  }
}
