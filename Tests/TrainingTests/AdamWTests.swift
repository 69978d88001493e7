import Foundation
import NN
import OrderedCollections
import Testing
import Torch
import Training

@Suite("AdamW and clipping")
struct AdamWTests {
  @Test(
    "Steps equal the published algorithm; what does not decay does not", arguments: [true, false])
  func formula(decays: Bool) {
    var configuration = TrainingConfiguration()
    configuration.weightDecay = 0.3
    let start: [Double] = [1, -2, 0.5]
    let tensor = Tensor(start)
    tensor.requiresGrad = true
    let optimizer = AdamW(
      ["w": Parameter(tensor: tensor, decays: decays)], configuration: configuration)
    var (w, m, v) = (start, [0.0, 0, 0], [0.0, 0, 0])
    for s in 1...5 {
      let gradient = (0..<3).map { Double($0 - 1) + 0.1 * Double(s) }
      tensor.grad = Tensor(gradient)
      let rate = 0.01 * Double(s)
      optimizer.step(rate: rate)
      for i in 0..<3 {
        m[i] = 0.9 * m[i] + 0.1 * gradient[i]
        v[i] = 0.95 * v[i] + 0.05 * gradient[i] * gradient[i]
        w[i] -= rate * (decays ? 0.3 : 0) * w[i]
        let (mean, square) = (m[i] / (1 - pow(0.9, Double(s))), v[i] / (1 - pow(0.95, Double(s))))
        w[i] -= rate * mean / (square.squareRoot() + 1e-8)
      }
    }
    for (found, expected) in zip(tensor.detached().array(Double.self), w) {
      // Five steps of a few rounded operations; the bias corrections may be formed in f32.
      #expect(abs(found - expected) < 1e-7)
    }
  }

  @Test("A parameter without a gradient stays, and its step is not counted")
  func inactive() {
    let (a, b) = (Tensor([Float(1)]), Tensor([Float(1)]))
    for tensor in [a, b] { tensor.requiresGrad = true }
    let optimizer = AdamW(
      ["a": Parameter(tensor: a, decays: true), "b": Parameter(tensor: b, decays: true)],
      configuration: TrainingConfiguration())
    a.grad = Tensor([Float(1)])
    optimizer.step(rate: 0.1)
    #expect(a.item(Float.self) != 1)
    #expect(b.item(Float.self) == 1)
    #expect(optimizer.state()["a.step"]?.item(Float.self) == 1)
    #expect(optimizer.state()["b.step"]?.item(Float.self) == 0)
  }

  @Test(
    "Clipping cuts the norm over all parameters together and reports it", arguments: [0, 2, 10])
  func clipping(limit: Double) {
    let tensors = [Tensor([0.0, 0]), Tensor([0.0])]
    tensors[0].grad = Tensor([3.0, 0])
    tensors[1].grad = Tensor([4.0])
    let norm = clipGradients(tensors.map { Parameter(tensor: $0, decays: true) }, to: limit)
    #expect(abs(norm - 5) < 1e-12)
    let factor = limit > 0 ? min(1, limit / 5) : 1
    #expect(abs((tensors[0].grad?.array(Double.self)[0] ?? 0) - 3 * factor) < 1e-12)
    #expect(abs((tensors[1].grad?.array(Double.self)[0] ?? 0) - 4 * factor) < 1e-12)
  }
}
