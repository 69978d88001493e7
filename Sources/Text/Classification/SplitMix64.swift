/// The random numbers of SplitMix64 (Steele, Lea, Flood 2014), equal on every machine and in every
/// version of Swift: the standard library's own shuffles promise neither.
struct SplitMix64 {
  private var state: UInt64

  /// Numbers that depend on the seed and on all counters, in order.
  init(seed: UInt64, _ counters: UInt64...) {
    state = counters.reduce(mixed(seed)) { mixed($0 ^ mixed($1 &+ 0x9e37_79b9_7f4a_7c15)) }
  }

  /// The next 64 bits.
  mutating func next() -> UInt64 {
    state &+= 0x9e37_79b9_7f4a_7c15
    return mixed(state)
  }

  /// A number in `0 ..< bound`, uniform up to bound / 2⁶⁴.
  mutating func below(_ bound: Int) -> Int {
    Int(next().multipliedFullWidth(by: UInt64(bound)).high)
  }

  /// A number in a range.
  mutating func number(in range: ClosedRange<Int>) -> Int {
    range.lowerBound + below(range.count)
  }

  /// A number in [0, 1).
  mutating func unit() -> Double { Double(next() >> 11) * 0x1p-53 }

  /// The elements in uniformly random order (Fisher and Yates).
  mutating func shuffled<Element>(_ elements: some Sequence<Element>) -> [Element] {
    var result = Array(elements)
    for last in stride(from: result.count - 1, to: 0, by: -1) {
      result.swapAt(last, below(last + 1))
    }
    return result
  }

  /// `count` different numbers of `0 ..< bound` in ascending order, every choice equally likely
  /// (Floyd's algorithm: Bentley, Floyd 1987).
  mutating func choice(_ count: Int, below bound: Int) -> [Int] {
    var chosen: Set<Int> = []
    for last in (bound - count)..<bound where !chosen.insert(below(last + 1)).inserted {
      chosen.insert(last)
    }
    return chosen.sorted()
  }
}
