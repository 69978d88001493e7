import Foundation
import NN
import OrderedCollections
import Torch

/// The checkpoints of a run: one folder a checkpoint, named by its step, with
///
///     model.safetensors       the weights
///     optimizer.safetensors   the moments and step counts
///     state.json              the step and what the run counts
///
/// A checkpoint is written under a temporary name and renamed when it is complete, so a folder with
/// a checkpoint's name always holds a whole one, and a full disk or a crash costs none before it.
public struct CheckpointStore {
  /// What a run counts, beside its tensors.
  public struct State: Codable, Sendable, Hashable {
    /// The number of optimizer steps done; the next batch is that of this step.
    public var step: Int
    /// The seconds of training so far.
    public var seconds: Double

    /// Creates a state.
    public init(step: Int, seconds: Double) {
      self.step = step
      self.seconds = seconds
    }
  }

  /// How tensors are written to a path.
  package typealias Write = (OrderedDictionary<String, Tensor>, String) throws -> Void

  /// The folder of the checkpoints.
  public let folder: String
  private let kept: Int
  private let write: Write

  /// Names a folder, which is created when the first checkpoint is saved, and how many checkpoints
  /// stay there.
  public init(folder: String, kept: Int = 2) {
    self.init(folder: folder, kept: kept) { tensors, path in
      try SafetensorsFile.write(
        Dictionary(uniqueKeysWithValues: tensors.map { ($0.key, $0.value) }), to: path)
    }
  }

  package init(folder: String, kept: Int, write: @escaping Write) {
    precondition(kept >= 1, "At least one checkpoint must stay, got \(kept).")
    self.folder = folder
    self.kept = kept
    self.write = write
  }

  /// The steps of the complete checkpoints, ascending.
  public var steps: [Int] {
    let names = (try? FileManager.default.contentsOfDirectory(atPath: folder)) ?? []
    return names.compactMap(Self.step(of:)).sorted()
  }

  /// The folder of a step's checkpoint.
  public func path(step: Int) -> String { folder + "/step-" + String(format: "%08d", step) }

  private static func step(of name: String) -> Int? {
    name.hasPrefix("step-") ? Int(name.dropFirst(5)) : nil
  }

  /// Saves a checkpoint and deletes those that are too many.
  ///
  /// - Throws: ``CheckpointError/notSaved(path:reason:previous:)``; earlier checkpoints are then
  ///   untouched and nothing incomplete is left behind.
  public func save(
    state: State, parameters: OrderedDictionary<String, Parameter>, optimizer: (any Optimizer)?
  ) throws {
    let target = path(step: state.step)
    let temporary = folder + "/.saving-\(ProcessInfo.processInfo.processIdentifier)"
    let files = FileManager.default
    do {
      try files.createDirectory(atPath: temporary, withIntermediateDirectories: true)
      try write(parameters.mapValues(\.tensor), temporary + "/model.safetensors")
      if let optimizer { try write(optimizer.state(), temporary + "/optimizer.safetensors") }
      try JSONEncoder().encode(state).write(to: URL(fileURLWithPath: temporary + "/state.json"))
      if files.fileExists(atPath: target) { try files.removeItem(atPath: target) }
      try files.moveItem(atPath: temporary, toPath: target)
    } catch {
      try? files.removeItem(atPath: temporary)
      throw CheckpointError.notSaved(
        path: target, reason: sentence(error), previous: steps.last.map(path(step:)))
    }
    for step in steps.dropLast(kept) { try? files.removeItem(atPath: path(step: step)) }
  }

  /// Loads the newest checkpoint, or that of a step, into a model and its optimizer.
  ///
  /// Nothing is changed unless everything fits.
  ///
  /// - Throws: ``CheckpointError``.
  public func load(
    step: Int? = nil, into parameters: OrderedDictionary<String, Parameter>,
    optimizer: (any Optimizer)? = nil
  ) throws -> State {
    guard let step = step ?? steps.last else { throw CheckpointError.missing(folder: folder) }
    let path = path(step: step)
    let state: State
    do {
      let data = try Data(contentsOf: URL(fileURLWithPath: path + "/state.json"))
      state = try JSONDecoder().decode(State.self, from: data)
    } catch {
      throw CheckpointError.unreadable(path: path, reason: sentence(error))
    }
    var transfers = try matched(
      parameters.mapValues(\.tensor), with: path + "/model.safetensors")
    if let optimizer {
      transfers += try matched(optimizer.state(), with: path + "/optimizer.safetensors")
    }
    withNoGrad { for (old, new) in transfers { old.copy(from: new) } }
    return state
  }

  /// Pairs tensors with those of a file.
  private func matched(
    _ tensors: OrderedDictionary<String, Tensor>, with path: String
  ) throws -> [(old: Tensor, new: Tensor)] {
    do {
      let file = try SafetensorsFile(path)
      let differences = differences(tensors, from: file)
      guard differences.isEmpty else {
        throw CheckpointError.otherShapes(path: path, differences: differences)
      }
      return try tensors.map { (old: $0.value, new: try file.tensor($0.key)) }
    } catch let error as SafetensorsError {
      throw CheckpointError.unreadable(path: path, reason: error.description)
    }
  }

  /// What a file's header has otherwise than the tensors, a sentence a name.
  private func differences(
    _ tensors: OrderedDictionary<String, Tensor>, from file: SafetensorsFile
  ) -> [String] {
    var differences: [String] = []
    for (name, tensor) in tensors {
      guard let found = file.entries[name] else {
        differences.append("\(name) is missing there")
        continue
      }
      if found.shape != tensor.shape || found.dtype != tensor.dtype {
        differences.append(
          "\(name) is \(found.dtype)\(found.shape) there and \(tensor.dtype)\(tensor.shape) here")
      }
    }
    return differences
      + file.names.filter { tensors[$0] == nil }.map { "\($0) is not in this model" }
  }
}

/// An error's own sentence where it has one, Foundation's otherwise.
private func sentence(_ error: any Error) -> String {
  type(of: error) is NSError.Type ? error.localizedDescription : String(describing: error)
}
