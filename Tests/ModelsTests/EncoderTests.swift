import Models
import NN
import TestSupport
import Testing
import Torch

/// Small sizes of every family, in blocks and alone.
struct EncoderCase: Sendable, CustomTestStringConvertible {
  let family: EncoderFamily
  let blocks: Int

  static let all = EncoderFamily.allCases.flatMap { family in
    [0, 2].map { EncoderCase(family: family, blocks: $0) }
  }

  var testDescription: String {
    blocks == 0 ? "\(family.name) alone" : "\(family.name), \(blocks) blocks"
  }

  var configuration: EncoderConfiguration {
    var configuration = EncoderConfiguration()
    configuration.family = family
    configuration.blocks = blocks
    configuration.width = 6
    configuration.innerWidth = 7
    configuration.heads = 2
    configuration.mixerWidth = 8
    configuration.activation = .tanh
    return configuration
  }
}

@Suite("Encoders")
struct EncoderTests {
  // Tests run side by side: more threads for such small tensors would only wait for one another.
  init() { Runtime.threadCount = 1 }

  @Test("Gradients of input and weights equal finite differences", arguments: EncoderCase.all)
  func gradients(encoderCase: EncoderCase) throws {
    let configuration = encoderCase.configuration
    let encoder = configuration.makeEncoder(
      inputs: 5, initializer: Initializer(seed: 4, dtype: .float64))
    let x = Tensor.normal([2, 5, 5], seed: 5)
    let padding = try #require(Padding(lengths: [5, 3], tokens: 5))
    // Outputs of padding mean nothing.
    let weights = padding.clearing(Tensor.normal([2, 5, configuration.outputWidth], seed: 6))
    var inputs = [(name: "input", tensor: x)]
    for (name, parameter) in encoder.parameters() { inputs.append((name, parameter.tensor)) }
    let worst = GradientCheck.worstDeviation(of: inputs) {
      (encoder(x, padding: padding, dropout: nil) * weights).sum()
    }
    // ReLU's kink in the convolutions lies far from these values.
    #expect(worst.deviation < 1e-6, "\(worst.at)")
  }

  @Test("Padding changes nothing, whatever it holds", arguments: EncoderCase.all)
  func padding(encoderCase: EncoderCase) throws {
    let encoder = encoderCase.configuration.makeEncoder(
      inputs: 5, initializer: Initializer(seed: 7, dtype: .float64))
    withNoGrad {
      let lengths = [9, 4, 1]
      let sequences = lengths.enumerated().map { index, length in
        Tensor.normal([1, length, 5], seed: UInt64(index + 1))
      }
      for garbage in [0.0, 1e3] {
        let x = Tensor.full([3, 9, 5], garbage, dtype: .float64)
        for (index, sequence) in sequences.enumerated() {
          x.narrow(axis: 0, from: index, count: 1)
            .narrow(axis: 1, from: 0, count: lengths[index]).copy(from: sequence)
        }
        let found = encoder(x, padding: Padding(lengths: lengths, tokens: 9), dropout: nil)
        for (index, sequence) in sequences.enumerated() {
          let alone = encoder(sequence, padding: nil, dropout: nil)
          let part = found.narrow(axis: 0, from: index, count: 1)
            .narrow(axis: 1, from: 0, count: lengths[index])
          #expect(part.distance(to: alone) < 1e-12, "sequence \(index), padding of \(garbage)")
        }
      }
    }
  }

  @Test("Reversing a sequence changes what its first token becomes", arguments: EncoderCase.all)
  func order(encoderCase: EncoderCase) throws {
    let encoder = encoderCase.configuration.makeEncoder(
      inputs: 5, initializer: Initializer(seed: 8, dtype: .float64))
    withNoGrad {
      let x = Tensor.normal([1, 6, 5], seed: 9)
      let ahead = encoder(x, padding: nil, dropout: nil)
      let reversed = encoder(x.flip(axes: [1]), padding: nil, dropout: nil).flip(axes: [1])
      #expect(ahead.distance(to: reversed) > 1e-3)
    }
  }

  @Test(
    "Families match the number of parameters within 5 %",
    arguments: EncoderFamily.allCases, [32, 64, 128])
  func matching(family: EncoderFamily, width: Int) throws {
    var base = EncoderConfiguration()
    base.width = width
    base.innerWidth = 2 * width
    base.mixerWidth = width
    let target = base.parameterCount(inputs: width)
    let matched = base.matched(by: family, inputs: width)
    try matched.validate()
    let count = matched.parameterCount(inputs: width)
    #expect(abs(Double(count) / Double(target) - 1) <= 0.05, "\(count) for \(target)")
    #expect(matched.family == family)
  }

  @Test("Contradictions are refused in a sentence that names the value")
  func validation() {
    func sentence(_ change: (inout EncoderConfiguration) -> Void) -> String {
      var configuration = EncoderConfiguration()
      change(&configuration)
      do {
        try configuration.validate()
        return ""
      } catch {
        return "\(error)"
      }
    }
    #expect(sentence { _ in } == "")
    #expect(sentence { $0.width = 0 } == "Expected width to be at least 1, found 0.")
    #expect(sentence { $0.mixerWidth = 30 }.contains("multiple of 4, found 30"))
    #expect(sentence { ($0.heads, $0.mixerWidth) = (3, 63) }.contains("even number of heads"))
    #expect(sentence { $0.multiMask.dropout = 1 }.contains("multiMask.dropout"))
  }
}

@Suite("Models of sequences")
struct SequenceModelTests {
  init() { Runtime.threadCount = 1 }

  private func model(
    _ task: SequenceTask, family: EncoderFamily = .multiMask, hasMarker: Bool = false
  ) throws -> SequenceModel {
    var configuration = SequenceModelConfiguration()
    configuration.task = task
    configuration.vocabularySize = 11
    configuration.classes = 4
    configuration.embeddingWidth = 6
    configuration.headWidth = 5
    configuration.hasMarker = hasMarker
    configuration.encoder.family = family
    configuration.encoder.width = 8
    configuration.encoder.innerWidth = 8
    configuration.encoder.heads = 2
    configuration.encoder.mixerWidth = 8
    return try SequenceModel(configuration, initializer: Initializer(seed: 1))
  }

  private func input(_ rows: [[Int]], markers: [Int]? = nil) -> SequenceInput {
    let width = rows.map(\.count).max() ?? 0
    let padded = rows.flatMap { $0 + Array(repeating: 0, count: width - $0.count) }
    return SequenceInput(
      tokens: Tensor(padded, shape: [rows.count, width]),
      padding: Padding(lengths: rows.map(\.count), tokens: width), markers: markers)
  }

  @Test("Every head gives scores of its shape", arguments: EncoderFamily.allCases)
  func shapes(family: EncoderFamily) throws {
    let (first, second) = (input([[1, 2, 3], [4, 5]]), input([[6], [7, 8]]))
    #expect(try model(.classification, family: family).scores([first]).shape == [2, 4])
    #expect(try model(.pair, family: family).scores([first, second]).shape == [2, 4])
    #expect(try model(.tagging, family: family).scores([first]).shape == [2, 3, 4])
  }

  @Test("The order of a pair matters")
  func pairs() throws {
    let model = try model(.pair)
    let (first, second) = (input([[1, 2, 3]]), input([[4, 5]]))
    let distance = model.scores([first, second]).distance(to: model.scores([second, first]))
    #expect(distance > 1e-4)
  }

  @Test("A marker changes the scores, and only if the model has one")
  func markers() throws {
    let rows = [[1, 2, 3, 4]]
    let marked = try model(.tagging, hasMarker: true)
    let distance = marked.scores([input(rows, markers: [1])])
      .distance(to: marked.scores([input(rows, markers: [2])]))
    #expect(distance > 1e-5)
    let plain = try model(.tagging)
    #expect(
      plain.scores([input(rows, markers: [1])]).isEqual(to: plain.scores([input(rows)])))
    #expect(plain.parameters()["marker"] == nil)
  }

  @Test("Vectors that are given are the first of their tokens")
  func vectors() throws {
    var configuration = SequenceModelConfiguration()
    configuration.vocabularySize = 3
    configuration.embeddingWidth = 4
    let vectors = Tensor.normal([3, 4], seed: 2).to(.float32)
    let model = try SequenceModel(
      configuration, vectors: vectors, initializer: Initializer(seed: 1))
    let table = try #require(model.parameters()["embedding.weight"]).tensor
    #expect(table.detached().isEqual(to: vectors))
  }

  @Test("The published sentence encoder has about 2.9 million parameters with its head")
  func publishedSize() throws {
    var configuration = SequenceModelConfiguration()
    configuration.task = .pair
    configuration.vocabularySize = 1
    configuration.classes = 3
    configuration.embeddingWidth = 300
    configuration.headWidth = 300
    configuration.encoder = .publishedSentence
    let model = try SequenceModel(configuration, initializer: Initializer(seed: 1))
    let expected = 2_900_000.0
    #expect(abs(Double(model.parameterCount) / expected - 1) < 0.05, "\(model.parameterCount)")
  }
}
