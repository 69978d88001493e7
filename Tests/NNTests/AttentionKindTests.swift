import Folding
import Foundation
import NN
import Testing

@Suite("Descriptions of attention")
struct AttentionKindTests {
  @Test("Short forms mean the defaults")
  func defaults() throws {
    let pattern = AttentionPattern(fold: Fold([32, 128]), rotary: Rotary(.mode))
    #expect(try AttentionKind(parsing: "full") == .full)
    #expect(try AttentionKind(parsing: "window:128") == .window(128))
    #expect(
      try AttentionKind(parsing: "tensorized:32x128") == .tensorized(pattern, initialBeta: -2))
    #expect(
      try AttentionKind(parsing: "tensorized:32x128,joint,low-to-high,sliding-causal,beta:-2")
        == .tensorized(pattern, initialBeta: -2))
    #expect(
      try AttentionKind(parsing: "tensorized:8x8,block-causal,high-to-low,positions:none,beta:none")
        == .tensorized(
          AttentionPattern(
            fold: Fold([8, 8]), support: .blockCausal, normalization: .perMode, order: .highToLow),
          initialBeta: nil))
  }

  @Test(
    "Every description reads back as itself",
    arguments: [
      "full", "window:1", "tensorized:32x128", "tensorized:4x4x4,block-causal,per-mode",
      "tensorized:8x8,per-mode,high-to-low,positions:sequence,beta:0.5",
      "tensorized:8x8,positions:none,beta:none", "3*window:128+full", "full+window:4+full",
    ])
  func roundTrip(text: String) throws {
    let stack = try AttentionStack(parsing: text)
    #expect(try AttentionStack(parsing: stack.description) == stack)
    let decoded = try JSONDecoder().decode(
      [AttentionStack].self, from: JSONEncoder().encode([stack]))
    #expect(decoded == [stack])
  }

  @Test("A stack repeats from the first layer to the last")
  func stack() throws {
    let stack = try AttentionStack(parsing: "3*window:128+full")
    #expect((0..<9).filter { stack[layer: $0] == .full } == [3, 7])
    #expect(stack.keysPerToken == nil)
    #expect(try AttentionStack(parsing: "window:128+tensorized:32x128").keysPerToken == 160)
  }

  @Test(
    "What cannot be read is refused with what was expected",
    arguments: [
      ("", "Expected full"), ("flash", "Expected full"), ("full:3", "Expected full"),
      ("window:0", "at least one token"), ("window:x", "at least one token"),
      ("tensorized:", "Expected a fold"), ("tensorized:0x4", "Expected a fold"),
      ("tensorized:8x8,fancy", "\"fancy\""), ("tensorized:8x8,beta:x", "beta:x"),
      ("tensorized:8x8,beta:nan", "beta:nan"),
      ("tensorized:8x8,block", "causal"), ("tensorized:8x8,joint,high-to-low", "low-to-high"),
      ("0*full", "count from 1"), ("x*full", "count from 1"), ("full+", "Expected full"),
    ])
  func errors(text: String, hint: String) {
    #expect {
      try AttentionStack(parsing: text)
    } throws: { error in
      error is AttentionKindError && "\(error)".contains(hint)
    }
  }
}
