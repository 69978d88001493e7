import ArgumentParser
import Foundation
import Models
import Text
import Training

struct Generate: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Continues a text, printing every character as soon as it is drawn.",
    discussion: "Ends after the number of tokens asked for, or where the model ends the document.")

  @Option(help: "The folder of a training run.")
  var model: String

  @Option(help: "The text to continue.")
  var prompt = "import "

  @Option(help: "The number of tokens to draw.")
  var tokens = 500

  @Option(help: "What scores are divided by; 0 takes the best token always.")
  var temperature = 0.8

  @Option(help: "Draw among this many best tokens; by default among all.")
  var topK: Int?

  @Option(help: "Draw among the fewest best tokens whose probabilities sum to this.")
  var topP: Double?

  @Option(help: "The seed of the draws.")
  var seed: UInt64 = 1

  @OptionGroup var place: DeviceOptions

  @OptionGroup var compute: ComputeOptions

  func validate() throws {
    guard !prompt.isEmpty else { throw ValidationError("--prompt needs at least one character.") }
    guard tokens >= 0 else { throw ValidationError("--tokens must be 0 or more, not \(tokens).") }
    guard temperature >= 0, temperature.isFinite else {
      throw ValidationError("--temperature must be 0 or more, not \(temperature).")
    }
    if let topK, topK < 1 { throw ValidationError("--top-k must be at least 1, not \(topK).") }
    if let topP, !(topP > 0 && topP <= 1) {
      throw ValidationError("--top-p must lie above 0 and be at most 1, not \(topP).")
    }
  }

  func run() throws {
    try compute.apply()
    let trained = try TrainedModel(
      folder: model, device: place.resolved(), precision: place.precision)
    let tokenizer = ByteTokenizer()
    let start = tokenizer.encode(prompt)
    try trained.configuration.model.attention.requireRoom(tokens: start.count + tokens)
    let generator = TextGenerator(
      model: trained.model, prompt: start,
      sampling: Sampling(temperature: temperature, topK: topK, topP: topP, seed: seed))
    Interruption.install()
    var stream = UTF8Stream()
    let write = { (text: String) in FileHandle.standardOutput.write(Data(text.utf8)) }
    write(prompt)
    for token in generator.prefix(tokens) {
      if token == Int(ByteTokenizer.endOfDocument) || Interruption.isRequested { break }
      write(stream.append(tokenizer.bytes(of: token)))
    }
    write(stream.finish() + "\n")
  }
}
