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
}
