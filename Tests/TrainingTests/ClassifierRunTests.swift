import Foundation
import Models
import NN
import OrderedCollections
import TestSupport
import Testing
import Text
import Torch
import Training

private func tinyRun(
  _ source: ClassifierData.Source = .lastOfEach, family: EncoderFamily = .multiMask, steps: Int = 12
) throws -> (configuration: ClassifierConfiguration, data: LoadedData) {
  var run = ClassifierConfiguration()
  run.data.source = source
  run.data.length = source == .roles ? 25 : 12
  run.data.attributes = 2
  run.data.trainingExamples = 400
  run.data.validationExamples = 40
  run.data.testExamples = 40
  run.model.embeddingWidth = 8
  run.model.headWidth = 8
  run.model.dropout = 0.1
  run.model.encoder.family = family
  run.model.encoder.width = 16
  run.model.encoder.innerWidth = 16
  run.model.encoder.heads = 2
  run.model.encoder.mixerWidth = 16
  run.training.steps = steps
  run.training.batchSize = 16
  run.training.learningRate = 1e-2
  run.training.warmUpSteps = 3
  run.training.validationInterval = 5
  run.training.checkpointInterval = 4
  let data = try run.data.load()
  run.fit(data)
  return (run, data)
}

private func losses(_ folder: String) throws -> [Double] {
  try MetricsFile.read(folder + "/metrics.jsonl").compactMap(\.loss)
}

@Suite("Runs of classifiers", .serialized)
struct ClassifierRunTests {
  // Tests run side by side: more threads for such small tensors would only wait for one another.
  init() { Runtime.threadCount = 1 }

  @Test("Every family lowers the loss on a generated task", arguments: EncoderFamily.allCases)
  func learning(family: EncoderFamily) throws {
    let folder = try TemporaryFolder()
    var (configuration, data) = try tinyRun(family: family, steps: 120)
    configuration.model.dropout = 0
    let run = try ClassifierRun(configuration, splits: data.splits, folder: folder.path)
    #expect(try run.run(shouldStop: { false }) == .finished)
    let losses = try losses(folder.path)
    #expect(losses.count == 120)
    // Four labels: ln 4 = 1.39 at the beginning; what order decides is worth ln 2.
    #expect(losses[0] > 1)
    let (first, last) = (losses.prefix(10).reduce(0, +), losses.suffix(10).reduce(0, +))
    #expect(last < 0.8 * first)
  }

  @Test("Pairs and tags are learned too", arguments: [ClassifierData.Source.precedence, .roles])
  func tasks(source: ClassifierData.Source) throws {
    let folder = try TemporaryFolder()
    let (configuration, data) = try tinyRun(source, steps: 60)
    let run = try ClassifierRun(configuration, splits: data.splits, folder: folder.path)
    #expect(try run.run(shouldStop: { false }) == .finished)
    let losses = try losses(folder.path)
    #expect(losses.suffix(5).reduce(0, +) < losses.prefix(5).reduce(0, +))
    let predictions = try #require(
      Predictions(of: run.model, for: data.splits.test, batchSize: 7))
    let scores = ClassifierScores(predictions, on: data.splits.test)
    #expect(scores.confusion.total == data.splits.test.examples.flatMap(\.targets).count)
    #expect((scores.spans != nil) == (source == .roles))
  }

  static let variants: [(name: String, change: @Sendable (inout ClassifierTraining) -> Void)] = [
    ("AdamW", { _ in }),
    (
      "Adadelta",
      {
        $0.optimizer = .adadelta; $0.learningRate = 0.5
      }
    ),
    ("running mean of weights", { $0.averaging = 0.9 }),
  ]

  @Test(
    "A run that was interrupted and resumed has bitwise the losses and weights of one that was not",
    arguments: variants.map(\.name))
  func resuming(variant: String) throws {
    let (whole, parts) = (try TemporaryFolder(), try TemporaryFolder())
    var (configuration, data) = try tinyRun()
    Self.variants.first { $0.name == variant }?.change(&configuration.training)
    let splits = data.splits
    let uninterrupted = try ClassifierRun(configuration, splits: splits, folder: whole.path)
    #expect(try uninterrupted.run(shouldStop: { false }) == .finished)
    let first = try ClassifierRun(configuration, splits: splits, folder: parts.path)
    #expect(try first.run(shouldStop: { first.step == 6 }) == .interrupted)
    // As if killed after step 10, with the checkpoint of step 8.
    let second = try ClassifierRun(configuration, splits: splits, folder: parts.path)
    #expect(second.step == 6)
    #expect(second.validations.map(\.step) == [5])
    let store = parts.path("checkpoints")
    #expect(
      try second.run(shouldStop: {
        if second.step == 8 {
          try? FileManager.default.copyItem(atPath: store, toPath: parts.path("kept"))
        }
        return second.step == 10
      }) == .interrupted)
    try FileManager.default.removeItem(atPath: store)
    try FileManager.default.moveItem(atPath: parts.path("kept"), toPath: store)
    let third = try ClassifierRun(configuration, splits: splits, folder: parts.path)
    #expect(third.step == 6 || third.step == 8)
    #expect(try third.run(shouldStop: { false }) == .finished)
    #expect(try losses(parts.path) == losses(whole.path))
    #expect(third.validations == uninterrupted.validations)
    for (name, parameter) in uninterrupted.model.parameters() {
      let other = try #require(third.model.parameters()[name])
      #expect(parameter.tensor.isEqual(to: other.tensor), "\(name) differs")
    }
  }

  @Test("Training stops at the goal, or when patience ends, with the best weights")
  func stopping() throws {
    let folder = try TemporaryFolder()
    var (configuration, data) = try tinyRun(steps: 200)
    configuration.training.goal = 0.3
    let run = try ClassifierRun(configuration, splits: data.splits, folder: folder.path("goal"))
    #expect(try run.run(shouldStop: { false }) == .finished)
    #expect(run.step < 200 && run.validations.last.map { $0.score >= 0.3 } == true)

    configuration.training.goal = 0
    configuration.training.patience = 2
    // A rate at which nothing is learned any more.
    configuration.training.learningRate = 1e-9
    let idle = try ClassifierRun(configuration, splits: data.splits, folder: folder.path("idle"))
    #expect(try idle.run(shouldStop: { false }) == .finished)
    #expect(idle.step == 15)
    #expect(idle.best?.step == 5)
    let again = try ClassifierRun(configuration, splits: data.splits, folder: folder.path("idle"))
    #expect(again.isFinished)
  }

  @Test("Continuing with other data or sizes is refused by their names")
  func otherSettings() throws {
    let folder = try TemporaryFolder()
    let (configuration, data) = try tinyRun(steps: 2)
    _ = try ClassifierRun(configuration, splits: data.splits, folder: folder.path)
    var changed = configuration
    changed.data.seed = 5
    changed.model.encoder.family = .recurrent
    #expect {
      _ = try ClassifierRun(changed, splits: data.splits, folder: folder.path)
    } throws: { error in
      "\(error)".contains("data.seed is 1 there and 5 here")
        && "\(error)".contains("model.encoder.family is mtsa there and bilstm here")
    }
  }

  @Test("Settings out of range are refused in a sentence")
  func ranges() throws {
    func sentence(_ change: (inout ClassifierConfiguration) -> Void) throws -> String {
      var (configuration, _) = try tinyRun()
      change(&configuration)
      do {
        try configuration.validate()
        return ""
      } catch {
        return "\(error)"
      }
    }
    #expect(try sentence { _ in } == "")
    #expect(try sentence { $0.training.batchSize = 0 }.contains("batchSize"))
    #expect(try sentence { $0.training.averaging = 1 }.contains("averaging"))
    #expect(try sentence { $0.data.source = .roles }.contains("length of roles"))
    #expect(try sentence { $0.data.source = .questions }.contains("a file in the format trec"))
  }
}

@Suite("Data of classifiers")
struct ClassifierDataTests {
  @Test("Phrases are trained on only where validation and test have files of their own")
  func phrases() throws {
    let folder = try TemporaryFolder()
    let trees = (0..<20).map { "(3 (2 word\($0)) (4 delight))\n" }.joined()
    for name in ["train", "dev", "test"] { try folder.write(name, trees) }
    var data = ClassifierData()
    data.source = .treebank5
    data.training = folder.path("train")
    #expect(try data.load().splits.training.examples.count == 16)
    (data.validation, data.test) = (folder.path("dev"), folder.path("test"))
    let loaded = try data.load()
    #expect(loaded.splits.training.examples.count == 60)
    #expect(loaded.splits.test.examples.count == 20)
    #expect(loaded.vocabularySize == loaded.vocabulary?.count)
  }

  @Test("Word vectors set the width of tokens' vectors, and are the first of their words")
  func vectors() throws {
    let folder = try TemporaryFolder()
    try folder.write("q", (0..<20).map { _ in "NUM:count how many ?\n" }.joined())
    try folder.write("v", "how 1 2 3\nother 4 5 6\n")
    var run = ClassifierConfiguration()
    run.data.source = .questions
    run.data.training = folder.path("q")
    run.data.vectors = folder.path("v")
    let data = try run.data.load()
    run.fit(data)
    #expect(run.model.embeddingWidth == 3)
    let vectors = try #require(data.vectors)
    let how = try #require(data.vocabulary?.id(of: "how"))
    #expect(vectors[how].array(Float.self) == [1, 2, 3])
  }

  @Test("A file with labels that the model lacks is refused by the label and its line")
  func unknownLabels() throws {
    let folder = try TemporaryFolder()
    try folder.write("train", (0..<20).map { _ in "good fine day\nbad dull day\n" }.joined())
    try folder.write("other", "good fine\nodd thing\n")
    var data = ClassifierData()
    data.source = .labeledLines
    data.training = folder.path("train")
    let loaded = try data.load()
    let vocabulary = try #require(loaded.vocabulary)
    let labels = loaded.splits.training.labels
    #expect(labels == ["bad", "good"])
    #expect {
      try data.load(file: folder.path("other"), vocabulary: vocabulary, labels: labels)
    } throws: { "\($0)".contains("other:2") && "\($0)".contains("odd") }
    let again = try data.load(
      file: folder.path("train"), vocabulary: vocabulary, labels: labels)
    #expect(again.examples[0].targets == [1])
  }
}

@Suite("Adadelta")
struct AdadeltaTests {
  init() { Runtime.threadCount = 1 }

  @Test("Three steps equal the rule written out for numbers")
  func rule() {
    let tensor = Tensor([1.0, -2.0])
    tensor.requiresGrad = true
    let parameters: OrderedDictionary = ["w": Parameter(tensor: tensor, decays: true)]
    let optimizer = Adadelta(parameters, weightDecay: 0.1, momentum: 0.9, epsilon: 1e-4)
    var (w, squares, changes) = ([1.0, -2.0], [0.0, 0.0], [0.0, 0.0])
    for step in 1...3 {
      let gradients = [0.3 * Double(step), -0.7]
      tensor.grad = Tensor(gradients)
      optimizer.step(rate: 0.5)
      for i in 0..<2 {
        let g = gradients[i] + 0.1 * w[i]
        squares[i] = 0.9 * squares[i] + 0.1 * g * g
        let change = (changes[i] + 1e-4).squareRoot() / (squares[i] + 1e-4).squareRoot() * g
        changes[i] = 0.9 * changes[i] + 0.1 * change * change
        w[i] -= 0.5 * change
      }
    }
    for (found, expected) in zip(tensor.detached().array(Double.self), w) {
      #expect(abs(found - expected) < 1e-12)
    }
    #expect(Array(optimizer.state().keys) == ["w.gradients", "w.changes"])
  }
}
