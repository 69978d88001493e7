import Folding
import Testing

@Suite struct ReachTests {
  static let folds = [[7], [4, 4], [3, 5], [4, 4, 4], [2, 3, 4], [2, 3, 2, 3], [1, 4, 1]]

  static func pattern(_ sizes: [Int], _ support: Support, _ order: ChainOrder) -> AttentionPattern {
    AttentionPattern(fold: Fold(sizes), support: support, normalization: .perMode, order: order)
  }

  @Test("4x4x4: block-causal reaches 1000 of 2080 pairs, sliding-causal all")
  func documented() {
    let literal = AttentionPattern(fold: Fold([4, 4, 4]), support: .blockCausal)
    #expect(literal.reach(tokens: 64) == Reach(reached: 1000, possible: 2080))
    let sliding = AttentionPattern(fold: Fold([4, 4, 4]), support: .slidingCausal)
    #expect(sliding.reach(tokens: 64) == Reach(reached: 2080, possible: 2080))
    #expect(sliding.reach(tokens: 64).isComplete)
  }

  @Test("32x32x32: block-causal reaches 27 %")
  func large() {
    let literal = AttentionPattern(fold: Fold([32, 32, 32]), support: .blockCausal)
    #expect((literal.reach(tokens: 32768).share * 100).rounded() == 27)
  }

  @Test("a closed form of a billion tokens is counted at once")
  func huge() {
    let sliding = AttentionPattern(fold: Fold([1000, 1000, 1000]))
    let reach = sliding.reach(tokens: 1_000_000_000)
    #expect(reach.isComplete && reach.reached == 500_000_000_500_000_000)
  }

  @Test(
    "closed form equals propagation for every length", arguments: Support.allCases,
    ChainOrder.allCases)
  func closedForm(support: Support, order: ChainOrder) {
    for sizes in Self.folds {
      let pattern = Self.pattern(sizes, support, order)
      let longest = support == .slidingCausal ? 2 * pattern.fold.capacity : pattern.fold.capacity
      for tokens in 0...longest {
        let counted = pattern.propagatedReach(tokens: tokens)
        #expect(pattern.reach(tokens: tokens) == counted, "\(sizes) N\(tokens)")
      }
    }
  }

  @Test("the sources of all tokens add up to the reach", arguments: Support.allCases)
  func sources(support: Support) {
    for sizes in Self.folds {
      let pattern = Self.pattern(sizes, support, .lowToHigh)
      let tokens = pattern.fold.capacity - pattern.fold.capacity / 5
      let sources = (0..<tokens).map { pattern.sources(of: $0, tokens: tokens) }
      #expect(sources.map(\.count).reduce(0, +) == pattern.reach(tokens: tokens).reached)
      if support.isCausal {
        #expect(sources.enumerated().allSatisfy { $1.last == $0 })
      }
    }
  }

  @Test("with block-causal the first token of a line never sees its predecessor")
  func predecessor() {
    let pattern = AttentionPattern(fold: Fold([4, 4]), support: .blockCausal)
    #expect(pattern.sources(of: 8, tokens: 16) == [0, 4, 8])
    let sliding = AttentionPattern(fold: Fold([4, 4]))
    #expect(sliding.sources(of: 8, tokens: 16) == Array(0...8))
  }
}
