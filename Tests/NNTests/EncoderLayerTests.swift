import Foundation
import NN
import TestSupport
import Testing
import Torch

@Suite("Layers of encoders")
struct EncoderLayerTests {
  // Tests run side by side: more threads for such small tensors would only wait for one another.
  init() { Runtime.threadCount = 1 }

  private let initializer = Initializer(seed: 3, dtype: .float64)

  private func deviation(of module: some Module, _ x: Tensor, _ loss: () -> Tensor) -> String? {
    var inputs = [(name: "input", tensor: x)]
    for (name, parameter) in module.parameters() { inputs.append((name, parameter.tensor)) }
    let worst = GradientCheck.worstDeviation(of: inputs, loss)
    return worst.deviation < 1e-6 ? nil : worst.at
  }

  @Test("A map of its own for every head equals a product head by head")
  func headwise() {
    let maps = HeadwiseAffine(heads: 3, 4, 5, initializer: initializer)
    withNoGrad { maps.bias?.copy(from: .normal([3, 5], seed: 1)) }
    let x = Tensor.normal([2, 6, 3, 4], seed: 2)
    let expected = Tensor.stack(
      (0..<3).map { head in
        x.select(axis: 2, head).linear(maps.weight[head], bias: maps.bias?[head])
      }, axis: 2)
    #expect(maps(x).distance(to: expected) < 1e-13)
    let linear = HeadwiseAffine(heads: 3, 4, 5, hasBias: false, initializer: initializer)
    #expect(Array(linear.parameters().keys) == ["weight"])
  }

  @Test("Pooling weighs each feature by its own softmax over the real tokens")
  func pooling() throws {
    let pooling = SourceToTokenPooling(3, activation: .elu, initializer: initializer)
    let x = Tensor.normal([2, 5, 3], seed: 4)
    let padding = try #require(Padding(lengths: [5, 2], tokens: 5))
    let found = pooling(x, padding: padding).detached().array(Double.self)
    let weights = try ["inner", "outer"].map { name in
      try #require(pooling.parameters()[name + ".weight"]).tensor
    }
    let scores = x.linear(weights[0]).elu().linear(weights[1]).detached().array(Double.self)
    let values = x.array(Double.self)
    for (sequence, length) in [5, 2].enumerated() {
      for feature in 0..<3 {
        let places = (0..<length).map { (sequence * 5 + $0) * 3 + feature }
        let exponentials = places.map { exp(scores[$0]) }
        let sum = zip(places, exponentials).reduce(0) { $0 + values[$1.0] * $1.1 }
        let expected = sum / exponentials.reduce(0, +)
        #expect(abs(found[sequence * 3 + feature] - expected) < 1e-12)
      }
    }
  }

  @Test("A sequence without tokens pools to zero, and its gradient is finite")
  func emptySequence() throws {
    let pooling = SourceToTokenPooling(3, activation: .elu, initializer: initializer)
    let x = Tensor.normal([2, 4, 3], seed: 5)
    x.requiresGrad = true
    let padding = try #require(Padding(lengths: [0, 4], tokens: 4))
    let pooled = pooling(x, padding: padding)
    #expect(pooled[0].detached().array(Double.self) == [0, 0, 0])
    pooled.sum().backward()
    let gradient = try #require(x.grad)
    #expect(gradient[0].array(Double.self).allSatisfy { $0 == 0 })
    #expect(gradient[1].array(Double.self).allSatisfy { $0.isFinite })
  }

  @Test("Gradients equal finite differences: pooling, highway, norm")
  func gradients() throws {
    let x = Tensor.normal([2, 4, 3], seed: 6)
    let weights = Tensor.normal([2, 4, 3], seed: 7)
    let pooling = SourceToTokenPooling(3, activation: .tanh, initializer: initializer)
    let padding = try #require(Padding(lengths: [4, 3], tokens: 4))
    #expect(
      deviation(of: pooling, x) { (pooling(x, padding: padding) * weights[0][0]).sum() } == nil)
    let highway = Highway(3, activation: .tanh, initializer: initializer)
    #expect(deviation(of: highway, x) { (highway(x) * weights).sum() } == nil)
    let norm = LayerNorm(3, initializer: initializer)
    #expect(deviation(of: norm, x) { (norm(x) * weights).sum() } == nil)
  }

  @Test("Dropout: the seed decides, the mean stays, without a generator nothing is dropped")
  func dropout() {
    let x = Tensor.ones([100, 100])
    let drawn = { (seed: UInt64) in x.dropped(0.3, by: Generator(seed: seed)) }
    #expect(drawn(1).isEqual(to: drawn(1)))
    #expect(!drawn(1).isEqual(to: drawn(2)))
    let values = Set(drawn(1).array(Float.self))
    #expect(values == [0, 1 / Float(0.7)])
    // 10 000 draws of variance 0.3/0.7: five standard deviations of their mean.
    #expect(abs(drawn(1).mean().item(Double.self) - 1) < 5 * 0.0066)
    #expect(x.dropped(0.3, by: nil).isEqual(to: x))
    #expect(x.dropped(0, by: Generator(seed: 1)).isEqual(to: x))
  }

  @Test("Batches without padding have none to hide")
  func padding() throws {
    #expect(Padding(lengths: [4, 4], tokens: 4) == nil)
    let padding = try #require(Padding(lengths: [1, 3], tokens: 3))
    #expect(padding.isReal.array(Bool.self) == [true, false, false, true, true, true])
    let cleared = padding.clearing(Tensor.ones([2, 3, 2])).array(Int.self)
    #expect(cleared == [1, 1, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1])
  }
}
