import ArgumentParser
import Evaluation
import Foundation
import Torch

struct Bench: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Times the operator against full attention on the same machine.",
    discussion: """
      Every row is checked before it is timed, and a row whose check fails has no times. Medians of \
      many runs, caches overwritten before each.
      """)

  @OptionGroup var compute: ComputeOptions

  @Option(help: "Where to run: cuda.")
  var device = "cuda"

  @Option(help: "The longest sequence.")
  var upTo = 1 << 20

  @Option(help: "A file for the rows as JSON.")
  var json: String?

  func run() throws {
    try compute.apply()
    guard try Device(parsing: device).kind == .cuda else {
      throw ValidationError("bench measures CUDA devices, not \(device); use --device cuda.")
    }
    try benchCUDA()
  }

  private func benchCUDA() throws {
    let benchmark = try CUDABenchmark()
    print(
      String(
        format: "copy %.0f GB/s, bf16 product %.0f TFLOP/s; times in ms\n", benchmark.copyGbps,
        benchmark.matmulTflops))
    var rows: [CUDABenchmark.Row] = []
    for problem in CUDABenchmark.Problem.standard(upTo: upTo) {
      note("\(problem.tokens) tokens, \(problem.pattern.fold) …")
      rows.append(try benchmark.run(problem))
    }
    print(CUDABenchmark.report(rows))
    for cached in [4096, 131_072] where cached <= max(upTo, 4096) {
      let (step, empty) = try benchmark.decode(cached: cached)
      print(
        String(
          format:
            "decode at %d cached, 32/8 heads × 128, fold 256x128: %.2f µs a launch, empty kernel %.2f µs",
          cached, step, empty))
    }
    if let json {
      try CUDABenchmark.json(rows).write(to: URL(fileURLWithPath: json), options: .atomic)
    }
  }
}
