import Foundation
import Text
import Torch

/// What a classifier is trained on: files in one of the public formats, or a generated task.
public struct ClassifierData: Codable, Sendable, Hashable {
  /// The formats that are read, and the tasks that are generated.
  public enum Source: String, Codable, Sendable, CaseIterable {
    /// SNLI and MultiNLI: sentence pairs in JSON lines.
    case inference = "nli"
    /// The Stanford Sentiment Treebank with five labels; phrases count in training.
    case treebank5 = "sst5"
    /// The same with two labels.
    case treebank2 = "sst2"
    /// TREC questions with six labels.
    case questions = "trec"
    /// TREC questions with fine labels.
    case fineQuestions = "trec-fine"
    /// CR, MPQA, SUBJ: a label and a sentence a line.
    case labeledLines = "lines"
    /// Semantic roles in the columns of CoNLL-2005.
    case semanticRoles = "conll05"
    /// The color of the last marked token and the shape of the first.
    case lastOfEach = "last-of-each"
    /// Whether one event comes before another: sentence pairs.
    case precedence
    /// Who does what to whom: tagging.
    case roles

    /// Whether examples are drawn instead of read.
    public var isGenerated: Bool {
      switch self {
      case .lastOfEach, .precedence, .roles: true
      default: false
      }
    }
  }

  /// The format or task.
  public var source = Source.lastOfEach
  /// The file to train on.
  public var training = ""
  /// The file that decides when to stop; empty sets a tenth of the training examples aside.
  public var validation = ""
  /// The file that is looked at once; empty sets another tenth aside.
  public var test = ""
  /// A file of word vectors as text; empty for none.
  public var vectors = ""
  /// How often a word must occur in training to have an id of its own.
  public var minimumCount = 1
  /// N of generated examples.
  public var length = 64
  /// A of ``Source/lastOfEach``.
  public var attributes = 4
  /// The number of generated training examples.
  public var trainingExamples = 32_000
  /// The number of generated validation examples.
  public var validationExamples = 500
  /// The number of generated test examples.
  public var testExamples = 2000
  /// The seed of what is generated, and of the split of files.
  public var seed: UInt64 = 1

  /// The defaults.
  public init() {}

  /// The generated task, nil for files.
  public var task: GeneratedTask? {
    switch source {
    case .lastOfEach: .lastOfEach(length: length, attributes: attributes, seed: seed)
    case .precedence: .precedence(length: length, seed: seed)
    case .roles: .roles(length: length, seed: seed)
    default: nil
    }
  }

  /// Checks every value's range.
  ///
  /// - Throws: ``ConfigurationError/outOfRange(key:expected:found:)``.
  public func validate() throws {
    for (key, value) in [
      ("minimumCount", minimumCount), ("trainingExamples", trainingExamples),
      ("validationExamples", validationExamples), ("testExamples", testExamples),
    ] where value < 1 {
      throw ConfigurationError.outOfRange(key: key, expected: "at least 1", found: "\(value)")
    }
    if source == .lastOfEach, !(2...32).contains(attributes) {
      throw ConfigurationError.outOfRange(
        key: "attributes", expected: "2 to 32", found: "\(attributes)")
    }
    let least =
      switch source {
      case .lastOfEach: attributes
      case .precedence: 4
      case .roles: 25
      default: 1
      }
    guard length >= least else {
      throw ConfigurationError.outOfRange(
        key: "length of \(source.rawValue)", expected: "at least \(least)", found: "\(length)")
    }
    guard source.isGenerated || !training.isEmpty else {
      throw ConfigurationError.outOfRange(
        key: "training", expected: "a file in the format \(source.rawValue)", found: "none")
    }
  }
}

/// Examples as models take them, and what made them of words.
public struct LoadedData {
  /// The examples.
  public let splits: DatasetSplits<Int>
  /// The number of token ids.
  public let vocabularySize: Int
  /// The words of the ids; nil for generated tasks.
  public let vocabulary: Vocabulary?
  /// The first vectors of tokens, if a file gives some: [vocabularySize, width].
  public let vectors: Tensor?
}

extension ClassifierData {
  /// Draws or reads the examples.
  ///
  /// - Parameters:
  ///   - vocabulary: the words of a run that is evaluated, whose vectors are then not read again; nil
  ///     takes those of the training examples.
  ///   - report: told what was read, a sentence at a time.
  /// - Throws: ``ConfigurationError``, `DatasetError`.
  public func load(
    vocabulary known: Vocabulary? = nil, report: (String) -> Void = { _ in }
  ) throws -> LoadedData {
    try validate()
    if let task {
      let splits = task.splits(
        training: trainingExamples, validation: validationExamples, test: testExamples)
      return LoadedData(
        splits: splits, vocabularySize: task.vocabularySize, vocabulary: nil, vectors: nil)
    }
    let words = try readSplits()
    for (name, part) in [
      ("training", words.training), ("validation", words.validation), ("test", words.test),
    ] { report("\(name): \(part.summary)") }
    let vocabulary = known ?? Vocabulary(of: words.training, minimumCount: minimumCount)
    report(
      String(
        format: "%d words; %.1f %% of the test's are unknown", vocabulary.count,
        100 * vocabulary.unknownShare(of: words.test)))
    return LoadedData(
      splits: vocabulary.encode(words), vocabularySize: vocabulary.count, vocabulary: vocabulary,
      vectors: try vectors.isEmpty || known != nil ? nil : readVectors(vocabulary, report))
  }

  /// Reads one file of the format with the words and labels of a run.
  ///
  /// - Throws: `DatasetError`, ``ConfigurationError`` if the file has labels that the run does not.
  public func load(
    file path: String, vocabulary: Vocabulary, labels: [String]
  ) throws -> TokenDataset {
    let words = try format(forTraining: false).read(path)
    let places = Dictionary(uniqueKeysWithValues: labels.enumerated().map { ($1, $0) })
    for label in words.labels where places[label] == nil {
      guard words.uses(label) else { continue }
      throw ConfigurationError.outOfRange(
        key: "the labels of \(path)", expected: "those of the model, \(labels)", found: label)
    }
    let relabeled = words.examples.map { example in
      LabeledExample(
        sentences: example.sentences.map(vocabulary.encode),
        targets: example.targets.map { places[words.labels[$0]] ?? 0 }, marker: example.marker)
    }
    return TokenDataset(kind: words.kind, labels: labels, examples: relabeled)
  }

  private func readSplits() throws -> DatasetSplits<String> {
    let examples = try format(forTraining: true).read(training)
    let held = format(forTraining: false)
    let (validationPart, testPart) = (
      try validation.isEmpty ? nil : held.read(validation), try test.isEmpty ? nil : held.read(test)
    )
    if let validationPart, let testPart {
      return DatasetSplits(training: examples, validation: validationPart, test: testPart)
    }
    let parts = examples.split(
      validation: validationPart == nil ? 0.1 : 0, test: testPart == nil ? 0.1 : 0, seed: seed)
    return DatasetSplits(
      training: parts.training, validation: validationPart ?? parts.validation,
      test: testPart ?? parts.test)
  }

  private func format(forTraining: Bool) -> any DatasetFormat {
    switch source {
    case .inference: InferenceFormat()
    case .treebank5: TreebankFormat(isBinary: false, includesPhrases: forTraining)
    case .treebank2: TreebankFormat(isBinary: true, includesPhrases: forTraining)
    case .questions: QuestionFormat()
    case .fineQuestions: QuestionFormat(isFine: true)
    case .semanticRoles: SemanticRoleFormat()
    case .labeledLines, .lastOfEach, .precedence, .roles: LabeledLinesFormat(labels: nil)
    }
  }

  private func readVectors(_ vocabulary: Vocabulary, _ report: (String) -> Void) throws -> Tensor {
    let progress = ProgressLine(label: "reading \(vectors)", total: 100)
    let found = try WordVectors(readingFrom: vectors, vocabulary: vocabulary) {
      progress.update(Int(100 * $0), details: "")
    }
    progress.finish()
    report("vectors: \(found.found) of \(vocabulary.count) words, width \(found.width)")
    return Tensor(found.table(seed: seed), shape: [vocabulary.count, found.width])
  }
}

extension LabeledDataset {
  /// Whether some example has a label.
  fileprivate func uses(_ label: String) -> Bool {
    labels.firstIndex(of: label).map { labelCounts[$0] > 0 } ?? false
  }
}
