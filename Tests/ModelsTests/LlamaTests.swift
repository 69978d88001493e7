import Foundation
import Models
import NN
import TestSupport
import Testing
import Torch

private func tiny(_ attention: String = "full", tied: Bool = true) throws -> LlamaConfiguration {
  var configuration = LlamaConfiguration()
  configuration.vocabularySize = 20
  configuration.width = 12
  configuration.innerWidth = 18
  configuration.layers = 3
  configuration.heads = 4
  configuration.groups = 2
  configuration.headWidth = 4
  configuration.isHeadTied = tied
  configuration.initialDeviation = 0.3
  configuration.attention = try AttentionStack(parsing: attention)
  return configuration
}

private func model(_ configuration: LlamaConfiguration, dtype: DType = .float32) throws -> Llama {
  try Llama(configuration, initializer: Initializer(seed: 2, dtype: dtype))
}

private func tokens(_ batch: Int, _ count: Int) -> Tensor {
  Tensor.randint(0..<20, [batch, count], generator: Generator(seed: 4))
}

@Suite("Llama")
struct LlamaTests {
  // Tests run side by side: more threads for such small tensors would only wait for one another.
  init() { Runtime.threadCount = 1 }

  static let stacks = [
    "full", "window:5", "tensorized:4x8", "tensorized:3x3x4,per-mode", "2*window:5+full",
    "full+tensorized:4x8,block-causal",
  ]

  @Test("Parameters have the names and shapes of Hugging Face's checkpoints")
  func names() throws {
    let found = try model(tiny(tied: false)).parameters()
    var expected = ["model.embed_tokens.weight": [20, 12]]
    for layer in 0..<3 {
      let prefix = "model.layers.\(layer)."
      expected[prefix + "input_layernorm.weight"] = [12]
      expected[prefix + "self_attn.q_proj.weight"] = [16, 12]
      expected[prefix + "self_attn.k_proj.weight"] = [8, 12]
      expected[prefix + "self_attn.v_proj.weight"] = [8, 12]
      expected[prefix + "self_attn.o_proj.weight"] = [12, 16]
      expected[prefix + "post_attention_layernorm.weight"] = [12]
      expected[prefix + "mlp.gate_proj.weight"] = [18, 12]
      expected[prefix + "mlp.up_proj.weight"] = [18, 12]
      expected[prefix + "mlp.down_proj.weight"] = [12, 18]
    }
    expected["model.norm.weight"] = [12]
    expected["lm_head.weight"] = [20, 12]
    #expect(
      Dictionary(uniqueKeysWithValues: found.map { ($0.key, $0.value.tensor.shape) }) == expected)
    let undecayed = found.filter { !$0.value.decays }.map(\.key)
    #expect(undecayed.allSatisfy { $0.contains("norm") || $0.contains("embed_tokens") })
    #expect(undecayed.count == 8)
  }

  @Test("The parameter count is the formula's, tied or not")
  func count() throws {
    let perLayer = 12 * 16 * 2 + 12 * 8 * 2 + 3 * 12 * 18 + 2 * 12
    #expect(try model(tiny()).parameterCount == 20 * 12 + 3 * perLayer + 12)
    #expect(try model(tiny(tied: false)).parameterCount == 2 * 20 * 12 + 3 * perLayer + 12)
    let tensorized = try model(tiny("tensorized:2x4x4")).parameterCount
    #expect(tensorized == 20 * 12 + 3 * (perLayer + 2 * 4) + 12)
  }

  @Test("Scores are [B, N, V], of any length", arguments: stacks)
  func shapes(attention: String) throws {
    let model = try model(tiny(attention))
    for count in [1, 7, 31] {
      #expect(withNoGrad { model(tokens(2, count)) }.shape == [2, count, 20])
    }
  }

  @Test("Decoding with caches gives the scores of whole sequences", arguments: stacks)
  func caches(attention: String) throws {
    let model = try model(tiny(attention))
    let all = tokens(2, 30)
    withNoGrad {
      let whole = model(all)
      let caches = model.makeCaches()
      var parts = [model(all.narrow(axis: 1, from: 0, count: 9), caches: caches)]
      for t in 9..<30 {
        parts.append(model(all.narrow(axis: 1, from: t, count: 1), caches: caches))
      }
      // Scores of order one; the orders of summation differ in some hundred f32 operations.
      #expect(Tensor.cat(parts, axis: 1).distance(to: whole) < 1e-4)
    }
  }

  @Test("No score depends on a later token", arguments: stacks)
  func causality(attention: String) throws {
    let model = try model(tiny(attention))
    let all = tokens(1, 24)
    withNoGrad {
      let before = model(all)
      let changed = all.cloned()
      changed.narrow(axis: 1, from: 17, count: 1).fill((all.array(Int.self)[17] + 1) % 20)
      let after = model(changed)
      let past = { (scores: Tensor) in scores.narrow(axis: 1, from: 0, count: 17).contiguous() }
      #expect(past(after).isEqual(to: past(before)))
      #expect(!after.isEqual(to: before))
    }
  }

  @Test(
    "Gradients through the whole model equal finite differences",
    arguments: ["full", "tensorized:2x3"])
  func gradients(attention: String) throws {
    var configuration = try tiny(attention)
    configuration.layers = 2
    let model = try model(configuration, dtype: .float64)
    let (inputs, targets) = (tokens(1, 7), Tensor.randint(0..<20, [7]))
    let checked = model.parameters().filter {
      $0.value.tensor.count <= 50 || $0.key.contains("k_proj")
    }
    let worst = GradientCheck.worstDeviation(
      of: checked.map { (name: $0.key, tensor: $0.value.tensor) }
    ) { model(inputs).flatten(from: 0, to: 1).crossEntropy(targets) }
    #expect(worst.deviation < 1e-6, "\(worst.at)")
  }

  @Test("A configuration is written with Hugging Face's keys and read back")
  func configuration() throws {
    let configuration = try tiny("3*window:8+full")
    let data = try JSONEncoder().encode(configuration)
    let text = String(decoding: data, as: UTF8.self)
    for key in ["hidden_size", "num_key_value_heads", "rope_theta", "tie_word_embeddings"] {
      #expect(text.contains("\"\(key)\""))
    }
    #expect(try JSONDecoder().decode(LlamaConfiguration.self, from: data) == configuration)
  }

  @Test("Configurations that contradict themselves are refused")
  func contradictions() throws {
    let changes: [(inout LlamaConfiguration) -> Void] = [
      { $0.groups = 3 }, { $0.headWidth = 5 }, { $0.layers = 0 }, { $0.vocabularySize = 0 },
    ]
    for change in changes {
      var configuration = try tiny()
      change(&configuration)
      #expect(throws: LlamaConfigurationError.self) { try model(configuration) }
    }
  }
}
