import AttentionCPU
import AttentionCore
import Folding
import TensorizedAttention
import Torch

/// Holds the kernels against the f64 reference before anything is timed.
///
/// Two checks: output and all gradients on a short sequence with the same modes (one head, whole
/// reference), and sampled rows of every pass at the full length.
struct CorrectnessGate {
  /// The largest error, relative to the largest value of its tensor.
  let worst: Double
  /// 64 ε √(terms): a value is a sum of some n_k terms, each with an error of a few ε.
  let bound: Double

  var passes: Bool { worst <= bound }

  init(_ problem: BenchmarkCase) {
    let terms = Double(problem.pattern.fold.sizes.max() ?? 1) + Double(problem.width)
    bound = 64 * 6e-8 * terms.squareRoot()
    worst = max(Self.shortGradients(problem), Self.sampledRows(problem))
  }

  /// Output and gradients of a sequence of about 1500 tokens that crosses every mode.
  private static func shortGradients(_ problem: BenchmarkCase) -> Double {
    let fold = problem.pattern.fold
    let tokens = min(problem.tokens, max(1500 / fold.strides[0], 3) * fold.strides[0])
    let short = BenchmarkCase(
      tokens: min(tokens, 4096), heads: 1, width: problem.width, pattern: problem.pattern)
    let found = run(short, .cpu, .float32)
    let expected = run(short, .reference, .float64)
    return zip(found, expected).map { x, y in
      let error = (x.to(.float64) - y).abs().max().item(Double.self)
      return error.isNaN ? .infinity : error / max(y.abs().max().item(Double.self), 1e-30)
    }.max() ?? .infinity
  }

  private static func run(
    _ problem: BenchmarkCase, _ backend: Backend, _ dtype: DType
  ) -> [Tensor] {
    let inputs = BenchmarkInputs(problem)
    let leaves = (inputs.leaves + (inputs.beta.map { [$0] } ?? [])).map { leaf in
      let copy = leaf.to(dtype).cloned().detached()
      copy.requiresGrad = true
      return copy
    }
    let output = tensorizedAttention(
      queries: leaves[0], keys: leaves[1], values: leaves[2], pattern: problem.pattern,
      beta: leaves.count > 3 ? leaves[3] : nil, backend: backend
    ).output
    output.backward(gradient: inputs.upstream.to(dtype))
    return [output.detached()] + leaves.compactMap(\.grad)
  }

  /// 64 rows of every pass at the full length.
  private static func sampledRows(_ problem: BenchmarkCase) -> Double {
    let inputs = BenchmarkInputs(problem)
    let shape = AttentionShape(
      batch: 1, heads: problem.heads, tokens: problem.tokens, width: problem.width)
    let order = problem.pattern.fold.order
    let outputs = (0..<order).map { _ in Tensor.full(inputs.queries.shape, Double.nan) }
    let lses = (0..<order).map { _ in Tensor.full([problem.heads, problem.tokens], Double.nan) }
    guard let kernels = try? CPUAttention(executor: .torch) else { return .infinity }
    let rows = { (tensor: Tensor) -> MutableRows<Float> in
      MutableRows(
        pointer(tensor), batchStride: 0, headStride: problem.tokens * problem.width,
        tokenStride: problem.width)
    }
    let beta = inputs.beta.map { UnsafePointer(pointer($0)) }
    return withExtendedLifetime((inputs, outputs, lses)) {
      kernels.forward(
        problem.pattern, shape, scale: Float(shape.defaultScale),
        inputs: AttentionInputs(
          queries: rows(inputs.queries).reading, keys: rows(inputs.keys).reading,
          values: rows(inputs.values).reading, beta: beta, betaStride: problem.heads),
        output: rows(outputs[order - 1]),
        saving: SavedPasses(
          values: outputs.dropLast().map(pointer), logSumExps: lses.map(pointer)))
      let check = SampledCheck(
        pattern: problem.pattern, shape: shape, queries: rows(inputs.queries).reading,
        keys: rows(inputs.keys).reading, beta: beta)
      let sample = (0..<64).map { i in
        // Spread by a step coprime to the length, ending at the very last token.
        (head: i % problem.heads, token: problem.tokens - 1 - (i * 7919) % problem.tokens)
      }
      return problem.pattern.chain.enumerated().map { index, mode in
        check.error(
          mode, rows: sample,
          values: rows(index == 0 ? inputs.values : outputs[index - 1]).reading,
          output: rows(outputs[index]).reading,
          carried: problem.pattern.normalization == .joint && index > 0
            ? UnsafePointer(pointer(lses[index - 1])) : nil)
      }.max() ?? .infinity
    }
  }

  private static func pointer(_ tensor: Tensor) -> UnsafeMutablePointer<Float> {
    guard let address = tensor.dataPointer else {
      fatalError("An empty problem cannot be checked.")
    }
    return address.assumingMemoryBound(to: Float.self)
  }
}
