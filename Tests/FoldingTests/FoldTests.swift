import Folding
import Foundation
import Testing

@Suite struct FoldTests {
  @Test("strides are the products of the lower sizes")
  func strides() {
    #expect(Fold([4, 3, 5]).strides == [15, 5, 1])
    #expect(Fold([7]).strides == [1])
    #expect(Fold([4, 3, 5]).capacity == 60)
    #expect(Fold([4, 3, 5]).keysPerToken == 12)
    #expect(Fold([4, 3, 5]).modes.map(\.isLowest) == [false, false, true])
    #expect(Fold([4, 3, 5]).modes.map(\.index) == [1, 2, 3])
  }

  @Test("coordinates are mixed-radix digits", arguments: [[6], [4, 3, 5], [1, 2, 1, 3]])
  func coordinates(sizes: [Int]) {
    let fold = Fold(sizes)
    for token in 0..<3 * fold.capacity {
      let digits = fold.coordinates(of: token)
      #expect(zip(digits, fold.strides).map(*).reduce(0, +) == token)
      #expect(zip(digits, sizes).dropFirst().allSatisfy { (0..<$1).contains($0) })
    }
  }

  @Test("the top coordinate grows with the sequence")
  func topCoordinate() {
    #expect(Fold([4, 3, 5]).coordinates(of: 61) == [4, 0, 1])
  }

  @Test("the written form is read back", arguments: ["8", "16x8", "32x32x32", "1x1x1x7"])
  func parsing(text: String) throws {
    let fold = try #require(Fold(text))
    #expect(fold.description == text)
    let json = try JSONEncoder().encode([fold])
    #expect(String(decoding: json, as: UTF8.self) == "[\"\(text)\"]")
    #expect(try JSONDecoder().decode([Fold].self, from: json) == [fold])
  }

  @Test(
    "anything else is refused",
    arguments: [
      "", "x", "8x", "x8", "8xx8", "0", "4x0", "-4x4", "4 x 4", "4X4", "4.0", "a",
      "99999999999999999999", "4294967296x4294967296",
    ])
  func refusals(text: String) {
    #expect(Fold(text) == nil)
    let json = Data("[\"\(text)\"]".utf8)
    #expect(throws: DecodingError.self) { try JSONDecoder().decode([Fold].self, from: json) }
  }
}

@Suite struct AttentionPatternTests {
  @Test("block supports need a place for every token")
  func objection() throws {
    for support in [Support.block, .blockCausal] {
      let pattern = AttentionPattern(fold: Fold([4, 8]), support: support)
      #expect(pattern.objection(tokens: 32) == nil)
      let sentence = try #require(pattern.objection(tokens: 33))
      #expect(sentence.contains("4x8") && sentence.contains("33") && sentence.contains("5x8"))
    }
    let sliding = AttentionPattern(fold: Fold([4, 8]), support: .slidingCausal)
    #expect(sliding.objection(tokens: 1_000_000) == nil)
  }

  @Test("passes run from the lowest mode unless told otherwise")
  func chain() {
    let low = AttentionPattern(fold: Fold([2, 3, 5]))
    #expect(low.chain.map(\.size) == [5, 3, 2])
    let high = AttentionPattern(fold: Fold([2, 3, 5]), normalization: .perMode, order: .highToLow)
    #expect(high.chain.map(\.size) == [2, 3, 5])
  }

  @Test("a pattern is read back from JSON, and an impossible one is refused")
  func coding() throws {
    let pattern = AttentionPattern(
      fold: Fold([2, 3]), support: .blockCausal, normalization: .perMode, order: .highToLow,
      rotary: Rotary(.mode, base: 500, scaling: [.yarn(factor: 4, trainedLength: 128)]))
    let json = try JSONEncoder().encode(pattern)
    #expect(try JSONDecoder().decode(AttentionPattern.self, from: json) == pattern)
    let impossible = String(decoding: json, as: UTF8.self)
      .replacingOccurrences(of: "per-mode", with: "joint")
    #expect(throws: DecodingError.self) {
      try JSONDecoder().decode(AttentionPattern.self, from: Data(impossible.utf8))
    }
  }

  @Test("joint normalization from high to low stops the program")
  func jointFromHighToLow() async {
    await #expect(processExitsWith: .failure) {
      print(
        AttentionPattern(fold: Fold([2, 2]), normalization: .joint, order: .highToLow))
    }
  }

  @Test("a fold without modes, of size 0 or beyond Int stops the program")
  func impossibleFolds() async {
    await #expect(processExitsWith: .failure) { print(Fold([]).capacity) }
    await #expect(processExitsWith: .failure) { print(Fold([4, 0]).capacity) }
    await #expect(processExitsWith: .failure) { print(Fold([1 << 40, 1 << 40]).capacity) }
  }

  @Test("a fold too small for its block support stops a reach count")
  func smallFold() async {
    await #expect(processExitsWith: .failure) {
      print(AttentionPattern(fold: Fold([2, 2]), support: .block).reach(tokens: 5))
    }
  }
}
