import Foundation
import Text
import Torch

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

  /// Reads one file of the format, or folder, with the words and labels of a run.
  ///
  /// - Throws: `DatasetError`, also for a line with a label that the run does not have, or
  ///   ``ConfigurationError`` where the format itself knows more labels than the run.
  public func load(
    file path: String, vocabulary: Vocabulary, labels: [String]
  ) throws -> TokenDataset {
    // Lines may have any labels in training; now they are known, and a line with another one is named.
    let words =
      try source == .labeledLines
      ? LabeledLinesFormat(labels: labels).read(path) : format(forTraining: false).read(path)
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
    if folds > 0 {
      guard examples.examples.count >= 2 * folds else {
        throw ConfigurationError.outOfRange(
          key: "folds", expected: "at most half of the \(examples.examples.count) examples",
          found: "\(folds)")
      }
      return examples.fold(fold, of: folds, seed: seed)
    }
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

  /// Whether no part is cut from the training file. A part that is must not hold phrases of sentences
  /// that are trained on.
  private var hasAllFiles: Bool { !validation.isEmpty && !test.isEmpty }

  private func format(forTraining: Bool) -> any DatasetFormat {
    switch source {
    case .inference: InferenceFormat()
    case .treebank5: TreebankFormat(isBinary: false, includesPhrases: forTraining && hasAllFiles)
    case .treebank2: TreebankFormat(isBinary: true, includesPhrases: forTraining && hasAllFiles)
    case .questions: QuestionFormat()
    case .fineQuestions: QuestionFormat(isFine: true)
    case .semanticRoles: SemanticRoleFormat()
    case .customerReviews: FilePerLabelFormat.customerReviews
    case .opinionPolarity: FilePerLabelFormat.opinionPolarity
    case .subjectivity: FilePerLabelFormat.subjectivity
    case .movieReviews: FilePerLabelFormat.movieReviews
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
