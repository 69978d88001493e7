import Foundation
import TestSupport
import Testing
import Torch

/// The commands end to end, on work of a second or two.
@Suite(.enabled(if: Program.path != nil, "tensattn does not lie beside the tests"))
struct CommandTests {
  let folder: TemporaryFolder

  init() throws { folder = try TemporaryFolder() }

  @Test func everyCommandExplainsItself() throws {
    let help = try Program.run("--help")
    #expect(help.status == 0)
    let listed = help.output.components(separatedBy: "SUBCOMMANDS:").last ?? ""
    let names = listed.split(separator: "\n").compactMap { line -> String? in
      guard line.hasPrefix("  "), !line.hasPrefix("   ") else { return nil }
      return line.split(separator: " ").first.map(String.init)
    }
    #expect(names.contains("attend") && names.contains("train"))
    for name in names where name != "See" {
      let result = try Program.run(name, "--help")
      #expect(result.status == 0 && result.output.hasPrefix("OVERVIEW"), "\(name)")
    }
  }

  @Test func checkPrintsTheReachOfBothCausalSupports() throws {
    let literal = try Program.run("check", "--fold", "4x4x4", "--support", "block-causal")
    #expect(literal.status == 0 && literal.output.contains("1000/2080"))
    let complete = try Program.run("check", "--fold", "4x4x4", "--support", "sliding-causal")
    #expect(complete.status == 0 && complete.output.contains("2080/2080"))
  }

  @Test func attendGivesTheSameThroughEveryImplementation() throws {
    var tensors: [String: Tensor] = [:]
    for (i, name) in ["q", "k", "v", "grad_output"].enumerated() {
      let values = (0..<2 * 37 * 16).map { sin(Double($0 * $0 % 997 + 100 * i)) }
      tensors[name] = Tensor(values, shape: [1, 2, 37, 16], dtype: .float32)
    }
    try SafetensorsFile.write(tensors, to: folder.path("in"))
    var outputs: [[String: Tensor]] = []
    for backend in ["reference", "cpu", "composed"] {
      let file = folder.path(backend)
      let result = try Program.run(
        "attend", "--input", folder.path("in"), "--output", file, "--fold", "5x8",
        "--support", "sliding-causal", "--normalization", "joint", "--backend", backend)
      #expect(result.status == 0, "\(result.errors)")
      outputs.append(try SafetensorsFile(file).tensors())
    }
    for name in ["output", "grad_q", "grad_k", "grad_v"] {
      let expected = try #require(outputs[0][name]).array(Float.self)
      for other in outputs.dropFirst() {
        let found = try #require(other[name]).array(Float.self)
        let error = zip(expected, found).map { abs($0 - $1) }.max() ?? .infinity
        #expect(error < 1e-5, "\(name)")
      }
    }
  }

  @Test func interruptedTrainingContinuesAndItsModelIsMeasuredAndSpeaks() throws {
    let text = (0..<400).map { "let value\($0) = \($0 * 7 % 101)\n" }.joined()
    try folder.write("text.swift", text)
    let arguments = [
      "train", "--text", folder.path("text.swift"), "--output", folder.path("run"),
      "--attention", "tensorized:4x8", "--context", "32", "--batch-size", "2", "--width", "32",
      "--layers", "1", "--heads", "2", "--steps", "1500",
    ]
    let metrics = folder.path("run/metrics.jsonl")
    func steps() -> Int {
      let text = (try? String(contentsOfFile: metrics, encoding: .utf8)) ?? ""
      return text.components(separatedBy: "\"loss\"").count - 1
    }
    let interrupted = try Program.run(arguments) { process in
      while process.isRunning, steps() == 0 { usleep(5000) }
      process.interrupt()
    }
    let before = steps()
    #expect(before > 0 && before < 1500, "\(interrupted.errors)")
    let continued = try Program.run(arguments)
    #expect(continued.status == 0, "\(continued.errors)")
    #expect(steps() == 1500)
    let measured = try Program.run(
      "perplexity", "--model", folder.path("run"), "--tokens", "64", "--contexts", "32")
    #expect(measured.status == 0, "\(measured.errors)")
    let spoken = try Program.run(
      "generate", "--model", folder.path("run"), "--prompt", "let ", "--tokens", "8",
      "--temperature", "0")
    #expect(spoken.status == 0 && spoken.output.hasPrefix("let "), "\(spoken.errors)")
  }

  @Test func trainingTakesADeviceAndAPrecision() throws {
    let text = (0..<400).map { "let value\($0) = \($0 * 7 % 101)\n" }.joined()
    try folder.write("text.swift", text)
    func train(_ output: String, _ place: [String]) throws -> Program.Result {
      try Program.run(
        [
          "train", "--text", folder.path("text.swift"), "--output", folder.path(output),
          "--context", "32", "--batch-size", "2", "--width", "32", "--layers", "1", "--heads", "2",
          "--steps", "3",
        ] + place)
    }
    let half = try train("half", ["--precision", "bfloat16"])
    #expect(half.status == 0 && half.errors.contains("bfloat16 on cpu"), "\(half.errors)")
    let full = try train("half", ["--precision", "float32"])
    #expect(full.status == 1 && full.errors.contains("precision"), "\(full.errors)")
    let elsewhere = try train("elsewhere", ["--device", "tpu"])
    #expect(elsewhere.status == 1 && elsewhere.errors.contains("'tpu' is not a device"))
    if Runtime.cudaDeviceCount == 0 {
      let missing = try train("missing", ["--device", "cuda"])
      #expect(missing.status == 1 && missing.errors.contains("No CUDA device is available"))
      for own in [[], ["--fold", "8x8"]] {
        let bench = try Program.run(["bench", "--device", "cuda"] + own)
        #expect(bench.status == 1 && bench.errors.contains("No CUDA device is available"))
      }
    }
  }

  @Test func mistakesEndWithASentenceAndAStatus() throws {
    try folder.write("broken", "not tensors")
    let broken = try Program.run(
      "attend", "--input", folder.path("broken"), "--output", folder.path("out"), "--fold", "4x4")
    #expect(broken.status == 1 && broken.errors.contains(folder.path("broken")))
    #expect(!FileManager.default.fileExists(atPath: folder.path("out")))
    let fold = try Program.run("check", "--fold", "4xsix")
    #expect(fold.status == 64 && fold.errors.contains("4xsix"))
    let device = try Program.run("bench", "--device", "tpu")
    #expect(device.status == 64 && device.errors.contains("cpu or cuda, not tpu"))
    let figures = try Program.run(
      "bench", "--device", "cuda", "--fold", "8x8", "--figures", folder.path("figures"))
    #expect(figures.status == 64 && figures.errors.contains("plot on the --json"))
    let tokens = try Program.run("bench", "--device", "cuda", "--fold", "8x8", "--tokens", "65")
    #expect(tokens.status == 64 && tokens.errors.contains("65"), "\(tokens.errors)")
    let model = try Program.run("generate", "--model", folder.path("nowhere"))
    #expect(model.status == 1 && model.errors.contains("nowhere"))
  }
}
