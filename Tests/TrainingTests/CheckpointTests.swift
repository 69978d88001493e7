import Foundation
import NN
import OrderedCollections
import TestSupport
import Testing
import Torch
import Training

private struct DiskFull: Error, CustomStringConvertible {
  var description: String { "no space left on device" }
}

private func parameters(_ value: Double, width: Int = 3) -> OrderedDictionary<String, Parameter> {
  [
    "a.weight": Parameter(tensor: Tensor.full([2, width], value), decays: true),
    "b.weight": Parameter(tensor: Tensor.full([width], -value), decays: false),
  ]
}

private func value(_ parameters: OrderedDictionary<String, Parameter>) -> Float? {
  parameters["a.weight"]?.tensor.array(Float.self).first
}

@Suite("Checkpoints")
struct CheckpointTests {
  @Test("Weights, moments and counters come back; old checkpoints are deleted")
  func roundTrip() throws {
    let folder = try TemporaryFolder()
    let store = CheckpointStore(folder: folder.path("checkpoints"), kept: 2)
    for step in 1...4 {
      let saved = parameters(Double(step))
      let optimizer = AdamW(saved, configuration: TrainingConfiguration())
      for parameter in saved.values { parameter.tensor.grad = parameter.tensor.onesLike() }
      optimizer.step(rate: 0)
      try store.save(
        state: .init(step: step, seconds: Double(step) / 2), parameters: saved,
        optimizer: optimizer)
    }
    #expect(store.steps == [3, 4])
    let loaded = parameters(0)
    let optimizer = AdamW(loaded, configuration: TrainingConfiguration())
    #expect(
      try store.load(into: loaded, optimizer: optimizer) == .init(step: 4, seconds: 2))
    #expect(value(loaded) == 4)
    #expect(optimizer.state()["a.weight.step"]?.item(Float.self) == 1)
    #expect(abs((optimizer.state()["a.weight.mean"]?.array(Float.self)[0] ?? 0) - 0.1) < 1e-7)
    #expect(try store.load(step: 3, into: loaded).step == 3)
    #expect(value(loaded) == 3)
  }

  @Test("A checkpoint of another shape is refused by the tensors' names, and changes nothing")
  func otherShape() throws {
    let folder = try TemporaryFolder()
    let store = CheckpointStore(folder: folder.path)
    try store.save(
      state: .init(step: 1, seconds: 0), parameters: parameters(1), optimizer: nil)
    var other = parameters(0, width: 5)
    other["c.weight"] = Parameter(tensor: Tensor.zeros([1]), decays: true)
    other["b.weight"] = nil
    #expect {
      _ = try store.load(into: other)
    } throws: { error in
      let text = "\(error)"
      return text.contains("a.weight is float32[2, 3] there and float32[2, 5] here")
        && text.contains("c.weight is missing there")
        && text.contains("b.weight is not in this model")
    }
    #expect(value(other) == 0)
  }

  @Test("A disk that fills up while saving costs nothing that was saved before")
  func fullDisk() throws {
    let folder = try TemporaryFolder()
    let good = CheckpointStore(folder: folder.path)
    try good.save(state: .init(step: 1, seconds: 0), parameters: parameters(1), optimizer: nil)
    // The disk fills up in the middle of the file.
    let failing = CheckpointStore(folder: folder.path, kept: 1) { _, path in
      try Data([1, 2, 3]).write(to: URL(fileURLWithPath: path))
      throw DiskFull()
    }
    #expect {
      try failing.save(
        state: .init(step: 2, seconds: 0), parameters: parameters(2), optimizer: nil)
    } throws: { error in
      let text = "\(error)"
      return text.contains("no space left") && text.contains("step-00000001")
    }
    #expect(try FileManager.default.contentsOfDirectory(atPath: folder.path) == ["step-00000001"])
    let loaded = parameters(0)
    #expect(try good.load(into: loaded).step == 1)
    #expect(value(loaded) == 1)
  }

  @Test("The same with the system's own refusal to let a file grow")
  func fileLimit() async {
    // In a process of its own, since the limit holds for all of it.
    await #expect(processExitsWith: .success) {
      let folder = try TemporaryFolder()
      let store = CheckpointStore(folder: folder.path)
      let small = parameters(1)
      try store.save(state: .init(step: 1, seconds: 0), parameters: small, optimizer: nil)
      signal(SIGXFSZ, SIG_IGN)
      var limit = rlimit(rlim_cur: 100_000, rlim_max: 100_000)
      precondition(setrlimit(__rlimit_resource_t(RLIMIT_FSIZE.rawValue), &limit) == 0)
      do {
        let large = parameters(2, width: 1_000_000)
        try store.save(state: .init(step: 2, seconds: 0), parameters: large, optimizer: nil)
        preconditionFailure("saved 8 MB into files of at most 100 kB")
      } catch is CheckpointError {}
      let left = try FileManager.default.contentsOfDirectory(atPath: folder.path)
      precondition(left == ["step-00000001"], "\(left)")
      let loaded = parameters(0)
      let state = try store.load(into: loaded)
      precondition(state.step == 1 && value(loaded) == 1)
    }
  }

  @Test("Missing, truncated and foreign files are errors with their path")
  func unreadable() throws {
    let folder = try TemporaryFolder()
    let store = CheckpointStore(folder: folder.path("checkpoints"))
    #expect(throws: CheckpointError.missing(folder: folder.path("checkpoints"))) {
      _ = try store.load(into: parameters(0))
    }
    try store.save(state: .init(step: 1, seconds: 0), parameters: parameters(1), optimizer: nil)
    let file = URL(fileURLWithPath: store.path(step: 1) + "/model.safetensors")
    let whole = try Data(contentsOf: file)
    for length in [0, 7, 20, whole.count - 1] {
      try whole.prefix(length).write(to: file)
      #expect {
        _ = try store.load(into: parameters(0))
      } throws: { error in
        guard case CheckpointError.unreadable(let path, _) = error else { return false }
        return path == file.path
      }
    }
  }
}
