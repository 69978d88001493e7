import ArgumentParser
import Evaluation
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

  @OptionGroup var compute: ComputeOptions

  func run() throws {
    try compute.apply()
    Interruption.install()
    switch try Demo(folder: output, text: text).run(fresh: fresh, report: note) {
    case .finished(let table, let files):
      print(table)
      print("Files:\n" + files.map { "  " + $0 }.joined(separator: "\n"))
    case .interrupted:
      note("Interrupted; run the same command again to continue.")
      throw interruptedStatus
    }
  }
}
