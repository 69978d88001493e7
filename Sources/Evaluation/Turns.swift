/// Timing of contestants that take turns.
enum Turns {
  /// Median milliseconds of each contestant. They take turns, so that a slow moment of the machine
  /// meets all of them.
  ///
  /// - Parameter budget: the seconds that each may take.
  static func medians(
    _ contestants: [(name: String, run: () -> Void)], budget: Double
  ) -> [String: Double] {
    let clock = ContinuousClock()
    var times: [String: [Double]] = [:]
    var spent: [String: Double] = [:]
    for round in 0..<31 {
      for (name, run) in contestants {
        // The first round warms up; after that each gets an odd number of runs within its budget.
        let done = times[name, default: []].count
        if round > 0, spent[name, default: 0] > budget, done >= 1, done % 2 == 1 { continue }
        let start = clock.now
        run()
        let elapsed = (clock.now - start) / .milliseconds(1)
        spent[name, default: 0] += elapsed / 1000
        if round > 0 || elapsed > budget * 1000 { times[name, default: []].append(elapsed) }
      }
    }
    return times.mapValues { $0.sorted()[$0.count / 2] }
  }
}
