import ArgumentParser
import Evaluation
import Foundation
import Training

struct DemoCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "demo",
    abstract: "Trains one small model with three kinds of attention and compares them.",
    discussion: """
      About five minutes on two cores. Ctrl-C saves; running the same command again continues.
      """)

  @Option(help: "The folder for everything that is written.")
  var output = "demo"

  @Option(help: "The folder of source code to train on.")
  var text = Demo.text

  @Flag(help: "Begin anew instead of continuing.")
  var fresh = false

  @Option(help: "Write the table's rows to this file as JSON.")
  var json: String?

  @OptionGroup var compute: ComputeOptions

  func run() throws {
    try compute.apply()
    Interruption.install()
    switch try Demo(folder: output, text: text).run(fresh: fresh, report: note) {
    case .finished(let table, let files):
      print(table)
      if let json {
        try Data(contentsOf: URL(fileURLWithPath: output + "/summary.json"))
          .write(to: URL(fileURLWithPath: json), options: .atomic)
      }
      print("Files:\n" + files.map { "  " + $0 }.joined(separator: "\n"))
    case .interrupted:
      note("Interrupted; run the same command again to continue.")
      throw interruptedStatus
    }
  }
}
