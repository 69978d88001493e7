import AttentionCore
import Testing

@Suite struct PositionalMaskTests {
  static let masks: [PositionalMask] = [
    .full, .forward(), .forward(strict: false), .backward(), .backward(strict: false),
    .diagonalDisabled, .window(left: 0, right: 0), .window(left: 2, right: 5),
    .window(left: .max, right: 0), .window(left: 1, right: .max), MultiMaskTrial.custom(13),
  ]

  @Test(
    "ranges of keys and observers hold what a mask shows, and no more than it hides",
    arguments: masks)
  func ranges(mask: PositionalMask) {
    for count in [1, 6, 13] {
      for query in 0..<count {
        for key in 0..<count {
          let isSeen = mask.shows(key: key, to: query)
          let inKeys = mask.keys(of: query, count: count).contains(key)
          let inObservers = mask.observers(of: key, count: count).contains(query)
          switch mask {
          case .diagonalDisabled, .custom:
            #expect(!isSeen || (inKeys && inObservers), "query \(query), key \(key)")
          default:
            #expect(isSeen == inKeys && isSeen == inObservers, "query \(query), key \(key)")
          }
        }
      }
    }
  }

  @Test("masks of four tokens look as documented")
  func pictures() {
    func rows(_ mask: PositionalMask) -> [String] {
      (0..<4).map { query in
        (0..<4).map { mask.shows(key: $0, to: query) ? "1" : "0" }.joined()
      }
    }
    #expect(rows(.forward()) == ["0000", "1000", "1100", "1110"])
    #expect(rows(.forward(strict: false)) == ["1000", "1100", "1110", "1111"])
    #expect(rows(.backward()) == ["0111", "0011", "0001", "0000"])
    #expect(rows(.diagonalDisabled) == ["0111", "1011", "1101", "1110"])
    #expect(rows(.window(left: 1, right: 0)) == ["1000", "1100", "0110", "0011"])
  }
}
