import NN
import OrderedCollections
import Torch

/// Any optimizer, and beside it a running mean of the weights that it makes:
///
///     mean ← decay·mean + (1 − decay)·w
///
/// with the decay of the first s steps cut to (1 + s)/(10 + s), so that the mean forgets the random
/// weights of the beginning.
final class WeightAverage: Optimizer {
  let base: any Optimizer
  private let decay: Double
  private let means: OrderedDictionary<String, Tensor>
  /// s, a tensor so that a checkpoint holds it.
  private let steps: Tensor

  init(_ base: any Optimizer, decay: Double) {
    self.base = base
    self.decay = decay
    means = base.parameters.mapValues { $0.tensor.detached().cloned() }
    steps = .zeros([])
  }

  var parameters: OrderedDictionary<String, Parameter> { base.parameters }

  func step(rate: Double) {
    base.step(rate: rate)
    withNoGrad {
      let done = steps.item(Double.self)
      let decay = min(decay, (1 + done) / (10 + done))
      for (name, mean) in means {
        guard let parameter = parameters[name] else { continue }
        mean.interpolateInPlace(to: parameter.tensor, weight: 1 - decay)
      }
      steps.addInPlace(1)
    }
  }

  func state() -> OrderedDictionary<String, Tensor> {
    var state = base.state()
    for (name, mean) in means { state[name + ".average"] = mean }
    state["average.step"] = steps
    return state
  }

  /// Runs work with the mean in place of the weights, which come back afterwards.
  func withMeans<Result>(_ work: () throws -> Result) rethrows -> Result {
    exchange()
    defer { exchange() }
    return try work()
  }

  private func exchange() {
    withNoGrad {
      for (name, mean) in means {
        guard let parameter = parameters[name] else { continue }
        let weights = parameter.tensor.detached().cloned()
        parameter.tensor.copy(from: mean)
        mean.copy(from: weights)
      }
    }
  }
}
