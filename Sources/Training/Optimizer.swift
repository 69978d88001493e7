import NN
import OrderedCollections
import Torch

/// What changes parameters along their gradients.
public protocol Optimizer: AnyObject {
  /// The parameters by name.
  var parameters: OrderedDictionary<String, Parameter> { get }

  /// Changes the parameters by one step along their gradients. Parameters without one stay.
  func step(rate: Double)

  /// What the optimizer remembers, by name, for a checkpoint: tensors that change in place.
  func state() -> OrderedDictionary<String, Tensor>
}

extension Optimizer {
  /// Forgets the gradients, so that the next backward pass begins from none.
  public func clearGradients() {
    for parameter in parameters.values { parameter.tensor.grad = nil }
  }

  /// Cuts the gradients to an L2 norm and takes one step along them.
  ///
  /// - Parameters:
  ///   - rate: the learning rate.
  ///   - clipNorm: the norm of all gradients together to cut to; 0 cuts nothing.
  ///   - loss: what was differentiated.
  ///   - index: the number of the step, for the error.
  /// - Returns: the norm before the cut.
  /// - Throws: ``TrainingError`` if loss or norm is not finite; no parameter has changed then.
  func step(rate: Double, clipNorm: Double, loss: Double, index: Int) throws -> Double {
    let norm = clipGradients(parameters.values, to: clipNorm)
    guard loss.isFinite && norm.isFinite else {
      throw TrainingError.diverged(step: index, loss: loss, gradientNorm: norm)
    }
    step(rate: rate)
    return norm
  }
}
