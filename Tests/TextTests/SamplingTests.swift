import Testing

import Text

@Suite("Batches")
struct SamplingTests {
  let text = (0..<5000).map { UInt8(truncatingIfNeeded: $0 &* 7 &+ $0 >> 8) }

  @Test("A batch depends on seed, step and part, and on nothing else")
  func determinism() throws {
    let sampler = try BatchSampler(text: text, context: 64, batchSize: 3, seed: 5)
    let again = try BatchSampler(text: text, context: 64, batchSize: 3, seed: 5)
    for step in 0..<20 { _ = again.batch(step: step) }
    #expect(sampler.batch(step: 7) == again.batch(step: 7))
    #expect(sampler.batch(step: 7) != sampler.batch(step: 8))
    #expect(sampler.batch(step: 7) != sampler.batch(step: 7, part: 1))
    let other = try BatchSampler(text: text, context: 64, batchSize: 3, seed: 6)
    #expect(sampler.batch(step: 7) != other.batch(step: 7))
  }

  @Test("Targets are the inputs one further", arguments: [1, 63, 4999])
  func targets(context: Int) throws {
    let sampler = try BatchSampler(text: text, context: context, batchSize: 2, seed: 1)
    let batch = sampler.batch(step: 3)
    #expect(batch.inputs.count == 2 * context)
    for row in 0..<2 {
      let inputs = batch.inputs[(row * context)..<((row + 1) * context)]
      let targets = batch.targets[(row * context)..<((row + 1) * context)]
      #expect(Array(inputs.dropFirst()) == Array(targets.dropLast()))
    }
  }

  @Test("Starts are uniform over all places")
  func uniformity() throws {
    // 100 places, 20 000 draws: a place's count has mean 200 and standard deviation 14.
    let ramp = (0...100).map { UInt8($0) }
    let sampler = try BatchSampler(text: ramp, context: 1, batchSize: 200, seed: 3)
    var counts = [Int](repeating: 0, count: 100)
    for step in 0..<100 {
      for start in sampler.batch(step: step).inputs { counts[Int(start)] += 1 }
    }
    #expect(counts.min() ?? 0 > 130)
    #expect(counts.max() ?? 0 < 270)
  }

  @Test("Evaluation covers the same tokens at every length", arguments: [1, 8, 64, 512])
  func windows(context: Int) throws {
    let windows = try EvaluationWindows(text: text, tokens: 4000, longestContext: 512)
    #expect(windows.tokens == 3584)
    let batches = windows.batches(context: context, batchTokens: 700)
    #expect(windows.blocks.first == 0)
    #expect(windows.blocks.last == text.count - 513)
    #expect(zip(windows.blocks, windows.blocks.dropFirst()).allSatisfy { $1 - $0 >= 512 })
    let inputs = windows.blocks.flatMap { text[$0..<($0 + 512)].map(Int64.init) }
    let targets = windows.blocks.flatMap { text[($0 + 1)..<($0 + 513)].map(Int64.init) }
    #expect(batches.flatMap(\.inputs) == inputs)
    #expect(batches.flatMap(\.targets) == targets)
    #expect(batches.allSatisfy { $0.inputs.count <= 700 })
  }

  @Test("A validation text without one longest context is refused")
  func windowsTooShort() {
    #expect(throws: CorpusError.self) {
      try EvaluationWindows(text: text, tokens: 9000, longestContext: 8192)
    }
  }
}

@Suite("Byte tokens")
struct TokenizerTests {
  @Test("Encoding and decoding are inverse", arguments: ["", "abc", "Zürich 东京 🦉"])
  func roundTrip(text: String) {
    let tokenizer = ByteTokenizer()
    #expect(tokenizer.decode(tokenizer.encode(text)) == text)
    #expect(tokenizer.encode(text).allSatisfy { (0..<tokenizer.vocabularySize).contains($0) })
  }

  @Test("A stream hands out whole characters only")
  func streaming() {
    var stream = UTF8Stream()
    var pieces: [String] = []
    for byte in "a東🦉".utf8 { pieces.append(stream.append([byte])) }
    #expect(pieces == ["a", "", "", "東", "", "", "", "🦉"])
    #expect(stream.append([0xFF]) == "\u{FFFD}")
    #expect(stream.append([0xE6]) == "")
    #expect(stream.finish() == "\u{FFFD}")
  }
}
