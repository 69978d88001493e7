import Testing
import Text

@Suite("Generated tasks")
struct GeneratedTaskTests {
  static let tasks: [GeneratedTask] = [
    .lastOfEach(length: 64), .lastOfEach(length: 100, attributes: 2, fillers: 30, seed: 9),
    .lastOfEach(length: 4, attributes: 3), .precedence(length: 64), .roles(length: 64),
    .precedence(length: 5, hypothesis: 2, entities: 5, fillers: 1),
    .roles(length: 9, chunks: 1, nouns: 1, fillers: 1), .roles(length: 4096),
  ]

  @Test("Examples depend on the seed and their index alone", arguments: tasks)
  func determinism(task: GeneratedTask) {
    let dataset = task.dataset(0..<40)
    #expect(task.dataset(17..<19).examples == Array(dataset.examples[17..<19]))
    #expect(Set(dataset.examples).count > 4)
    if task.length >= 64 { #expect(Set(dataset.examples).count == 40) }
  }

  @Test("Another seed gives other examples")
  func seeds() {
    let first = GeneratedTask.lastOfEach(length: 64, seed: 1).dataset(0..<32)
    let second = GeneratedTask.lastOfEach(length: 64, seed: 2).dataset(0..<32)
    #expect(zip(first.examples, second.examples).allSatisfy { $0.sentences != $1.sentences })
    #expect(first.examples.map(\.targets) != second.examples.map(\.targets))
  }

  @Test("The first examples are the same on every machine and in every version")
  func golden() {
    let example = GeneratedTask.lastOfEach(length: 8, attributes: 2).example(0)
    // Marked are 8 (color 1, shape 1) and 5 (color 0, shape 0).
    #expect(example == LabeledExample([8, 5, 2, 4, 3, 1, 4, 1], label: 1))
  }

  @Test("Lengths and ids are the announced ones, and every id but padding occurs", arguments: tasks)
  func vocabulary(task: GeneratedTask) {
    let dataset = task.dataset(0..<400)
    #expect(dataset.kind == task.kind)
    #expect(dataset.examples.allSatisfy { $0.sentences[0].count == task.length })
    let ids = Set(dataset.examples.flatMap { $0.sentences.joined() })
    #expect(ids == Set(1..<task.vocabularySize))
  }

  @Test(
    "Labels are exactly balanced, and chance is the constant answer's accuracy", arguments: tasks)
  func balance(task: GeneratedTask) {
    let dataset = task.dataset(0..<(task.labels.count * 60))
    let counts = dataset.labelCounts
    guard task.kind == .tagging else {
      #expect(Set(counts) == [60])
      #expect(abs(dataset.majorityShare - task.chance) < 1e-12)
      return
    }
    // One run of 1 to 3 nouns for each role, so as many beginnings as examples.
    #expect(counts[1] == dataset.examples.count && counts[3] == dataset.examples.count)
    // A run has 2 tokens on average with variance 2/3: the share's deviation is below 0.1 / length.
    #expect(abs(dataset.majorityShare - task.chance) < 0.6 / Double(task.length))
  }

  @Test("The color of the last marked token and the shape of the first", arguments: [2, 4, 7])
  func lastOfEach(attributes: Int) {
    let task = GeneratedTask.lastOfEach(length: 64, attributes: attributes, fillers: 5)
    let kinds = attributes * attributes
    for example in task.dataset(0..<200).examples {
      let marked = example.sentences[0].filter { (1 + kinds...2 * kinds).contains($0) }
        .map { $0 - 1 - kinds }
      #expect(marked.count == attributes)
      #expect(Set(marked.map { $0 / attributes }).count == attributes)
      #expect(Set(marked.map { $0 % attributes }).count == attributes)
      let label = marked[attributes - 1] / attributes * attributes + marked[0] % attributes
      #expect(example.targets == [label])
    }
  }

  @Test("Whether the first sentence has the second's two entities in their order")
  func precedence() {
    let task = GeneratedTask.precedence(length: 64, entities: 8, mentioned: 4)
    for example in task.dataset(0..<300).examples {
      let first = example.sentences[0].filter { $0 <= 8 }
      let second = example.sentences[1].filter { $0 <= 8 }
      #expect(first.count == 4 && Set(first).count == 4 && second.count == 2)
      let places = second.map(first.firstIndex(of:))
      let label =
        if let a = places[0], let b = places[1] { a < b ? 0 : 1 } else { 2 }
      #expect(example.targets == [label])
      #expect(places.compactMap(\.self).count >= 1)
    }
  }

  @Test("The nearest runs of nouns around the predicate have its roles")
  func roles() throws {
    let task = GeneratedTask.roles(length: 64)
    for example in task.dataset(0..<300).examples {
      let tokens = example.sentences[0]
      let predicate = try #require(example.marker)
      #expect(tokens.indices.filter { (1...4).contains(tokens[$0]) } == [predicate])
      let isNoun = { (5..<21).contains(tokens[$0]) }
      var expected = Array(repeating: 0, count: 64)
      let isPassive = tokens[predicate] >= 3
      let last = try #require((0..<predicate).last(where: isNoun))
      let begin = (0..<last).last { !isNoun($0) }.map { $0 + 1 } ?? 0
      for place in begin...last { expected[place] = (isPassive ? 3 : 1) + (place > begin ? 1 : 0) }
      let first = try #require((predicate..<64).first(where: isNoun))
      let end = (first..<64).first { !isNoun($0) } ?? 64
      for place in first..<end { expected[place] = (isPassive ? 1 : 3) + (place > first ? 1 : 0) }
      #expect(example.targets == expected)
    }
  }

  @Test(
    "Counts of tokens tell no more of the label than the bound says",
    arguments: [
      GeneratedTask.lastOfEach(length: 2, attributes: 2),
      .lastOfEach(length: 3, attributes: 3),
      .precedence(length: 3, hypothesis: 2, entities: 4, mentioned: 3, fillers: 1),
    ])
  func orderBlind(task: GeneratedTask) throws {
    // So few inputs that a table of counts is the best possible order-blind model.
    let examples = task.dataset(0..<36_000).examples
    var table: [[[Int]]: [Int]] = [:]
    for example in examples {
      let bag = example.sentences.map { $0.sorted() }
      table[bag, default: Array(repeating: 0, count: task.labels.count)][example.targets[0]] += 1
    }
    let right = table.values.map { $0.max() ?? 0 }.reduce(0, +)
    let accuracy = Double(right) / Double(examples.count)
    // Taking the best of noisy counts adds a few standard deviations of 1/√36000 each.
    #expect(abs(accuracy - (try #require(task.orderBlindAccuracy))) < 0.025)
  }

  @Test("Splits are consecutive draws")
  func splits() {
    let task = GeneratedTask.precedence(length: 32)
    let splits = task.splits(training: 30, validation: 12, test: 6)
    #expect(splits.training == task.dataset(0..<30))
    #expect(splits.validation == task.dataset(30..<42))
    #expect(splits.test == task.dataset(42..<48))
  }
}
