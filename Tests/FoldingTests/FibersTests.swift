import Folding
import Testing

/// A pass's lines over a ragged sequence, for some of its queries.
struct LineTrial: Sendable, CustomTestStringConvertible {
  let sizes: [Int]
  let support: Support
  let tokens: Int
  let queries: Range<Int>

  var testDescription: String {
    "\(Fold(sizes)) \(support.rawValue) N\(tokens) queries \(queries)"
  }

  /// The keys of a query as DESIGN's table defines them, token by token.
  func keys(of t: Int, mode: Mode) -> [Int] {
    let fold = Fold(sizes)
    return (0..<tokens).filter { key in
      switch support {
      case .slidingCausal:
        return key <= t && (t - key) % mode.stride == 0 && (t - key) / mode.stride < mode.size
      case .block, .blockCausal:
        let agrees = fold.modes.allSatisfy {
          $0.index == mode.index
            || fold.coordinate(of: key, mode: $0.index) == fold.coordinate(of: t, mode: $0.index)
        }
        return agrees && (support == .block || key <= t)
      }
    }
  }

  static let all: [LineTrial] = Support.allCases.flatMap { support in
    [[5], [3, 4], [2, 3, 4], [2, 1, 3, 2]].flatMap { sizes -> [LineTrial] in
      let capacity = Fold(sizes).capacity
      let lengths = [1, capacity / 2 + 1, capacity - 1, capacity]
      let all = support == .slidingCausal ? lengths + [2 * capacity + 3] : lengths
      return all.filter { $0 > 0 }.flatMap { n in
        [0..<n, n - 1..<n, n / 3..<n, n / 3..<n / 2 + 1, 0..<0].map {
          LineTrial(sizes: sizes, support: support, tokens: n, queries: $0)
        }
      }
    }
  }
}

@Suite struct FibersTests {
  @Test("lines hold every wanted query once, with exactly its keys", arguments: LineTrial.all)
  func lines(trial: LineTrial) {
    for mode in Fold(trial.sizes).modes {
      let fibers = Fibers(
        mode: mode, support: trial.support, tokens: trial.tokens, queries: trial.queries)
      var seen: [Int] = []
      for index in 0..<fibers.count {
        let line = fibers[index]
        #expect(line.count <= fibers.longest)
        #expect(!line.queries.isEmpty)
        for place in line.queries {
          let query = line.token(at: place)
          seen.append(query)
          let found = fibers.keys(of: place, count: line.count).map { line.token(at: $0) }
          #expect(found == trial.keys(of: query, mode: mode), "query \(query), mode \(mode.index)")
        }
      }
      #expect(seen.sorted() == Array(trial.queries), "mode \(mode.index)")
    }
  }

  @Test("observers are keys seen from the other side", arguments: LineTrial.all)
  func observers(trial: LineTrial) {
    for mode in Fold(trial.sizes).modes {
      let fibers = Fibers(mode: mode, support: trial.support, tokens: trial.tokens)
      for index in 0..<fibers.count {
        let count = fibers[index].count
        for key in 0..<count {
          let observers = (0..<count).filter { fibers.keys(of: $0, count: count).contains(key) }
          #expect(Array(fibers.observers(of: key, count: count)) == observers)
        }
      }
    }
  }

  @Test("queries beyond the tokens stop the program")
  func outside() async {
    await #expect(processExitsWith: .failure) {
      let mode = Fold([2, 2]).modes[0]
      print(Fibers(mode: mode, support: .slidingCausal, tokens: 4, queries: 2..<5).count)
    }
  }
}
