import Foundation
import Testing
import Torch

@Suite("Network operations against known values")
struct NetworkTests {
  static let (e, logistic1, tanh1) = (M_E, 1 / (1 + exp(-1.0)), tanh(1.0))

  static let cases: [Case] = [
    Case("matmul", [7, 10, 15, 22], shape: [2, 2]) { counting([2, 2]).matmul(counting([2, 2])) },
    Case("bmm", [7, 10, 15, 22], shape: [1, 2, 2]) {
      counting([1, 2, 2]).bmm(counting([1, 2, 2]))
    },
    Case("linear", [6, 12], shape: [1, 2]) {
      counting([1, 2]).linear(counting([2, 2]), bias: vector([1, 1]))
    },
    Case("einsum", [5, 11]) { .einsum("ij,j->i", [counting([2, 2]), counting([2])]) },
    Case("embedding", [3, 4, 1, 2], shape: [2, 2]) { counting([2, 2]).embedding(Tensor([1, 0])) },
    Case("softmax", [1 / (1 + e), e / (1 + e)]) { vector([0, 1]).softmax() },
    Case("logSoftmax", [-log(1 + e), 1 - log(1 + e)]) { vector([0, 1]).logSoftmax() },
    Case("crossEntropy", [log(1 + e)], shape: []) {
      vector([0, 1]).reshape([1, 2]).crossEntropy(Tensor([0]))
    },
    Case("crossEntropy of ignored targets", [log(1 + e), 0]) {
      Tensor.stack([vector([0, 1]), vector([0, 1])])
        .crossEntropy(Tensor([0, -1]), reduction: .none, ignoring: -1)
    },
    Case("squaredError", [2.5], shape: []) { vector([1, 2]).squaredError(vector([0, 0])) },
    Case("layerNorm", [-1, 1]) { vector([1, 3]).layerNorm([2], epsilon: 0) },
    Case("layerNorm with weights", [0, 3]) {
      vector([1, 3]).layerNorm([2], weight: vector([1, 2]), bias: vector([1, 1]), epsilon: 0)
    },
    Case("rmsNorm", [1, 14]) {
      vector([1, 7]).rmsNorm([2], weight: vector([5, 10]), epsilon: 0)
    },
    Case("dropout in evaluation", [1, 2]) { vector([1, 2]).dropout(0.5, training: false) },
    Case("dropout of everything", [0, 0]) { vector([1, 2]).dropout(1, training: true) },
    Case("conv1d", [4, 6, 3], shape: [1, 1, 3]) {
      counting([1, 1, 3]).conv1d(.ones([1, 1, 2]), bias: vector([1])).pad([0, 1], value: 3)
    },
    Case("conv1d with padding and stride", [1, 5], shape: [1, 1, 2]) {
      counting([1, 1, 3]).conv1d(.ones([1, 1, 2]), stride: 2, padding: 1)
    },
    Case("maxPool1d", [2, 4], shape: [1, 2]) { counting([1, 4]).maxPool1d(2) },
    Case("avgPool1d", [1.5, 2.5, 3.5], shape: [1, 3]) { counting([1, 4]).avgPool1d(2, stride: 1) },
  ]

  @Test(arguments: cases)
  func network(_ example: Case) {
    example.check()
  }

  @Test func `a step of an LSTM is its equations`() {
    // All weights zero but the biases: the gates are σ(b), the candidate is tanh(b).
    let gates = vector([1, 1, 1, 1])
    let zero = Tensor.zeros([1, 1, 1])
    let result = Tensor.zeros([1, 2, 1]).lstm(
      state: (zero, zero),
      parameters: [.zeros([4, 1]), .zeros([4, 1]), gates, gates.zerosLike()])
    let (s, c) = (Self.logistic1, Self.logistic1 * Self.tanh1)
    let second = s * c + c
    expectEqual(result.outputs, [s * tanh(c), s * tanh(second)], shape: [1, 2, 1])
    expectEqual(result.hidden, [s * tanh(second)], shape: [1, 1, 1])
    expectEqual(result.cell, [second], shape: [1, 1, 1])
  }

  @Test func `fused attention equals its formula, causal, masked, scaled and grouped`() {
    let generator = Generator(seed: 4)
    let q = Tensor.randn([1, 4, 3, 2], generator: generator)
    let k = Tensor.randn([1, 2, 3, 2], generator: generator)
    let v = Tensor.randn([1, 2, 3, 2], generator: generator)
    let mask = Tensor.zeros([3, 3]).filled(
      where: Tensor.ones([3, 3]).upperTriangle(diagonal: 1) .> 0, with: -Double.infinity)
    let logits = q.matmul(k.repeatInterleave(2, axis: 1).transpose()) * 0.3 + mask
    let expected = logits.softmax().matmul(v.repeatInterleave(2, axis: 1)).array(Double.self)
    let causal = scaledDotProductAttention(
      queries: q, keys: k, values: v, isCausal: true, scale: 0.3, groupedQueries: true)
    expectEqual(causal, expected, shape: [1, 4, 3, 2])
    let masked = scaledDotProductAttention(
      queries: q, keys: k, values: v, mask: mask, scale: 0.3, groupedQueries: true)
    expectEqual(masked, expected, shape: [1, 4, 3, 2])
  }
}
