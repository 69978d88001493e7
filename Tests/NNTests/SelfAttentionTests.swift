import Folding
import NN
import TestSupport
import Testing
import Torch

private let shape = SelfAttention.Shape(
  width: 8, heads: 4, groups: 2, headWidth: 4, rotaryBase: 50)

private func layer(_ kind: String, dtype: DType = .float64) throws -> SelfAttention {
  SelfAttention(
    shape, kind: try AttentionKind(parsing: kind), deviation: 0.6, outputDeviation: 0.6,
    initializer: Initializer(seed: 21, dtype: dtype))
}

@Suite("Self-attention")
struct SelfAttentionTests {
  // Tests run side by side: more threads for such small tensors would only wait for one another.
  init() { Runtime.threadCount = 1 }

  static let kinds = [
    "full", "window:3", "tensorized:3x4", "tensorized:3x4,per-mode",
    "tensorized:3x4,block-causal,per-mode", "tensorized:2x2x3,beta:0.5",
    "tensorized:3x4,positions:sequence", "tensorized:3x4,beta:none",
  ]

  @Test("Gradients of input and weights equal finite differences", arguments: kinds)
  func gradients(kind: String) throws {
    let layer = try layer(kind)
    let x = Tensor.normal([1, 9, 8], seed: 5)
    let weights = Tensor.normal([1, 9, 8], seed: 6)
    var inputs = [(name: "input", tensor: x)]
    for (name, parameter) in layer.parameters() { inputs.append((name, parameter.tensor)) }
    let worst = GradientCheck.worstDeviation(of: inputs) { (layer(x) * weights).sum() }
    #expect(worst.deviation < 1e-6, "\(worst.at)")
  }

  @Test("A cache gives the rows of whole sequences, in any chunks", arguments: kinds)
  func cache(kind: String) throws {
    let layer = try layer(kind, dtype: .float32)
    // 11 tokens: a block fold of 3x4 holds 12.
    let x = Tensor.normal([2, 11, 8], seed: 7).to(.float32)
    withNoGrad {
      let whole = layer(x)
      for chunks in [[11], [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1], [4, 1, 5, 1], [1, 10]] {
        let cache = layer.makeCache()
        var start = 0
        var parts: [Tensor] = []
        for count in chunks {
          parts.append(layer(x.narrow(axis: 1, from: start, count: count), cache: cache))
          start += count
        }
        #expect(cache.length == 11)
        // Values of order one through 40 rounded operations in f32.
        let distance = Tensor.cat(parts, axis: 1).distance(to: whole)
        #expect(distance < 1e-5, "chunks \(chunks)")
      }
    }
  }

  @Test("No token sees a later one", arguments: kinds)
  func causality(kind: String) throws {
    let layer = try layer(kind, dtype: .float32)
    let x = Tensor.normal([1, 12, 8], seed: 8).to(.float32)
    withNoGrad {
      let before = layer(x)
      for t in [1, 5, 11] {
        let changed = x.cloned()
        changed.narrow(axis: 1, from: t, count: 1).fill(3)
        let after = layer(changed)
        let past = { (y: Tensor) in y.narrow(axis: 1, from: 0, count: t).contiguous() }
        #expect(past(after).isEqual(to: past(before)), "token \(t) changed an earlier one")
        #expect(!after.isEqual(to: before))
      }
    }
  }

  @Test("A window equals full attention under a band mask", arguments: [1, 3, 9, 50])
  func window(size: Int) throws {
    let (windowed, full) = (try layer("window:\(size)"), try layer("full"))
    let x = Tensor.normal([2, 20, 8], seed: 9)
    withNoGrad {
      let project = { (linear: String, heads: Int) -> Tensor in
        let weight = full.parameters()["\(linear).weight"]?.tensor ?? x
        return x.linear(weight).reshape([2, 20, heads, 4])
      }
      let rotary = RotaryEmbedding(width: 4, base: 50)
      let distance = Tensor.arange(0, 20).unsqueeze(1) - Tensor.arange(0, 20)
      let attended = scaledDotProductAttention(
        queries: rotary(project("q_proj", 4)).transpose(1, 2),
        keys: rotary(project("k_proj", 2)).transpose(1, 2),
        values: project("v_proj", 2).transpose(1, 2),
        mask: (distance .>= 0) .& (distance .< size), groupedQueries: true)
      let output = full.parameters()["o_proj.weight"]?.tensor ?? x
      let expected = attended.transpose(1, 2).reshape([2, 20, 16]).linear(output)
      #expect(windowed(x).distance(to: expected) < 1e-12)
      if size >= 20 { #expect(full(x).distance(to: expected) < 1e-12) }
    }
  }

  @Test("Kinds differ in β alone: same names, same counts, one scalar a head and upper mode")
  func parameters() throws {
    let names = ["q_proj.weight", "k_proj.weight", "v_proj.weight", "o_proj.weight"]
    #expect(Array(try layer("full").parameters().keys) == names)
    #expect(Array(try layer("window:3").parameters().keys) == names)
    #expect(Array(try layer("tensorized:8").parameters().keys) == names)
    #expect(Array(try layer("tensorized:3x4,beta:none").parameters().keys) == names)
    let tensorized = try layer("tensorized:2x3x4,beta:-1.5")
    #expect(Array(tensorized.parameters().keys) == names + ["beta"])
    let beta = try #require(tensorized.parameters()["beta"])
    #expect(beta.tensor.shape == [2, 4])
    #expect(!beta.decays)
    #expect(beta.tensor.detached().array(Double.self).allSatisfy { $0 == -1.5 })
  }
}
