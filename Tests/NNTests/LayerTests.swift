import Foundation
import NN
import TestSupport
import Testing
import Torch

@Suite("Layers")
struct LayerTests {
  private func initializer() -> Initializer { Initializer(seed: 11, dtype: .float64) }

  /// The gradients of a layer's input and of all its parameters, for the loss ⟨y, w⟩.
  private func check(
    _ module: some Module, input: Tensor, _ apply: (Tensor) -> Tensor
  ) -> (deviation: Double, at: String) {
    let weights = Tensor.normal(withNoGrad { apply(input).shape }, seed: 99)
    var inputs = [(name: "input", tensor: input)]
    for (name, parameter) in module.parameters() { inputs.append((name, parameter.tensor)) }
    return GradientCheck.worstDeviation(of: inputs) { (apply(input) * weights).sum() }
  }

  @Test("Linear: gradients equal finite differences")
  func linear() {
    let layer = Linear(5, 3, deviation: 0.5, initializer: initializer())
    let worst = check(layer, input: .normal([2, 4, 5], seed: 1)) { layer($0) }
    #expect(worst.deviation < 1e-6, "\(worst.at)")
  }

  @Test("RMSNorm: value by hand, gradients equal finite differences")
  func rmsNorm() {
    let layer = RMSNorm(2, epsilon: 0, initializer: initializer())
    let y = layer(Tensor([3.0, 4.0], shape: [1, 2])).detached().array(Double.self)
    // √(mean(9, 16)) = √12.5
    #expect(abs(y[0] - 3 / 12.5.squareRoot()) < 1e-14)
    let wide = RMSNorm(6, epsilon: 1e-5, initializer: initializer())
    let worst = check(wide, input: .normal([3, 6], seed: 2)) { wide($0) }
    #expect(worst.deviation < 1e-6, "\(worst.at)")
  }

  @Test("Embedding: rows by token, and the tied scores' gradients equal finite differences")
  func embedding() {
    let layer = Embedding(
      vocabularySize: 4, width: 3, deviation: 1, initializer: initializer())
    let tokens = Tensor([2, 0, 2], shape: [1, 3])
    #expect(layer(tokens).select(axis: 1, 1).distance(to: layer.weight[0].unsqueeze(0)) == 0)
    let weights = Tensor.normal([1, 3, 4], seed: 3)
    let worst = GradientCheck.worstDeviation(of: [("weight", layer.weight)]) {
      (layer.scores(layer(tokens)) * weights).sum()
    }
    #expect(worst.deviation < 1e-6, "\(worst.at)")
  }

  @Test("Rotary positions turn each pair by t·base^(−2i/D)", arguments: [0, 1000])
  func rotary(start: Int) {
    let (tokens, width) = (3, 6)
    let x = Tensor.normal([1, tokens, 2, width], seed: 4)
    let y = RotaryEmbedding(width: width, base: 100)(x, start: start).array(Double.self)
    let values = x.array(Double.self)
    for t in 0..<tokens {
      for h in 0..<2 {
        for i in 0..<(width / 2) {
          let angle = Double(start + t) * pow(100, -2 * Double(i) / Double(width))
          let at = (t * 2 + h) * width + i
          let (a, b) = (values[at], values[at + width / 2])
          #expect(abs(y[at] - (a * cos(angle) - b * sin(angle))) < 1e-12)
          #expect(abs(y[at + width / 2] - (b * cos(angle) + a * sin(angle))) < 1e-12)
        }
      }
    }
  }

  @Test("The same seed gives the same weights, another seed others")
  func seeds() {
    let draw = { Initializer(seed: $0).normal([4, 4], deviation: 1) }
    #expect(draw(5).isEqual(to: draw(5)))
    #expect(!draw(5).isEqual(to: draw(6)))
  }
}
