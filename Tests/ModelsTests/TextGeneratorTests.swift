import Models
import NN
import Testing
import Torch

@Suite("Generating text")
struct TextGeneratorTests {
  // Tests run side by side: more threads for such small tensors would only wait for one another.
  init() { Runtime.threadCount = 1 }

  private func model(_ attention: String) throws -> Llama {
    var configuration = LlamaConfiguration()
    configuration.vocabularySize = 30
    configuration.width = 16
    configuration.innerWidth = 32
    configuration.layers = 2
    configuration.heads = 2
    configuration.groups = 2
    configuration.headWidth = 8
    configuration.initialDeviation = 0.4
    configuration.attention = try AttentionStack(parsing: attention)
    return try Llama(configuration, initializer: Initializer(seed: 8))
  }

  @Test(
    "The best tokens are those of whole forward passes",
    arguments: ["full", "window:4", "tensorized:3x4"])
  func greedy(attention: String) throws {
    let model = try model(attention)
    let prompt = [3, 1, 4, 1, 5]
    let sampling = Sampling(temperature: 0)
    let generated = Array(
      TextGenerator(model: model, prompt: prompt, sampling: sampling).prefix(20))
    var text = prompt
    for _ in 0..<20 {
      let scores = withNoGrad { model(Tensor(text, shape: [1, text.count])) }
      text.append(scores.select(axis: 1, -1).argmax().item(Int.self))
    }
    #expect(generated == Array(text.dropFirst(5)))
  }

  @Test("The seed decides the text")
  func seeds() throws {
    let model = try model("tensorized:3x4")
    let text = { (seed: UInt64) in
      Array(TextGenerator(model: model, prompt: [1], sampling: Sampling(seed: seed)).prefix(40))
    }
    #expect(text(1) == text(1))
    #expect(text(1) != text(2))
    #expect(text(1).allSatisfy { (0..<30).contains($0) })
  }

  @Test("Draws follow the probabilities, cut to the best k and the best p")
  func draws() {
    // Probabilities 0.5, 0.25, 0.125, 0.125.
    let scores = [-1.0, -2, 0, -2].map { $0 * 0.6931471805599453 }
    func shares(_ sampling: Sampling) -> [Double] {
      var random = SplitMix64(state: 7)
      var counts = [Double](repeating: 0, count: 4)
      for _ in 0..<20_000 { counts[draw(scores, sampling, &random)] += 1 / 20_000 }
      return counts
    }
    func expect(_ sampling: Sampling, _ expected: [Double]) {
      // The standard deviation of a share is at most 0.0036.
      for (found, wanted) in zip(shares(sampling), expected) {
        #expect(abs(found - wanted) < 0.018, "\(sampling)")
      }
    }
    expect(Sampling(), [0.25, 0.125, 0.5, 0.125])
    expect(Sampling(temperature: 0), [0, 0, 1, 0])
    expect(Sampling(topK: 2), [1 / 3.0, 0, 2 / 3.0, 0])
    expect(Sampling(topK: 100), [0.25, 0.125, 0.5, 0.125])
    expect(Sampling(topP: 0.5), [0, 0, 1, 0])
    expect(Sampling(topP: 0.6), [1 / 3.0, 0, 2 / 3.0, 0])
    // At temperature 1/2 probabilities are squared: 1/16, 1/64, 1/4, 1/64 of 22/64.
    expect(Sampling(temperature: 0.5), [4 / 22.0, 1 / 22.0, 16 / 22.0, 1 / 22.0])
  }
}
