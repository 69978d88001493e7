extension GeneratedTask {
  /// The number of predicates in ``roles(length:chunks:nouns:fillers:seed:)``: the first half active,
  /// the second passive.
  static let predicates = 4

  /// Ids: 1 + color · A + shape unmarked, A² more if marked, then fillers.
  func lastOfEach(
    _ label: Int, _ attributes: Int, _ fillers: Int, _ random: inout SplitMix64
  ) -> LabeledExample<Int> {
    let kinds = attributes * attributes
    var tokens = (0..<length).map { _ in
      let word = random.below(kinds + fillers)
      return word < kinds ? 1 + word : 1 + kinds + word
    }
    var colors = random.shuffled(0..<attributes)
    var shapes = random.shuffled(0..<attributes)
    // A uniformly random order in which one place is given.
    colors.swapAt(attributes - 1, colors.firstIndex(of: label / attributes) ?? 0)
    shapes.swapAt(0, shapes.firstIndex(of: label % attributes) ?? 0)
    let places = random.choice(attributes, below: length)
    for (place, (color, shape)) in zip(places, zip(colors, shapes)) {
      tokens[place] = 1 + kinds + color * attributes + shape
    }
    return LabeledExample(tokens, label: label)
  }

  /// - Parameter names: the entities of the first sentence in order, and one that it lacks.
  func precedence(
    _ label: Int, _ names: [Int], _ hypothesis: Int, _ random: inout SplitMix64,
    filler: (inout SplitMix64) -> Int
  ) -> LabeledExample<Int> {
    let mentioned = names.count - 1
    let pair = random.choice(2, below: mentioned)
    let asked: [Int]
    switch label {
    case 0: asked = pair.map { names[$0] }
    case 1: asked = pair.reversed().map { names[$0] }
    default: asked = random.shuffled([names[pair[random.below(2)]], names[mentioned]])
    }
    func sentence(_ words: ArraySlice<Int>, _ length: Int) -> [Int] {
      var tokens = (0..<length).map { _ in filler(&random) }
      for (place, word) in zip(random.choice(words.count, below: length), words) {
        tokens[place] = word
      }
      return tokens
    }
    let first = sentence(names.prefix(mentioned), length)
    return LabeledExample(first, sentence(asked[...], hypothesis), label: label)
  }

  /// Ids: 1 ... 4 predicates, then nouns, then fillers.
  func roles(
    isPassive: Bool, _ chunks: Int, _ random: inout SplitMix64,
    noun: (inout SplitMix64) -> Int, filler: (inout SplitMix64) -> Int
  ) -> LabeledExample<Int> {
    var tokens = (0..<length).map { _ in filler(&random) }
    var tags = Array(repeating: 0, count: length)
    let side = 4 * chunks
    let predicate = random.number(in: side...(length - 1 - side))
    let half = Self.predicates / 2
    tokens[predicate] = 1 + random.below(half) + (isPassive ? half : 0)
    let before = runs(in: 0..<predicate, chunks, &random)
    let after = runs(in: (predicate + 1)..<length, chunks, &random)
    for place in (before + after).joined() { tokens[place] = noun(&random) }
    for (run, isBefore) in [(before.last, true), (after.first, false)] {
      guard let run else { continue }
      let begin = isBefore == isPassive ? 3 : 1
      for place in run { tags[place] = place == run.lowerBound ? begin : begin + 1 }
    }
    return LabeledExample(sentences: [tokens], targets: tags, marker: predicate)
  }

  /// 1 to `chunks` runs of 1 to 3 places in a range, in order, with at least one place between them.
  private func runs(
    in range: Range<Int>, _ chunks: Int, _ random: inout SplitMix64
  ) -> [Range<Int>] {
    let sizes = (0..<random.number(in: 1...chunks)).map { _ in random.number(in: 1...3) }
    // Every run but the last takes the place behind it along, and the free places go anywhere between:
    // choosing the runs among runs and free places gives all arrangements equally often.
    let free = range.count - sizes.reduce(0, +) - (sizes.count - 1)
    let turns = random.choice(sizes.count, below: free + sizes.count)
    var result: [Range<Int>] = []
    var taken = 0
    for (turn, (rank, size)) in zip(turns, sizes.enumerated()) {
      let start = range.lowerBound + turn - rank + taken
      result.append(start..<(start + size))
      taken += size + 1
    }
    return result
  }
}
