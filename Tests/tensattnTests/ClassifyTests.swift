import Foundation
import TestSupport
import Testing

/// The commands of classifiers end to end, on work of a second or two.
@Suite(.enabled(if: Program.path != nil, "tensattn does not lie beside the tests"))
struct ClassifyTests {
  let folder: TemporaryFolder

  init() throws { folder = try TemporaryFolder() }

  @Test func aGeneratedTaskIsTrainedTestedAndEvaluatedAgain() throws {
    let arguments = [
      "classify", "train", "--source", "precedence", "--length", "8", "--steps", "20",
      "--batch-size", "8", "--width", "16", "--output", folder.path("run"), "--threads", "1",
    ]
    let trained = try Program.run(arguments + ["--json", folder.path("summary.json")])
    #expect(trained.status == 0, "\(trained.errors)")
    #expect(trained.output.contains("seed-1") && trained.output.contains("contradiction"))
    let json = try JSONSerialization.jsonObject(
      with: Data(contentsOf: URL(fileURLWithPath: folder.path("summary.json"))))
    let summary = try #require(json as? [String: Any])
    #expect((summary["trials"] as? [Any])?.count == 1)

    let other = try Program.run(arguments + ["--learning-rate", "0.5"])
    #expect(other.status != 0 && other.errors.contains("training.learningRate"))

    let evaluated = try Program.run("classify", "evaluate", "--model", folder.path("run/seed-1"))
    #expect(evaluated.status == 0 && evaluated.output.contains("accuracy"))
  }

  @Test func filesWithMistakesAreNamedWithTheirLine() throws {
    try folder.write("q.txt", "NUM:count how many ?\nWHAT is this\n")
    let result = try Program.run(
      "classify", "train", "--source", "trec", "--training", folder.path("q.txt"), "--output",
      folder.path("run"))
    #expect(result.status != 0 && result.errors.contains("q.txt:2"), "\(result.errors)")
    let missing = try Program.run(
      "classify", "train", "--source", "sst2", "--output", folder.path("run"))
    #expect(missing.status != 0 && missing.errors.contains("a file in the format sst2"))
  }

  @Test func aLabelThatTheModelDoesNotKnowIsNamedWithItsLine() throws {
    let lines = (0..<60).map { $0 % 2 == 0 ? "good fine words \($0)" : "bad poor words \($0)" }
    try folder.write("lines.txt", lines.joined(separator: "\n") + "\n")
    let trained = try Program.run(
      "classify", "train", "--source", "lines", "--training", folder.path("lines.txt"), "--output",
      folder.path("run"), "--steps", "2", "--batch-size", "4", "--width", "16", "--threads", "1")
    #expect(trained.status == 0, "\(trained.errors)")
    try folder.write("more.txt", "good words\nodd words\n")
    let evaluated = try Program.run(
      "classify", "evaluate", "--model", folder.path("run/seed-1"), "--file",
      folder.path("more.txt"))
    #expect(
      evaluated.status == 1 && evaluated.errors.contains("more.txt:2")
        && evaluated.errors.contains("odd"), "\(evaluated.errors)")
  }

  @Test func encodersAreComparedInOneCommand() throws {
    let result = try Program.run(
      "compare-encoders", "--output", folder.path("out"), "--seeds", "1", "--steps", "2",
      "--length", "8", "--attributes", "2", "--lengths", "8", "--families", "mtsa,cnn",
      "--json", folder.path("report.json"), "--threads", "1", "--longest", "16")
    #expect(result.output.contains("MTSA") && result.output.contains("CNN"), "\(result.errors)")
    #expect(FileManager.default.fileExists(atPath: folder.path("report.json")))
    let unknown = try Program.run("compare-encoders", "--families", "mtsa,rnn")
    #expect(unknown.status != 0 && unknown.errors.contains("multi-head"))
  }
}
