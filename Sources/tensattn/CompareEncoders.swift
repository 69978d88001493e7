import ArgumentParser
import Evaluation
import Models
import Training

struct CompareEncoders: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "compare-encoders",
    abstract: "Compares five encoders of equal size on a generated task: accuracy, time, memory.",
    discussion: """
      Multi-mask tensorized attention, multi-head attention, feature-wise attention that forms its \
      tensor (DiSA), a bidirectional LSTM and a CNN. About twenty minutes on two cores. Ctrl-C saves; \
      running the same command again continues.
      """)

  @Option(help: "The folder for everything that is written.")
  var output = "encoders"

  @Flag(help: "A minute or two: few steps and seeds, short sequences.")
  var quick = false

  @Option(help: "The number of seeds.")
  var seeds: Int?

  @Option(help: "Optimizer steps of each training.")
  var steps: Int?

  @Option(help: "Tokens in the task's sequences.")
  var length: Int?

  @Option(help: "Colors, and shapes, of the task's tokens; labels are their pairs.")
  var attributes: Int?

  @Option(help: "The lengths at which time and memory are measured.", transform: parseCounts)
  var lengths: [Int]?

  @Option(help: "A further length for multi-mask attention alone.")
  var longest: Int?

  @Option(help: "The families to compare, such as mtsa,multi-head.", transform: parseFamilies)
  var families: [EncoderFamily]?

  @Flag(help: "Begin anew instead of continuing.")
  var fresh = false

  @Option(help: "Write the report to this file as JSON.")
  var json: String?

  @OptionGroup var compute: ComputeOptions

  func validate() throws {
    for (name, value, range) in [
      ("--seeds", seeds, 1...1000), ("--steps", steps, 1...10_000_000),
      ("--length", length, 1...1_000_000), ("--attributes", attributes, 2...32),
      ("--longest", longest, 1...10_000_000),
    ] {
      if let value, !range.contains(value) {
        throw ValidationError(
          "\(name) must be \(range.lowerBound) to \(range.upperBound), not \(value).")
      }
    }
  }

  private var plan: EncoderComparison.Plan {
    var plan = quick ? EncoderComparison.Plan.quick : EncoderComparison.Plan()
    if let seeds { plan.seeds = (1...seeds).map(UInt64.init) }
    if let steps { plan.base.training.steps = steps }
    if let length { plan.base.data.length = length }
    if let attributes { plan.base.data.attributes = attributes }
    if let lengths { plan.lengths = lengths.sorted() }
    if let longest { plan.longest = longest }
    if let families { plan.families = families }
    return plan
  }

  func run() throws {
    try compute.apply()
    Interruption.install()
    let comparison = EncoderComparison(plan, folder: output)
    if fresh { try comparison.remove() }
    switch try comparison.run(report: note) {
    case .finished(let report):
      print(report.text)
      if let json { try JSONFile.write(report, to: json) }
      let figures = try Plotter().draw(
        [(label: "", path: output + "/summary.json")], into: output)
      print(
        "Files:\n"
          + ([output + "/summary.json"] + figures).map { "  " + $0 }.joined(separator: "\n"))
    case .interrupted:
      note("Interrupted; run the same command again to continue.")
      throw interruptedStatus
    }
  }
}

/// Reads `mtsa,multi-head`.
func parseFamilies(_ text: String) throws -> [EncoderFamily] {
  try text.split(separator: ",", omittingEmptySubsequences: false).map {
    guard let family = EncoderFamily(rawValue: String($0)) else {
      let names = EncoderFamily.allCases.map(\.rawValue).joined(separator: ", ")
      throw ValidationError("expected families among \(names), found \(text)")
    }
    return family
  }
}
