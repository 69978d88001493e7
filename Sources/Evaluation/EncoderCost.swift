import Foundation
import Models
import NN
import Torch
import Training

/// What one training step of an encoder costs for a sequence of some length.
public struct EncoderCost: Codable, Sendable, Hashable {
  /// N.
  public var length: Int
  /// The median milliseconds of forward and backward pass of one sequence.
  public var milliseconds: Double
  /// By how much memory grew at most meanwhile, nil where the system does not tell.
  public var peakBytes: Int?

  enum CodingKeys: String, CodingKey {
    case length
    case milliseconds = "step_ms"
    case peakBytes = "peak_bytes"
  }

  /// Measures forward and backward pass of a model on one random sequence.
  ///
  /// - Parameter repeats: the most passes that are timed, fewer if they take long.
  static func measure(_ model: SequenceModel, length: Int, repeats: Int = 7) -> EncoderCost {
    let configuration = model.configuration
    let tokens = Tensor.randint(
      1..<configuration.vocabularySize, [1, length], generator: Generator(seed: 1))
    let target = Tensor([0])
    let parameters = Array(model.parameters().values)
    let pass = {
      model.scores([SequenceInput(tokens: tokens)]).crossEntropy(target).backward()
      for parameter in parameters { parameter.tensor.grad = nil }
    }
    // The first pass brings code and tables into memory that no later one needs again.
    pass()
    let peak = PeakMemory.growth { pass() }.bytes
    var times: [Double] = []
    let began = ContinuousClock.now
    repeat {
      let start = ContinuousClock.now
      pass()
      times.append((ContinuousClock.now - start) / .milliseconds(1))
    } while times.count < repeats && ContinuousClock.now - began < .seconds(3)
    return EncoderCost(
      length: length, milliseconds: times.sorted()[times.count / 2], peakBytes: peak)
  }

  /// Measures at ascending lengths; where memory, growing with the square of the length, would exceed
  /// `budget`, the rest is left out.
  static func measure(
    _ model: SequenceModel, lengths: [Int], budget: Int,
    shouldStop: () -> Bool, report: (EncoderCost) -> Void
  ) -> [EncoderCost]? {
    var costs: [EncoderCost] = []
    for length in lengths.sorted() {
      if shouldStop() { return nil }
      if let last = costs.last, let bytes = last.peakBytes {
        let growth = Double(length) / Double(last.length)
        if Double(bytes) * growth * growth > Double(budget) { break }
      }
      costs.append(measure(model, length: length))
      costs.last.map(report)
    }
    return costs
  }
}
