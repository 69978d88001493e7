import ArgumentParser
import Evaluation
import Foundation
import Text
import Training

struct Perplexity: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Measures a model's loss by context length and by position.")

  @Option(help: "The folder of a training run.")
  var model: String

  @Option(
    help: "A file or folder of text, all of it evaluated; by default the run's own validation text."
  )
  var text: String?

  @Option(help: "Context lengths, each dividing the longest.", transform: parseCounts)
  var contexts = [512, 1024, 2048, 4096, 8192]

  @Option(help: "Tokens to evaluate at every length.")
  var tokens = 65_536

  @Option(help: "Write the report to this file as JSON.")
  var json: String?

  @OptionGroup var place: DeviceOptions

  @OptionGroup var compute: ComputeOptions

  func validate() throws {
    guard tokens >= 1 else { throw ValidationError("--tokens must be at least 1, not \(tokens).") }
  }

  func run() throws {
    try compute.apply()
    let trained = try TrainedModel(
      folder: model, device: place.resolved(), precision: place.precision)
    let corpus =
      try text.map {
        try Corpus(wholeTextFrom: $0, extensions: trained.configuration.text.extensions)
      }
      ?? trained.configuration.text.read()
    Interruption.install()
    do {
      let report = try PerplexityReport(
        of: trained.model, name: URL(fileURLWithPath: model).lastPathComponent,
        text: corpus.validation, contexts: contexts, tokens: tokens)
      print(report.text)
      if let json { try JSONFile.write(report, to: json) }
    } catch EvaluationError.interrupted {
      note("Interrupted.")
      throw interruptedStatus
    }
  }
}
