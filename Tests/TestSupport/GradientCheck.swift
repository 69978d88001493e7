import Torch

/// Compares gradients from autograd with central differences in f64.
package enum GradientCheck {
  /// The largest deviation over all elements of the tensors, relative to the largest gradient.
  ///
  /// A central difference of step h deviates by O(h²) from truncation and by ε/h from rounding; with
  /// h = 1e-5 and functions of order one, both are below 1e-9 in f64, so 1e-6 is a generous bound.
  package static func worstDeviation(
    of inputs: [(name: String, tensor: Tensor)], step: Double = 1e-5, _ loss: () -> Tensor
  ) -> (deviation: Double, at: String) {
    for (_, tensor) in inputs {
      tensor.requiresGrad = true
      tensor.grad = nil
    }
    loss().backward()
    var worst = (deviation: 0.0, at: "nowhere")
    for (name, tensor) in inputs {
      let found = tensor.grad?.array(Double.self) ?? Array(repeating: 0, count: tensor.count)
      let scale = max(1e-3, found.map(abs).max() ?? 0)
      let start = tensor.detached().array(Double.self)
      for index in 0..<tensor.count {
        let difference = withNoGrad {
          let up = value(tensor, start, index, step, loss)
          let down = value(tensor, start, index, -step, loss)
          return (up - down) / (2 * step)
        }
        let deviation = abs(difference - found[index]) / scale
        if !(deviation <= worst.deviation) {
          worst = (
            deviation, "\(name)[\(index)]: autograd \(found[index]), difference \(difference)"
          )
        }
      }
      withNoGrad { tensor.copy(from: Tensor(start, shape: tensor.shape)) }
    }
    return worst
  }

  private static func value(
    _ tensor: Tensor, _ start: [Double], _ index: Int, _ change: Double, _ loss: () -> Tensor
  ) -> Double {
    var changed = start
    changed[index] += change
    tensor.copy(from: Tensor(changed, shape: tensor.shape))
    return loss().item(Double.self)
  }
}

extension Tensor {
  /// Reproducible normal values in f64.
  package static func normal(_ shape: [Int], seed: UInt64) -> Tensor {
    randn(shape, generator: Generator(seed: seed), dtype: .float64)
  }

  /// The largest absolute difference of two tensors of the same shape.
  package func distance(to other: Tensor) -> Double {
    precondition(shape == other.shape, "shapes \(shape) and \(other.shape)")
    return withNoGrad { (self - other).abs().max().item(Double.self) }
  }
}
