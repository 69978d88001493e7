import NN
import TestSupport
import Testing
import Torch

/// Options of the layer, by name.
struct LayerCase: Sendable, CustomTestStringConvertible {
  let testDescription: String
  let options: MultiMaskOptions
  var hasOutput = true

  static let all: [LayerCase] = {
    var undirected = MultiMaskOptions()
    undirected.isDirectional = false
    undirected.hasDeepSourceScore = false
    var inclusive = MultiMaskOptions.sentence
    inclusive.includesSelf = true
    inclusive.tokenScore = .exponential
    inclusive.sourceScore = .sigmoid
    var all = undirected
    all.includesSelf = true
    all.activatesValues = true
    all.hasGate = true
    return [
      LayerCase(testDescription: "stacked", options: MultiMaskOptions()),
      LayerCase(testDescription: "sentence, no output map", options: .sentence, hasOutput: false),
      LayerCase(testDescription: "undirected, one source map", options: undirected),
      LayerCase(testDescription: "inclusive, sigmoid source, gate", options: inclusive),
      LayerCase(testDescription: "all pairs, activated values, gate", options: all),
    ]
  }()
}

@Suite("Multi-mask self-attention")
struct MultiMaskSelfAttentionTests {
  // Tests run side by side: more threads for such small tensors would only wait for one another.
  init() { Runtime.threadCount = 1 }

  private let inputs = 5
  private let heads = 4
  private let width = 3

  private func layer(_ layerCase: LayerCase) -> MultiMaskSelfAttention {
    MultiMaskSelfAttention(
      inputs: inputs, heads: heads, headWidth: width, outputs: layerCase.hasOutput ? 7 : nil,
      activation: .elu, options: layerCase.options,
      initializer: Initializer(seed: 11, dtype: .float64))
  }

  /// The layer's formulas head by head with the tensor of scores [N, N, D] in memory, for one
  /// sequence x [N, inputs].
  private func expected(_ layer: MultiMaskSelfAttention, _ options: MultiMaskOptions, _ x: Tensor)
    throws -> Tensor
  {
    let weights = layer.parameters().mapValues { $0.tensor.detached() }
    let weight = { (name: String) in try #require(weights[name], "\(name)") }
    let rows = { (tensor: Tensor, block: Int, head: Int) in
      let start = (block * heads + head) * width
      return tensor.narrow(axis: 0, from: start, count: width)
    }
    let matrix = try weight("projections.input_weight")
    let bias = try weight("projections.input_bias")
    var outputs: [Tensor] = []
    for head in 0..<heads {
      var v = x.linear(rows(matrix, 0, head), bias: rows(bias, 0, head))
      if options.activatesValues { v = v.elu() }
      let q: Tensor
      let k: Tensor
      var s: Tensor
      if options.attendsToInput {
        s = x.linear(rows(matrix, 1, head), bias: rows(bias, 1, head))
        q = x.linear(rows(matrix, 2, head))
        k = x.linear(rows(matrix, 3, head))
      } else {
        let maps = try weight("projections.query_key.weight")[head]
        q = v.linear(maps.narrow(axis: 0, from: 0, count: width))
        k = v.linear(maps.narrow(axis: 0, from: width, count: width))
        s = v.linear(
          try weight("projections.source_inner.weight")[head],
          bias: try weight("projections.source_inner.bias")[head])
      }
      if options.hasDeepSourceScore {
        s = s.elu().linear(
          try weight("projections.source.weight")[head],
          bias: try weight("projections.source.bias")[head])
      }
      let t = q.matmul(k.transpose()) / Double(width).squareRoot()
      let pairs =
        (options.tokenScore == .sigmoid ? t.sigmoid() : t.exp()) * mask(x.size(0), head, options)
      let source = options.sourceScore == .sigmoid ? s.sigmoid() : s.exp()
      let scores = pairs.unsqueeze(2) * source.unsqueeze(0)
      let sums = scores.sum(axis: 1)
      var o = (scores * v.unsqueeze(0)).sum(axis: 1) / sums.filled(where: sums .<= 0.0, with: 1.0)
      if options.hasGate {
        let gate = Tensor.cat([v, o], axis: 1).linear(
          try weight("gate.weight")[head], bias: try weight("gate.bias")[head]
        ).sigmoid()
        o = gate * v + (1.0 - gate) * o
      }
      outputs.append(o)
    }
    let joined = Tensor.cat(outputs, axis: 1)
    guard weights["o_proj.weight"] != nil else { return joined }
    return joined.linear(try weight("o_proj.weight"), bias: try weight("o_proj.bias"))
  }

  private func mask(_ tokens: Int, _ head: Int, _ options: MultiMaskOptions) -> Tensor {
    let ones = Tensor.ones([tokens, tokens], dtype: .float64)
    guard options.isDirectional else {
      return options.includesSelf ? ones : ones - Tensor.identity(tokens, dtype: .float64)
    }
    let offset = options.includesSelf ? 0 : 1
    return head < heads / 2
      ? ones.lowerTriangle(diagonal: -offset) : ones.upperTriangle(diagonal: offset)
  }

  @Test(
    "The layer equals its formulas with the tensor of scores in memory", arguments: LayerCase.all)
  func formulas(layerCase: LayerCase) throws {
    let layer = layer(layerCase)
    try withNoGrad {
      for (index, parameter) in layer.parameters().values.enumerated() {
        parameter.tensor.copy(from: .normal(parameter.tensor.shape, seed: UInt64(50 + index)) * 0.6)
      }
      let x = Tensor.normal([2, 6, inputs], seed: 12)
      let found = layer(x, padding: nil, dropout: nil)
      for sequence in 0..<2 {
        let expected = try expected(layer, layerCase.options, x[sequence])
        #expect(found[sequence].distance(to: expected) < 1e-12)
      }
    }
  }

  @Test("Gradients of input and weights equal finite differences", arguments: LayerCase.all)
  func gradients(layerCase: LayerCase) throws {
    let layer = layer(layerCase)
    let x = Tensor.normal([2, 5, inputs], seed: 13)
    let padding = try #require(Padding(lengths: [5, 3], tokens: 5))
    let size = layerCase.hasOutput ? 7 : heads * width
    let weights = padding.clearing(Tensor.normal([2, 5, size], seed: 14))
    var tensors = [(name: "input", tensor: x)]
    for (name, parameter) in layer.parameters() { tensors.append((name, parameter.tensor)) }
    let worst = GradientCheck.worstDeviation(of: tensors) {
      (layer(x, padding: padding, dropout: nil) * weights).sum()
    }
    #expect(worst.deviation < 1e-6, "\(worst.at)")
  }

  @Test("Dropout of alignment weights follows the generator, and only while training")
  func dropout() {
    var options = MultiMaskOptions()
    options.dropout = 0.4
    let layer = layer(LayerCase(testDescription: "dropout", options: options))
    withNoGrad {
      let x = Tensor.normal([1, 8, inputs], seed: 15)
      let drawn = { (seed: UInt64) in
        layer(x, padding: nil, dropout: Generator(seed: seed))
      }
      #expect(drawn(1).isEqual(to: drawn(1)))
      #expect(!drawn(1).isEqual(to: drawn(2)))
      let whole = layer(x, padding: nil, dropout: nil)
      #expect(whole.isEqual(to: layer(x, padding: nil, dropout: nil)))
      #expect(!whole.isEqual(to: drawn(1)))
    }
  }
}
