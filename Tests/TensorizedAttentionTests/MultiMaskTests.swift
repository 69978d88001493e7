import AttentionCore
import TestSupport
import Testing
import Torch

import TensorizedAttention

/// One call of multi-mask attention on random tensors, with all gradients.
struct MultiMaskTrial: Sendable, CustomTestStringConvertible {
  var masks: [PositionalMask]
  var tokenScore = TokenScore.exponential
  var sourceScore = SourceScore.exponential
  var tokens: Int
  var width: Int
  var lengths: [Int]?
  var batch = 1
  var dropout: AlignmentDropout?
  var layout = Layout.headsFirst
  var scale: Double?
  /// The factors on the random q (and k), and on s.
  var tokenFactor = 1.0
  var sourceFactor = 1.0

  var testDescription: String {
    let names = masks.map { mask in
      if case .custom = mask { return "custom" }
      return "\(mask)"
    }
    return "\(names.joined(separator: " ")) \(tokenScore.rawValue)/\(sourceScore.rawValue) "
      + "N\(tokens) D\(width) B\(batch) \(layout.rawValue)\(lengths.map { " lengths \($0)" } ?? "")"
      + (dropout == nil ? "" : " dropout")
      + (sourceFactor == 1 ? "" : " s·\(sourceFactor)")
      + (tokenFactor == 1 ? "" : " q·\(tokenFactor)")
  }

  /// Output and gradients in f64 arrays.
  func run(
    _ backend: Backend, dtype: DType, device: Device = .cpu
  ) -> [(name: String, values: [Double])] {
    let (b, h) = (lengths?.count ?? batch, masks.count)
    let shape = layout == .headsFirst ? [b, h, tokens, width] : [b, tokens, h, width]
    var numbers = Numbers(seed: 9)
    let rows = [tokenFactor, 1, 1, sourceFactor].map { factor -> Tensor in
      // Rounded to f32 so that every type starts from the same numbers.
      let values = (numbers.tensor(shape, .float64) * factor).to(.float32)
        .to(dtype: dtype, device: device)
      values.requiresGrad = true
      return values
    }
    let weights = numbers.tensor(shape, dtype).to(device)
    let output = multiMaskAttention(
      queries: rows[0], keys: rows[1], values: rows[2], sourceLogits: rows[3], masks: masks,
      tokenScore: tokenScore, sourceScore: sourceScore, scale: scale, lengths: lengths,
      dropout: dropout, layout: layout, backend: backend)
    (output * weights).sum().backward()
    return [("output", output.array(Double.self))]
      + zip(["dq", "dk", "dv", "ds"], rows).map { name, tensor in
        (name, (tensor.grad ?? tensor.zerosLike()).array(Double.self))
      }
  }
}

@Suite struct MultiMaskTests {
  /// A mask with holes, empty rows and columns.
  static func custom(_ tokens: Int) -> PositionalMask {
    .custom(
      TokenMask(tokens: tokens) { query, key in
        query % 7 != 3 && key % 11 != 5 && (query * 5 + key * 3) % 4 != 0
      })
  }

  static let trials: [MultiMaskTrial] = {
    var trials: [MultiMaskTrial] = []
    for tokenScore in TokenScore.allCases {
      for sourceScore in SourceScore.allCases {
        trials.append(
          MultiMaskTrial(
            masks: PositionalMask.directional(heads: 2), tokenScore: tokenScore,
            sourceScore: sourceScore, tokens: 37, width: 12))
      }
    }
    let dropout = AlignmentDropout(keepProbability: 0.7, seed: 3)
    for (tokens, width) in [(1, 5), (2, 8), (63, 40), (131, 64), (197, 16), (250, 24)] {
      trials.append(
        MultiMaskTrial(
          masks: [
            .full, .forward(strict: false), .backward(), .diagonalDisabled,
            .window(left: 3, right: 17), custom(tokens),
          ], tokens: tokens, width: width))
      trials.append(
        MultiMaskTrial(
          masks: [
            .forward(), .backward(strict: false), .window(left: 0, right: 0), custom(tokens),
          ],
          tokenScore: .sigmoid, sourceScore: .sigmoid, tokens: tokens, width: width,
          lengths: [tokens, tokens / 3, 0], dropout: dropout, layout: .tokensFirst))
      trials.append(
        MultiMaskTrial(
          masks: [.diagonalDisabled, .backward()], tokens: tokens, width: width, batch: 2,
          dropout: dropout, scale: 0.4))
    }
    // Source logits so far apart that no factor a feature serves all keys.
    for (tokens, width) in [(5, 3), (70, 20), (203, 40)] {
      trials.append(
        MultiMaskTrial(
          masks: [.forward(), .full, custom(tokens)], tokens: tokens, width: width,
          lengths: [tokens, tokens / 2], dropout: dropout, tokenFactor: 10, sourceFactor: 100))
      trials.append(
        MultiMaskTrial(
          masks: [.backward(), .diagonalDisabled], tokenScore: .sigmoid, sourceScore: .sigmoid,
          tokens: tokens, width: width, tokenFactor: 10, sourceFactor: 100))
    }
    return trials
  }()

  @Test("cpu agrees with the f64 reference", arguments: trials)
  func cpu(trial: MultiMaskTrial) {
    // Logits of up to some 1.7·factor·1.7·√D and 1.7·factor round in f32.
    let logits =
      1 + 3 * trial.tokenFactor * Double(trial.width).squareRoot() + 2 * trial.sourceFactor
    expectAgreement(
      trial.run(.cpu, dtype: .float32), trial.run(.reference, dtype: .float64),
      epsilon: 6e-8 * (trial.sourceFactor > 1 ? logits : 1),
      terms: Double(trial.width + trial.tokens * trial.masks.count))
  }

  @Test(
    "composed on CUDA agrees with the f64 reference",
    .enabled(if: Runtime.cudaDeviceCount > 0, "no CUDA device"), arguments: trials)
  func composedOnCUDA(trial: MultiMaskTrial) {
    expectAgreement(
      trial.run(.composed, dtype: .float64, device: .cuda()),
      trial.run(.reference, dtype: .float64),
      epsilon: 1.2e-16, terms: 100 * Double(trial.width + trial.tokens * trial.masks.count))
  }

  @Test("composed agrees with the f64 reference", arguments: trials)
  func composed(trial: MultiMaskTrial) {
    expectAgreement(
      trial.run(.composed, dtype: .float64), trial.run(.reference, dtype: .float64),
      epsilon: 1.2e-16, terms: 100 * Double(trial.width + trial.tokens * trial.masks.count))
  }

  @Test(
    "the reference's gradients equal central differences",
    arguments: TokenScore.allCases, SourceScore.allCases)
  func differences(tokenScore: TokenScore, sourceScore: SourceScore) {
    let masks: [PositionalMask] = [.forward(), .diagonalDisabled, Self.custom(6)]
    let inputs = zip(["q", "k", "v", "s"], 1...).map { name, seed in
      (name: name, tensor: Tensor.normal([2, 3, 6, 4], seed: seed))
    }
    let weights = Tensor.normal([2, 3, 6, 4], seed: 5)
    for dropout in [nil, AlignmentDropout(keepProbability: 0.5, seed: 1)] {
      let (deviation, place) = GradientCheck.worstDeviation(of: inputs) {
        let output = multiMaskAttention(
          queries: inputs[0].tensor, keys: inputs[1].tensor, values: inputs[2].tensor,
          sourceLogits: inputs[3].tensor, masks: masks, tokenScore: tokenScore,
          sourceScore: sourceScore, lengths: [6, 4], dropout: dropout, backend: .reference)
        return (output * weights).sum()
      }
      #expect(deviation < 1e-6, "\(place)")
    }
  }

  @Test("strided tensors, and gradients that only some inputs need")
  func strides() {
    var numbers = Numbers(seed: 2)
    let shape = [2, 2, 70, 24]
    let wide = numbers.tensor([2, 70, 2, 96], .float32)
    let parts = (0..<4).map {
      wide.narrow(axis: 3, from: $0 * 24, count: 24).transpose(1, 2)
    }
    let leaf = parts[3].contiguous()
    leaf.requiresGrad = true
    let attend = { (inputs: [Tensor], backend: Backend) in
      multiMaskAttention(
        queries: inputs[0], keys: inputs[1], values: inputs[2], sourceLogits: inputs[3],
        masks: [.forward(), .window(left: 2, right: 30)], backend: backend)
    }
    let output = attend([parts[0], parts[1], parts[2], leaf], .cpu)
    // The gradient of a sum is one number expanded, with strides of 0.
    output.sum().backward()
    let found = leaf.grad
    leaf.grad = nil
    let copies = parts.map { $0.contiguous() }
    let same = attend([copies[0], copies[1], copies[2], leaf], .cpu)
    (same * Tensor.ones(shape)).sum().backward()
    #expect(same.isEqual(to: output))
    #expect(found.flatMap { grad in leaf.grad.map { $0.isEqual(to: grad) } } == true)
    #expect(withNoGrad { attend(copies, .cpu) }.isEqual(to: output))
  }

  @Test("dropout keeps a product of both weights with the probability asked for")
  func dropoutRate() {
    let dropout = AlignmentDropout(keepProbability: 0.6, seed: 11)
    let n = 500
    for stream in [AlignmentDropout.Stream.tokens, .source] {
      let kept = (0..<n).map { row -> Int in
        let key = dropout.rowKey(stream, head: 3, row: row)
        return (0..<n).count { dropout.isKept(rowKey: key, column: $0) }
      }
      let total = Double(kept.reduce(0, +)) / Double(n * n)
      // Five standard deviations of n² coin tosses; and of n for every row.
      let p = 0.6.squareRoot()
      let sigma = (p * (1 - p)).squareRoot()
      #expect(abs(total - p) < 5 * sigma / Double(n))
      for count in kept {
        #expect(abs(Double(count) / Double(n) - p) < 5 * sigma / Double(n).squareRoot())
      }
    }
    let other = AlignmentDropout(keepProbability: 0.6, seed: 12)
    #expect(
      dropout.rowKey(.tokens, head: 0, row: 0) != other.rowKey(.tokens, head: 0, row: 0))
  }

  @Test("empty batches and sequences have empty outputs", arguments: [Backend.cpu, .composed])
  func empty(backend: Backend) {
    for shape in [[0, 2, 5, 4], [1, 2, 0, 4]] {
      let x = Tensor.zeros(shape)
      x.requiresGrad = true
      let output = multiMaskAttention(
        queries: x, keys: x, values: x, sourceLogits: x, masks: [.forward(), .full],
        backend: backend)
      output.sum().backward()
      #expect(output.shape == shape)
    }
  }
}
