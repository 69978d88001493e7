import AttentionCPU
import AttentionCore
import Testing

/// A problem of multi-mask attention with random inputs, named by what makes it special.
struct MultiMaskTrial: Sendable, CustomTestStringConvertible {
  var masks: [PositionalMask]
  var tokenScore = TokenScore.exponential
  var sourceScore = SourceScore.exponential
  var tokens: Int
  var width: Int
  var lengths: [Int]?
  var keepProbability: Double?
  /// The factors on the random q and s.
  var tokenFactor = 1.0
  var sourceFactor = 1.0

  var testDescription: String {
    let names = masks.map { mask in
      if case .custom = mask { return "custom" }
      return "\(mask)"
    }
    return "\(names.joined(separator: " ")) \(tokenScore.rawValue)/\(sourceScore.rawValue) "
      + "N\(tokens) D\(width)\(lengths.map { " lengths \($0)" } ?? "")"
      + (keepProbability == nil ? "" : " dropout")
      + (tokenFactor == 1 ? "" : " q·\(tokenFactor)")
      + (sourceFactor == 1 ? "" : " s·\(sourceFactor)")
  }

  var shape: AttentionShape {
    AttentionShape(
      batch: lengths?.count ?? 1, heads: masks.count, tokens: tokens, width: width,
      lengths: lengths)
  }

  var scheme: MultiMaskScheme {
    MultiMaskScheme(
      masks: masks, tokenScore: tokenScore, sourceScore: sourceScore, scale: shape.defaultScale,
      dropout: keepProbability.map { AlignmentDropout(keepProbability: $0, seed: 7) })
  }

  /// The problem, exact in f32, and dO.
  func problem() -> (problem: MultiMaskProblem<Double>, upstream: [Double]) {
    var numbers = Numbers(seed: 13)
    let count = shape.batch * shape.heads * tokens * width
    let scaled = { (values: [Double], factor: Double) in
      values.map { Double(Float($0 * factor)) }
    }
    let problem = MultiMaskProblem(
      shape: shape, scheme: scheme, queries: scaled(numbers.array(count), tokenFactor),
      keys: numbers.array(count), values: numbers.array(count),
      sourceLogits: scaled(numbers.array(count), sourceFactor))
    return (problem, numbers.array(count))
  }

  /// A mask with holes, empty rows and columns.
  static func custom(_ tokens: Int) -> PositionalMask {
    .custom(
      TokenMask(tokens: tokens) { query, key in
        query % 7 != 3 && key % 11 != 5 && (query * 5 + key * 3) % 4 != 0
      })
  }

  static let standard: [MultiMaskTrial] = {
    var trials = [
      MultiMaskTrial(
        masks: [.forward(), .backward(), custom(400)], tokens: 400, width: 64, keepProbability: 0.8)
    ]
    for (tokens, width) in [(1, 5), (7, 8), (66, 33), (131, 64), (205, 17)] {
      trials.append(
        MultiMaskTrial(
          masks: [
            .full, .forward(), .backward(strict: false), .diagonalDisabled,
            .window(left: 3, right: 17), .window(left: 40, right: 0), custom(tokens),
          ], tokens: tokens, width: width))
      trials.append(
        MultiMaskTrial(
          masks: [
            .forward(strict: false), .backward(), .window(left: 0, right: 0), custom(tokens),
          ],
          tokenScore: .sigmoid, sourceScore: .scaledSigmoid, tokens: tokens, width: width,
          lengths: [tokens, tokens / 3, 0], keepProbability: 0.7))
      trials.append(
        MultiMaskTrial(
          masks: [.forward(), .diagonalDisabled, custom(tokens)],
          tokenScore: tokens % 2 == 0 ? .sigmoid : .exponential,
          sourceScore: tokens % 2 == 0 ? .sigmoid : .exponential, tokens: tokens, width: width,
          lengths: [tokens, tokens / 2], keepProbability: tokens % 2 == 0 ? 0.9 : nil,
          tokenFactor: 4, sourceFactor: 60))
    }
    return trials
  }()
}

extension MultiMaskProblem<Double> {
  /// The same problem in f32, which holds its inputs exactly.
  var single: MultiMaskProblem<Float> {
    MultiMaskProblem<Float>(
      shape: shape, scheme: scheme, queries: queries.map(Float.init), keys: keys.map(Float.init),
      values: values.map(Float.init), sourceLogits: sourceLogits.map(Float.init))
  }

  /// Output and gradients in f64.
  func solved(_ upstream: [Double]) -> [(name: String, values: [Double])] {
    let reference = MultiMaskReference(self)
    let result = reference.forward()
    let gradients = reference.backward(result, outputGradient: upstream)
    return named(result.output, gradients)
  }
}

/// Results by name.
func named<T>(
  _ output: [T], _ gradients: MultiMaskGradients<T>
) -> [(name: String, values: [T])] {
  [
    ("output", output), ("dq", gradients.queries), ("dk", gradients.keys),
    ("dv", gradients.values), ("ds", gradients.sourceLogits),
  ]
}
