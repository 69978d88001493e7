import Folding

extension LabeledDataset {
  /// Sets parts of the examples aside, at random and by label alike.
  ///
  /// Each label's examples are dealt in the same proportions, to within one example (tagging: all
  /// examples together). The same seed gives the same parts on every machine.
  ///
  /// - Parameters:
  ///   - validation: the share of the validation part.
  ///   - test: the share of the test part; `validation + test` is below 1.
  public func split(validation: Double, test: Double, seed: UInt64) -> DatasetSplits<Token> {
    require(
      validation >= 0 && test >= 0 && validation + test < 1,
      "Shares are at least 0 and leave something to train on, got \(validation) and \(test).")
    var parts: [[Int]] = [[], [], []]
    for stratum in strata(seed: seed) {
      let count = Double(stratum.count)
      let first = Int((count * validation).rounded())
      let second = min(stratum.count, first + Int((count * test).rounded()))
      parts[0] += stratum[..<first]
      parts[1] += stratum[first..<second]
      parts[2] += stratum[second...]
    }
    return DatasetSplits(
      training: selecting(parts[2].sorted()), validation: selecting(parts[0].sorted()),
      test: selecting(parts[1].sorted()))
  }

  /// One of `count` rounds of cross-validation, in which every example is tested on once.
  ///
  /// Folds differ by at most one example in size, and in the number of examples of each label.
  ///
  /// - Parameters:
  ///   - index: which round, from 0 on.
  ///   - count: the number of rounds k; 10 for CR, MPQA and SUBJ in the literature.
  ///   - validation: the share of the remaining examples that is set aside for validation.
  /// - Precondition: `0 ≤ index < count`, and there are at least `count` examples.
  public func fold(
    _ index: Int, of count: Int, validation: Double = 0.1, seed: UInt64
  ) -> DatasetSplits<Token> {
    require(
      count >= 2 && (0..<count).contains(index) && examples.count >= count,
      "Cross-validation needs 0 <= fold < folds <= examples, "
        + "got fold \(index) of \(count), \(examples.count) examples.")
    // Dealt in turn over all strata: the k-th, 2k-th, … card of the whole deck goes to one fold.
    let deck = strata(seed: seed).joined()
    var test: [Int] = []
    var rest: [Int] = []
    for (turn, example) in deck.enumerated() {
      if turn % count == index { test.append(example) } else { rest.append(example) }
    }
    let remaining = selecting(rest.sorted()).split(
      validation: validation, test: 0, seed: mixed(seed ^ UInt64(index + 1)))
    return DatasetSplits(
      training: remaining.training, validation: remaining.validation,
      test: selecting(test.sorted()))
  }

  /// The examples of each label in random order (tagging: one group of all).
  private func strata(seed: UInt64) -> [[Int]] {
    var groups: [[Int]] = Array(repeating: [], count: kind == .tagging ? 1 : labels.count)
    for (index, example) in examples.enumerated() {
      groups[kind == .tagging ? 0 : example.targets[0]].append(index)
    }
    return groups.enumerated().map { label, group in
      var random = SplitMix64(seed: seed, UInt64(label))
      return random.shuffled(group)
    }
  }
}
