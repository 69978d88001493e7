import Text

/// What a classifier is trained on: files in one of the public formats, or a generated task.
public struct ClassifierData: Codable, Sendable, Hashable {
  /// The formats that are read, and the tasks that are generated.
  public enum Source: String, Codable, Sendable, CaseIterable {
    /// SNLI and MultiNLI: sentence pairs in JSON lines.
    case inference = "nli"
    /// The Stanford Sentiment Treebank with five labels; phrases are trained on too if validation and
    /// test have files of their own.
    case treebank5 = "sst5"
    /// The same with two labels.
    case treebank2 = "sst2"
    /// TREC questions with six labels.
    case questions = "trec"
    /// TREC questions with fine labels.
    case fineQuestions = "trec-fine"
    /// A label and a sentence a line, as CR, MPQA and SUBJ are also spread.
    case labeledLines = "lines"
    /// A folder of customer reviews with a file a label.
    case customerReviews = "cr"
    /// A folder of MPQA's opinions with a file a label.
    case opinionPolarity = "mpqa"
    /// A folder of subjective and objective sentences with a file a label.
    case subjectivity = "subj"
    /// A folder of movie reviews with a file a label.
    case movieReviews = "mr"
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
  /// The file, or folder, to train on.
  public var training = ""
  /// The file that decides when to stop; empty sets a tenth of the training examples aside.
  public var validation = ""
  /// The file that is looked at once; empty sets another tenth aside.
  public var test = ""
  /// The number of rounds of cross-validation, which then makes the test part; 0 for none.
  public var folds = 0
  /// The round of cross-validation, from 0 on.
  public var fold = 0
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
    guard folds == 0 || (folds >= 2 && (0..<folds).contains(fold)) else {
      throw ConfigurationError.outOfRange(
        key: "folds", expected: "0, or at least 2 and more than fold", found: "\(folds), \(fold)")
    }
    guard folds == 0 || (!source.isGenerated && validation.isEmpty && test.isEmpty) else {
      throw ConfigurationError.outOfRange(
        key: "folds", expected: "0 where validation or test have examples of their own",
        found: "\(folds)")
    }
    guard source.isGenerated || !training.isEmpty else {
      throw ConfigurationError.outOfRange(
        key: "training", expected: "a file in the format \(source.rawValue)", found: "none")
    }
  }
}
