import ArgumentParser
import Evaluation
import Foundation
import Models
import Training

extension ClassifierData.Source: ExpressibleByArgument {}
extension ClassifierTraining.Rule: ExpressibleByArgument {}
extension EncoderFamily: ExpressibleByArgument {}

struct Classify: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Trains and evaluates models of sentences, sentence pairs and tags.",
    subcommands: [ClassifyTrain.self, ClassifyEvaluate.self])
}

struct ClassifyTrain: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "train",
    abstract: "Trains on files in a public format, or on a generated task, and tests.",
    discussion: """
      Sources read from files are nli (SNLI, MultiNLI), sst5, sst2, trec, trec-fine, lines, cr, mpqa, \
      subj, mr and conll05; last-of-each, precedence and roles are generated. Training keeps the \
      weights of the best validation. Running the same command again continues; Ctrl-C finishes \
      the step, saves and ends.
      """)

  @Option(help: "The folder for everything that is written.")
  var output: String

  @Option(help: "A JSON file with the values of data, model and training that differ.")
  var config: String?

  @Option(help: "The format of the files, or the generated task.")
  var source: ClassifierData.Source?

  @Flag(help: "Begin with the published settings for the source instead of small ones.")
  var published = false

  @Option(help: "The file to train on, or for cr, mpqa, subj and mr the folder.")
  var training: String?

  @Option(help: "The file for validation; by default a tenth of the training examples.")
  var validation: String?

  @Option(help: "The file for testing; by default a tenth of the training examples.")
  var test: String?

  @Option(help: "Rounds of cross-validation, each a training.")
  var folds: Int?

  @Option(help: "A file of word vectors as text, such as GloVe's.")
  var vectors: String?

  @Option(help: "Tokens in generated sequences.")
  var length: Int?

  @Option(help: "The encoder.")
  var encoder: EncoderFamily?

  @Option(help: "Blocks of the encoder; 0 for its layer alone.")
  var blocks: Int?

  @Option(help: "The width of the blocks.")
  var width: Int?

  @Option(help: "Heads.")
  var heads: Int?

  @Option(help: "The probability of zeros on tokens' vectors and in the head.")
  var dropout: Double?

  @Option(help: "How weights change.")
  var optimizer: ClassifierTraining.Rule?

  @Option(help: "The highest learning rate; by default 1e-3, and 0.5 with adadelta.")
  var learningRate: Double?

  @Option(help: "The greatest number of optimizer steps.")
  var steps: Int?

  @Option(help: "Examples in a batch.")
  var batchSize: Int?

  @Option(help: "Steps between validations.")
  var validationInterval: Int?

  @Option(help: "Validations without a better score after which training stops; 0 for never.")
  var patience: Int?

  @Option(help: "The number of seeds, each a training.")
  var seeds = 1

  @Flag(help: "Delete these trainings and begin anew.")
  var fresh = false

  @Option(help: "Write the summary to this file as JSON.")
  var json: String?

  @OptionGroup var compute: ComputeOptions

  func validate() throws {
    guard (1...1000).contains(seeds) else {
      throw ValidationError("--seeds must be 1 to 1000, not \(seeds).")
    }
  }

  func run() throws {
    try compute.apply()
    let trials = ClassifierTrials(
      try classifierConfiguration(), seeds: (1...seeds).map(UInt64.init), folder: output)
    if fresh { try trials.remove() }
    Interruption.install()
    switch try trials.run(report: note) {
    case .finished(let summary):
      print(summary.text)
      if let json { try JSONFile.write(summary, to: json) }
      try drawConfusion(of: output + "/summary.json", label: "all trials", into: output)
    case .interrupted:
      note("Interrupted; run the same command again to continue.")
      throw interruptedStatus
    }
  }
}

extension ClassifyTrain {
  /// The file's values, with those of the command line over them.
  private func classifierConfiguration() throws -> ClassifierConfiguration {
    var run = try startingPoint()
    if let config { run = try ConfigurationFile.read(config, over: run) }
    if let source { run.data.source = source }
    if let training { run.data.training = training }
    if let validation { run.data.validation = validation }
    if let test { run.data.test = test }
    if let folds { run.data.folds = folds }
    if let vectors { run.data.vectors = vectors }
    if let length { run.data.length = length }
    overlayModel(&run.model)
    overlayTraining(&run.training)
    try run.validate()
    return run
  }

  private func startingPoint() throws -> ClassifierConfiguration {
    guard published else { return ClassifierConfiguration() }
    guard let source, let run = ClassifierConfiguration.published(for: source) else {
      throw ValidationError(
        "--published needs a --source that is read from files, not \(source?.rawValue ?? "none").")
    }
    return run
  }

  private func overlayModel(_ model: inout SequenceModelConfiguration) {
    if let encoder { model.encoder.family = encoder }
    if let blocks { model.encoder.blocks = blocks }
    if let heads { model.encoder.heads = heads }
    if let width { model.resize(toWidth: width) }
    if let dropout { model.dropout = dropout }
  }

  private func overlayTraining(_ training: inout ClassifierTraining) {
    if let optimizer {
      training.optimizer = optimizer
      training.learningRate = optimizer == .adadelta ? 0.5 : 1e-3
    }
    if let learningRate { training.learningRate = learningRate }
    if let steps { training.steps = steps }
    if let batchSize { training.batchSize = batchSize }
    if let validationInterval { training.validationInterval = validationInterval }
    if let patience { training.patience = patience }
  }
}

struct ClassifyEvaluate: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "evaluate",
    abstract: "Evaluates a trained model on its own test examples or on a file.")

  @Option(help: "The folder of one training, such as OUTPUT/seed-1.")
  var model: String

  @Option(help: "A file in the format of the training's; by default its test examples.")
  var file: String?

  @Option(help: "The folder for the report and the figure of the confusion matrix.")
  var output: String?

  @Option(help: "Write the report to this file as JSON.")
  var json: String?

  @OptionGroup var compute: ComputeOptions

  func run() throws {
    try compute.apply()
    let trained = try TrainedClassifier(folder: model)
    let examples = try trained.testExamples(file: file)
    Interruption.install()
    let name = file.map { URL(fileURLWithPath: $0).lastPathComponent } ?? "test"
    guard
      let report = ClassifierReport(
        of: trained.model, name: name, on: examples, steps: trained.step)
    else {
      note("Interrupted.")
      throw interruptedStatus
    }
    print(report.text)
    if let json { try JSONFile.write(report, to: json) }
    guard let output else { return }
    try FileManager.default.createDirectory(atPath: output, withIntermediateDirectories: true)
    let path = output + "/report.json"
    try JSONFile.write(report.scores, to: path)
    try drawConfusion(of: path, label: name, into: output)
  }
}

/// Draws a confusion matrix and names the files; without the environment for figures it says so.
private func drawConfusion(of path: String, label: String, into folder: String) throws {
  do {
    let figures = try Plotter().draw([(label: label, path: path)], into: folder)
    print("Files:\n" + ([path] + figures).map { "  " + $0 }.joined(separator: "\n"))
  } catch Plotter.Failure.missing(let what, let looked) {
    note("No figure: \(Plotter.Failure.missing(what: what, looked: looked))")
  }
}
