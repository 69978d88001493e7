import ArgumentParser
import Evaluation
import Foundation
import TensorizedAttention

struct Check: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Runs the properties of a pattern: leak, reach, equalities.",
    discussion: "The exit status is 1 if a property that applies does not hold.")

  @OptionGroup var pattern: PatternOptions

  @Option(help: "The number of tokens; by default what the fold holds, at most 4096.")
  var tokens: Int?

  @Option(help: "Which implementation is examined.")
  var backend = Backend.automatic

  @Flag(help: "Print JSON instead of a table.")
  var json = false

  @Argument(help: "With --json: write the JSON to this file and print the table.")
  var file: String?

  @OptionGroup var compute: ComputeOptions

  /// The most tokens to run; reach is counted in closed form and the rest takes minutes then.
  private static let mostTokens = 1 << 20

  func validate() throws {
    if let tokens, !(1...Self.mostTokens).contains(tokens) {
      throw ValidationError("--tokens must be 1 to \(Self.mostTokens), not \(tokens).")
    }
    if let tokens, let objection = pattern.pattern.objection(tokens: tokens) {
      throw ValidationError(objection)
    }
    if file != nil, !json {
      throw ValidationError(
        "A file is written with --json only; found the argument '\(file ?? "")'.")
    }
  }

  func run() throws {
    try compute.apply()
    let properties = try PatternProperties(
      of: pattern.pattern, tokens: tokens ?? min(pattern.fold.capacity, 4096), backend: backend,
      device: backend == .cuda ? .cuda() : .cpu)
    let report = properties.report()
    if let file { try JSONFile.write(report, to: file) }
    print(json && file == nil ? try JSONFile.text(report) : report.text)
    if !report.passed { throw ExitCode(1) }
  }
}
