import ArgumentParser
import Foundation
import NN
import Training

struct Train: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Trains a language model on the bytes of a file or folder.",
    discussion: """
      The run's folder holds config.json, metrics.jsonl and checkpoints/. Running the same command \
      again continues after the newest checkpoint. Ctrl-C finishes the step, saves and ends.
      """)

  @Option(help: "The run's folder.")
  var output: String

  @Option(help: "A JSON file with the values of text, model and training that differ.")
  var config: String?

  @Option(help: "The file or folder to train on; by default the working folder.")
  var text: String?

  @Option(help: "File extensions to take from a folder, such as swift,md; by default all.")
  var extensions: String?

  @Option(
    help: attentionHelp, transform: AttentionStack.init(parsing:))
  var attention: AttentionStack?

  @Option(help: "Optimizer steps.")
  var steps: Int?

  @Option(help: "Tokens in a training sequence.")
  var context: Int?

  @Option(help: "Sequences that pass through the model at once.")
  var batchSize: Int?

  @Option(help: "Batches whose gradients are averaged for a step.")
  var accumulation: Int?

  @Option(help: "The highest learning rate.")
  var learningRate: Double?

  @Option(help: "The seed of weights and batches.")
  var seed: UInt64?

  @Option(help: "Width of the residual stream.")
  var width: Int?

  @Option(help: "Number of layers.")
  var layers: Int?

  @Option(help: "Query heads of a layer.")
  var heads: Int?

  @Option(help: "Key/value heads of a layer; divides --heads. By default as many as --heads.")
  var keyValueHeads: Int?

  @Flag(help: "Give the output layer weights of its own instead of the embedding's.")
  var untied = false

  @Flag(help: "Delete the run that the folder holds and begin anew.")
  var fresh = false

  @OptionGroup var place: DeviceOptions

  @OptionGroup var compute: ComputeOptions

  /// The file's values, with those of the command line over them.
  func runConfiguration() throws -> RunConfiguration {
    var run = RunConfiguration()
    if let config { run = try ConfigurationFile.read(config, over: run) }
    if let text { run.text.path = text }
    if let extensions { run.text.extensions = extensions.split(separator: ",").map(String.init) }
    if let attention { run.model.attention = attention }
    if let steps { run.training.steps = steps }
    if let context { run.training.context = context }
    if let batchSize { run.training.batchSize = batchSize }
    if let accumulation { run.training.accumulation = accumulation }
    if let learningRate { run.training.learningRate = learningRate }
    if let seed { run.training.seed = seed }
    if let layers { run.model.layers = layers }
    if let heads { (run.model.heads, run.model.groups) = (heads, heads) }
    if let keyValueHeads { run.model.groups = keyValueHeads }
    if let width { run.model.resize(toWidth: width) }
    if let precision = place.precision { run.training.precision = precision }
    if untied { run.model.isHeadTied = false }
    try run.validate()
    return run
  }

  func run() throws {
    try compute.apply()
    let device = try place.resolved()
    let configuration = try runConfiguration()
    let corpus = try configuration.text.read()
    note("text: \(corpus.summary)")
    if fresh { try TrainingRun.remove(output) }
    let run = try TrainingRun(configuration, corpus: corpus, folder: output, device: device)
    note(
      "model: \(run.model.parameterCount) parameters, attention \(configuration.model.attention), "
        + "\(configuration.training.precision.rawValue) on \(device)")
    if run.step > 0 { note("continuing after step \(run.step)") }
    Interruption.install()
    guard try run.run() == .finished else {
      note("Interrupted after step \(run.step); run the same command again to continue.")
      throw interruptedStatus
    }
    note("finished: \(output)/metrics.jsonl, \(output)/checkpoints")
  }
}
