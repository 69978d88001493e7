import Foundation
import Models
import NN
import TestSupport
import Testing
import Text
import Torch
import Training

/// A text in which the next byte follows from those before: quick to learn.
private let toyCorpus = Corpus(
  training: Array(
    String(repeating: "the quick brown fox jumps over the lazy dog. ", count: 60).utf8),
  validation: Array(
    String(repeating: "the lazy dog jumps over the quick brown fox. ", count: 20).utf8)
)

private func tinyRun(attention: String = "full", steps: Int = 12) throws -> RunConfiguration {
  var run = RunConfiguration()
  run.model.width = 16
  run.model.innerWidth = 32
  run.model.layers = 2
  run.model.heads = 2
  run.model.groups = 1
  run.model.headWidth = 8
  run.model.attention = try AttentionStack(parsing: attention)
  run.training.steps = steps
  run.training.context = 32
  run.training.batchSize = 2
  run.training.accumulation = 2
  run.training.learningRate = 1e-2
  run.training.warmUpSteps = 3
  run.training.validationInterval = 5
  run.training.validationTokens = 64
  run.training.checkpointInterval = 4
  return run
}

private func losses(_ folder: String) throws -> [Double] {
  try MetricsFile.read(folder + "/metrics.jsonl").compactMap(\.loss)
}

/// Where the losses of a short run differ at most between two ways of computing it.
private func largestDifference(
  _ first: (Precision, Device), _ second: (Precision, Device), steps: Int
) throws -> Double {
  let runs = try [first, second].map { precision, device in
    let folder = try TemporaryFolder()
    var configuration = try tinyRun(attention: "tensorized:4x8,beta:-1", steps: steps)
    // Kernels serve head widths from 32 on.
    configuration.model.headWidth = 32
    configuration.training.precision = precision
    let run = try TrainingRun(
      configuration, corpus: toyCorpus, folder: folder.path, device: device)
    #expect(try run.run(shouldStop: { false }) == .finished)
    #expect(run.model.parameters().values.allSatisfy { $0.tensor.dtype == .float32 })
    return try losses(folder.path)
  }
  #expect(runs[0].count == steps && runs[1].count == steps)
  return zip(runs[0], runs[1]).map { abs($0 - $1) }.max() ?? .infinity
}

@Suite("Training on CUDA", .enabled(if: Runtime.cudaDeviceCount > 0, "no CUDA device"))
struct CUDATrainingTests {
  @Test("A GPU's losses are the processor's", arguments: [Precision.float32, .bfloat16])
  func losses(precision: Precision) throws {
    let difference = try largestDifference((precision, .cuda()), (.float32, .cpu), steps: 20)
    // Rounding grows along the steps; twelve in bfloat16 on a processor differ by 0.003 from float32.
    #expect(difference < (precision == .float32 ? 0.01 : 0.05))
  }

  @Test("A run goes on and generates on another device")
  func otherDevice() throws {
    let folder = try TemporaryFolder()
    var configuration = try tinyRun(attention: "tensorized:4x8", steps: 8)
    configuration.model.headWidth = 32
    let first = try TrainingRun(
      configuration, corpus: toyCorpus, folder: folder.path, device: .cuda())
    #expect(try first.run(shouldStop: { first.step == 4 }) == .interrupted)
    let second = try TrainingRun(configuration, corpus: toyCorpus, folder: folder.path)
    #expect(second.step == 4)
    #expect(try second.run(shouldStop: { false }) == .finished)
    let texts = try [Device.cpu, .cuda()].map { device in
      let trained = try TrainedModel(folder: folder.path, device: device)
      #expect(trained.model.device.kind == device.kind)
      let tokens = TextGenerator(
        model: trained.model, prompt: Array("the quick".utf8).map(Int.init),
        sampling: Sampling(temperature: 0))
      return Array(tokens.prefix(40))
    }
    #expect(texts[0] == texts[1])
  }
}

@Suite("Training runs", .serialized)
struct TrainingRunTests {
  // Tests run side by side: more threads for such small tensors would only wait for one another.
  init() { Runtime.threadCount = 1 }

  @Test("bfloat16 between the weights changes losses little")
  func precision() throws {
    let difference = try largestDifference((.bfloat16, .cpu), (.float32, .cpu), steps: 12)
    #expect(difference > 0)
    #expect(difference < 0.02)
  }

  @Test("A model computes as it was trained, on a processor in float32")
  func trainedPrecision() throws {
    let folder = try TemporaryFolder()
    var configuration = try tinyRun(steps: 1)
    configuration.training.precision = .bfloat16
    let run = try TrainingRun(configuration, corpus: toyCorpus, folder: folder.path)
    #expect(run.model.precision == .bfloat16)
    #expect(try run.run(shouldStop: { false }) == .finished)
    #expect(try TrainedModel(folder: folder.path).model.precision == .float32)
    let asked = try TrainedModel(folder: folder.path, precision: .bfloat16).model
    #expect(asked(Tensor([1, 2, 3], shape: [1, 3])).dtype == .bfloat16)
  }

  @Test("A GPU that is not there is named", .enabled(if: Runtime.cudaDeviceCount == 0))
  func missingDevice() throws {
    let folder = try TemporaryFolder()
    #expect(throws: TorchError.self) {
      try TrainingRun(tinyRun(), corpus: toyCorpus, folder: folder.path, device: .cuda())
    }
  }

  @Test("The loss falls on a toy text", arguments: ["full", "window:8", "tensorized:4x8"])
  func learning(attention: String) throws {
    let folder = try TemporaryFolder()
    let configuration = try tinyRun(attention: attention, steps: 120)
    let run = try TrainingRun(configuration, corpus: toyCorpus, folder: folder.path)
    #expect(try run.run(shouldStop: { false }) == .finished)
    let losses = try losses(folder.path)
    #expect(losses.count == 120)
    // ln 256 = 5.5 at the beginning.
    #expect(losses[0] > 5)
    #expect(losses.suffix(10).reduce(0, +) / 10 < 2.5)
  }

  @Test(
    "A run that was interrupted and resumed has bitwise the losses and weights of one that was not",
    arguments: ["full", "window:8", "tensorized:4x8"])
  func resuming(attention: String) throws {
    let (whole, parts) = (try TemporaryFolder(), try TemporaryFolder())
    let configuration = try tinyRun(attention: attention)
    let uninterrupted = try TrainingRun(configuration, corpus: toyCorpus, folder: whole.path)
    #expect(try uninterrupted.run(shouldStop: { false }) == .finished)
    // Interrupted at step 5, then as if killed at step 10, after the checkpoint of step 8.
    let first = try TrainingRun(configuration, corpus: toyCorpus, folder: parts.path)
    #expect(try first.run(shouldStop: { first.step == 5 }) == .interrupted)
    let second = try TrainingRun(configuration, corpus: toyCorpus, folder: parts.path)
    #expect(second.step == 5)
    #expect(try second.run(shouldStop: { second.step == 10 }) == .interrupted)
    try FileManager.default.removeItem(atPath: parts.path("checkpoints/step-00000010"))
    let third = try TrainingRun(configuration, corpus: toyCorpus, folder: parts.path)
    #expect(third.step == 8)
    #expect(try third.run(shouldStop: { false }) == .finished)
    #expect(try losses(parts.path) == losses(whole.path))
    for (name, parameter) in uninterrupted.model.parameters() {
      let other = try #require(third.model.parameters()[name])
      #expect(parameter.tensor.isEqual(to: other.tensor), "\(name) differs")
    }
  }

  @Test("Continuing with other settings is refused by their names; validation may change")
  func otherSettings() throws {
    let folder = try TemporaryFolder()
    let configuration = try tinyRun(steps: 2)
    _ = try TrainingRun(configuration, corpus: toyCorpus, folder: folder.path)
    var changed = configuration
    changed.training.learningRate = 0.5
    changed.model.attention = try AttentionStack(parsing: "window:8")
    #expect {
      _ = try TrainingRun(changed, corpus: toyCorpus, folder: folder.path)
    } throws: { error in
      "\(error)".contains("training.learningRate is 0.01 there and 0.5 here")
        && "\(error)".contains("model.attention is full there and window:8 here")
    }
    changed = configuration
    changed.training.validationInterval = 1
    _ = try TrainingRun(changed, corpus: toyCorpus, folder: folder.path)
  }

  @Test("Accumulated batches give the gradient of their union")
  func accumulation() throws {
    let configuration = try tinyRun()
    let model = try Llama(configuration.model, initializer: Initializer(seed: 3, dtype: .float64))
    let text = toyCorpus.training
    meanLoss(model, Batch(text: text, starts: [0, 7, 50, 99], context: 16)).backward()
    let whole = model.parameters().mapValues { $0.tensor.grad?.array(Double.self) ?? [] }
    for parameter in model.parameters().values { parameter.tensor.grad = nil }
    for starts in [[0, 7], [50, 99]] {
      (meanLoss(model, Batch(text: text, starts: starts, context: 16)) / 2).backward()
    }
    for (name, parameter) in model.parameters() {
      let parts = try #require(parameter.tensor.grad).array(Double.self)
      for (a, b) in zip(parts, whole[name] ?? []) { #expect(abs(a - b) < 1e-12, "\(name)") }
    }
  }

  @Test("A loss that is no number stops the run and keeps the checkpoint before")
  func divergence() throws {
    let folder = try TemporaryFolder()
    var configuration = try tinyRun(steps: 50)
    configuration.training.learningRate = 1e30
    configuration.training.clipNorm = 0
    configuration.training.checkpointInterval = 1
    let run = try TrainingRun(configuration, corpus: toyCorpus, folder: folder.path)
    #expect(throws: TrainingError.self) { try run.run(shouldStop: { false }) }
    #expect(!CheckpointStore(folder: folder.path("checkpoints")).steps.isEmpty)
  }

  @Test("2000 steps hold the resident size and the number of tensors")
  func residentSize() async {
    // In a process of its own, where no other test allocates.
    await #expect(processExitsWith: .success) {
      Runtime.threadCount = 1
      let folder = try TemporaryFolder()
      var configuration = try tinyRun(attention: "full+window:8+tensorized:4x8", steps: 2000)
      configuration.model.layers = 3
      configuration.training.accumulation = 1
      configuration.training.validationInterval = 500
      configuration.training.checkpointInterval = 0
      let run = try TrainingRun(configuration, corpus: toyCorpus, folder: folder.path)
      var (bytes, tensors) = (0, 0)
      let outcome = try run.run(shouldStop: {
        if run.step == 500 { (bytes, tensors) = (residentBytes(), Runtime.liveTensorCount) }
        if run.step == 1999 {
          (bytes, tensors) = (residentBytes() - bytes, Runtime.liveTensorCount - tensors)
        }
        return false
      })
      precondition(outcome == .finished)
      precondition(tensors <= 0, "\(tensors) tensors are held that were not after 500 steps")
      // 1500 steps that lost 4 kB each, one small activation, would lose more than this.
      precondition(bytes < 6_000_000, "the resident size grew by \(bytes) bytes")
    }
  }
}

private func residentBytes() -> Int {
  let statistics = try? String(contentsOfFile: "/proc/self/statm", encoding: .utf8)
  let pages = statistics?.split(separator: " ").dropFirst().first
  return pages.flatMap { Int($0) }.map { $0 * 4096 } ?? 0
}
