import ArgumentParser
import Evaluation

struct Plot: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Draws figures from the files that the other commands write.",
    discussion: """
      metrics.jsonl files give the loss curve; reports of perplexity and of the demo give the loss \
      by length, by position and the time by length; rows of bench give times by length, and those \
      of a GPU also the ratios to the floor and to other attention; confusion matrices are drawn as \
      maps.
      """)

  @Argument(help: "Files, each optionally with a label: LABEL=FILE.")
  var files: [String]

  @Option(help: "The folder for the figures.")
  var output = "."

  func run() throws {
    let inputs = files.map { file in
      let parts = file.split(separator: "=", maxSplits: 1).map(String.init)
      return parts.count == 2 ? (label: parts[0], path: parts[1]) : (label: "", path: file)
    }
    for figure in try Plotter().draw(inputs, into: output) { print(figure) }
  }
}
