import Folding

/// Tokens and what they are to be labeled with.
///
/// `Token` is `String` in what readers return and `Int` in what models take.
public struct LabeledExample<Token: Hashable & Sendable>: Sendable, Hashable {
  /// One sentence, or two for a pair; none is empty.
  public var sentences: [[Token]]
  /// Indices into ``LabeledDataset/labels``: one, or for tagging one a token.
  public var targets: [Int]
  /// The position in the first sentence that the targets refer to, such as a predicate.
  public var marker: Int?

  /// Creates an example.
  public init(sentences: [[Token]], targets: [Int], marker: Int? = nil) {
    self.sentences = sentences
    self.targets = targets
    self.marker = marker
  }

  /// A sentence and its label.
  public init(_ sentence: [Token], label: Int) {
    self.init(sentences: [sentence], targets: [label])
  }

  /// Two sentences and their label.
  public init(_ first: [Token], _ second: [Token], label: Int) {
    self.init(sentences: [first, second], targets: [label])
  }

  /// The number of tokens in the longest sentence.
  public var length: Int { sentences.lazy.map(\.count).max() ?? 0 }
}

/// Labeled words, as they are read from files.
public typealias WordDataset = LabeledDataset<String>

/// Labeled token ids, as models take them; id 0 is padding.
public typealias TokenDataset = LabeledDataset<Int>

/// Labeled examples of one kind.
public struct LabeledDataset<Token: Hashable & Sendable>: Sendable, Hashable {
  /// What the examples ask for.
  public let kind: TaskKind
  /// The names of the labels; a target is an index into them.
  public let labels: [String]
  /// The examples.
  public let examples: [LabeledExample<Token>]
  /// What was read and left out: counts by reason.
  public let skipped: [String: Int]

  /// Creates a dataset.
  ///
  /// - Precondition: every example has the sentences and targets of its kind, no sentence is empty,
  ///   targets are indices into `labels`, and markers lie in the first sentence.
  /// - Complexity: one pass over the examples.
  public init(
    kind: TaskKind, labels: [String], examples: [LabeledExample<Token>],
    skipped: [String: Int] = [:]
  ) {
    require(
      Set(labels).count == labels.count && !labels.isEmpty,
      "A dataset needs labels that differ, got \(labels).")
    for (index, example) in examples.enumerated() {
      let targets = kind == .tagging ? example.sentences.first?.count ?? 0 : 1
      require(
        example.sentences.count == kind.sentences && example.sentences.allSatisfy { !$0.isEmpty },
        "Example \(index) needs \(kind.sentences) sentences of at least one token, "
          + "got lengths \(example.sentences.map(\.count)).")
      require(
        example.targets.count == targets && example.targets.allSatisfy(labels.indices.contains),
        "Example \(index) needs \(targets) targets in 0..<\(labels.count), got \(example.targets).")
      require(
        example.marker.map(example.sentences[0].indices.contains) ?? true,
        "The marker of example \(index) must lie in its \(example.sentences[0].count) tokens.")
    }
    self.kind = kind
    self.labels = labels
    self.examples = examples
    self.skipped = skipped
  }

  private init(trusting other: LabeledDataset, examples: [LabeledExample<Token>]) {
    kind = other.kind
    labels = other.labels
    self.examples = examples
    skipped = [:]
  }

  /// The number of targets of each label.
  public var labelCounts: [Int] {
    examples.reduce(into: Array(repeating: 0, count: labels.count)) { counts, example in
      for target in example.targets { counts[target] += 1 }
    }
  }

  /// The accuracy of always answering with the most frequent label; 0 without examples.
  public var majorityShare: Double {
    let counts = labelCounts
    let total = counts.reduce(0, +)
    return total == 0 ? 0 : Double(counts.max() ?? 0) / Double(total)
  }

  /// The number of tokens in the longest sentence.
  public var longest: Int { examples.lazy.map(\.length).max() ?? 0 }

  /// One sentence about the dataset, for a log.
  public var summary: String {
    let left = skipped.sorted { $0.key < $1.key }.map { "\($0.value) \($0.key)" }
    return "\(examples.count) examples, \(labels.count) labels, at most \(longest) tokens"
      + (left.isEmpty ? "" : "; left out: " + left.joined(separator: ", "))
  }

  /// The examples at some indices, in that order.
  public func selecting(_ indices: some Sequence<Int>) -> LabeledDataset {
    LabeledDataset(trusting: self, examples: indices.map { examples[$0] })
  }

  /// The same examples with every sentence changed by `transform`, which keeps its length.
  public func mapSentences<Other>(_ transform: ([Token]) throws -> [Other]) rethrows
    -> LabeledDataset<Other>
  {
    LabeledDataset<Other>(
      kind: kind, labels: labels,
      examples: try examples.map {
        LabeledExample(
          sentences: try $0.sentences.map(transform), targets: $0.targets, marker: $0.marker)
      }, skipped: skipped)
  }
}

/// A dataset in three parts that share their labels.
public struct DatasetSplits<Token: Hashable & Sendable>: Sendable, Hashable {
  /// The examples to train on.
  public let training: LabeledDataset<Token>
  /// The examples that decide when to stop.
  public let validation: LabeledDataset<Token>
  /// The examples that are looked at once.
  public let test: LabeledDataset<Token>

  /// Creates splits; labels that only some parts have are given to all, in the order of the parts.
  ///
  /// - Precondition: the parts are of one kind.
  public init(
    training: LabeledDataset<Token>, validation: LabeledDataset<Token>, test: LabeledDataset<Token>
  ) {
    let parts = [training, validation, test]
    require(
      Set(parts.map(\.kind)).count == 1,
      "Parts of one dataset have one kind, got \(parts.map(\.kind)).")
    var labels = training.labels
    for part in parts { labels += part.labels.filter { !labels.contains($0) } }
    self.training = training.relabeled(labels)
    self.validation = validation.relabeled(labels)
    self.test = test.relabeled(labels)
  }

  /// The splits with every sentence changed by `transform`, which keeps its length.
  public func mapSentences<Other>(_ transform: ([Token]) throws -> [Other]) rethrows
    -> DatasetSplits<Other>
  {
    DatasetSplits<Other>(
      training: try training.mapSentences(transform),
      validation: try validation.mapSentences(transform), test: try test.mapSentences(transform))
  }
}

extension LabeledDataset {
  /// The same examples with targets that index `labels`, which holds all of the dataset's own.
  func relabeled(_ labels: [String]) -> LabeledDataset {
    guard labels != self.labels else { return self }
    let places = Dictionary(uniqueKeysWithValues: labels.enumerated().map { ($1, $0) })
    let target = self.labels.map { places[$0] ?? -1 }
    return LabeledDataset(
      kind: kind, labels: labels,
      examples: examples.map {
        LabeledExample(
          sentences: $0.sentences, targets: $0.targets.map { target[$0] }, marker: $0.marker)
      }, skipped: skipped)
  }
}
