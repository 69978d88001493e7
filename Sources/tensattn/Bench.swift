import ArgumentParser
import Evaluation
import Folding
import Foundation
import Training

struct Bench: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Measures the kernels beside libtorch, correctness first.",
    discussion: """
      Without --fold the standard rows are measured. Every row is checked before it is timed, and a \
      row whose check fails has no times. Times are medians; on the CPU contestants take turns, on \
      a GPU caches are overwritten before each run.
      """)

  @Option(help: "Where to run: cpu or cuda.")
  var device = "cpu"

  @Option(
    name: .customLong("operator"),
    help: "What is measured: tensorized, or multi-mask (on the CPU).")
  var measured = MeasuredOperator.tensorized

  @Option(help: "Sequence length of a row of one's own.")
  var tokens: Int?

  @Option(help: "Fold of a row of one's own, such as 128x128.", transform: parseFold)
  var fold: Fold?

  @Option(help: "Support: block, block-causal or sliding-causal.")
  var support: Support = .blockCausal

  @Option(help: "Normalization: per-mode or joint.")
  var normalization: Normalization = .perMode

  @Option(help: "Query and key/value heads.")
  var heads = 8

  @Option(help: "Head width.")
  var width = 64

  @Option(help: "Seconds that each contestant of a row may take.")
  var budget = 4.0

  @Option(help: "The longest sequence of the standard rows.")
  var upTo = 1 << 20

  @Option(help: "Write the rows to this file as a JSON array.")
  var json: String?

  @Option(help: "Draw a figure of the rows into this folder.")
  var figures: String?

  @OptionGroup var compute: ComputeOptions

  func validate() throws {
    guard device == "cpu" || isCUDA else {
      throw ValidationError("--device must be cpu or cuda, not \(device).")
    }
    guard !isCUDA || figures == nil else {
      throw ValidationError("--figures is for --device cpu; use plot on the --json.")
    }
    guard heads >= 1, width >= 1, budget > 0, (tokens ?? 1) >= 1 else {
      throw ValidationError("--heads, --width, --tokens and --budget must be positive.")
    }
    if let fold, let objection = pattern(fold).objection(tokens: tokens ?? fold.capacity) {
      throw ValidationError(objection)
    }
    guard measured == .tensorized else { return try validateMultiMask() }
    guard fold != nil || tokens == nil else {
      throw ValidationError("--tokens needs a --fold.")
    }
  }

  /// Whether a GPU is there is seen when it is used.
  private var isCUDA: Bool { device == "cuda" }

  private func validateMultiMask() throws {
    guard !isCUDA, fold == nil, figures == nil else {
      throw ValidationError(
        "--operator multi-mask runs on the CPU and takes no --fold and no --figures.")
    }
    guard heads % 2 == 0 else {
      throw ValidationError(
        "--operator multi-mask has two directions and needs an even number of --heads, not \(heads)."
      )
    }
  }

  private func pattern(_ fold: Fold) -> AttentionPattern {
    AttentionPattern(
      fold: fold, support: support, normalization: normalization,
      rotary: normalization == .joint && width % 2 == 0 ? Rotary(.mode) : .none)
  }

  func run() throws {
    try compute.apply()
    Interruption.install()
    if measured == .multiMask {
      try benchMultiMask()
    } else if isCUDA {
      try benchCUDA()
    } else {
      try benchCPU()
    }
  }

  private func benchMultiMask() throws {
    let lengths = tokens.map { [$0] } ?? MultiMaskBenchmark.standardTokens.filter { $0 <= upTo }
    let rows = try MultiMaskBenchmark(
      heads: heads, width: width, budget: budget, progress: note
    ).run(lengths, isInterrupted: { Interruption.isRequested })
    print(MultiMaskBenchmark.table(rows))
    if let json {
      try MultiMaskBenchmark.json(rows).write(to: URL(fileURLWithPath: json), options: .atomic)
    }
    if Interruption.isRequested { throw interruptedStatus }
    if rows.contains(where: { !$0.correct }) { throw ExitCode.failure }
  }

  private func benchCPU() throws {
    let cases =
      fold.map {
        [
          BenchmarkCase(
            tokens: tokens ?? $0.capacity, heads: heads, width: width, pattern: pattern($0))
        ]
      } ?? BenchmarkCase.standard.filter { $0.tokens <= upTo }
    let rows = try OperatorBenchmark(budget: budget, progress: note)
      .run(cases, isInterrupted: { Interruption.isRequested })
    print(BenchmarkRow.table(rows))
    if let json {
      try BenchmarkRow.json(rows).write(to: URL(fileURLWithPath: json), options: .atomic)
    }
    if let figures {
      let file = FileManager.default.temporaryDirectory
        .appendingPathComponent("bench-\(ProcessInfo.processInfo.processIdentifier).json")
      defer { try? FileManager.default.removeItem(at: file) }
      try BenchmarkRow.json(rows).write(to: file)
      for path in try Plotter().draw([("bench", file.path)], into: figures) { print(path) }
    }
    if Interruption.isRequested { throw interruptedStatus }
    if rows.contains(where: { !$0.correct }) { throw ExitCode.failure }
  }

  private func benchCUDA() throws {
    let benchmark = try CUDABenchmark()
    print(
      String(
        format: "copy %.0f GB/s, bf16 product %.0f TFLOP/s; times in ms\n", benchmark.copyGbps,
        benchmark.matmulTflops))
    var rows: [CUDABenchmark.Row] = []
    for problem in cudaProblems where !Interruption.isRequested {
      note("\(problem.tokens) tokens, \(problem.pattern.fold) …")
      rows.append(try benchmark.run(problem))
    }
    print(CUDABenchmark.report(rows))
    let caches = fold == nil ? [4096, 131_072].filter { $0 <= max(upTo, 4096) } : []
    for cached in caches where !Interruption.isRequested {
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
    if Interruption.isRequested { throw interruptedStatus }
    if rows.contains(where: { !$0.correct }) { throw ExitCode.failure }
  }

  private var cudaProblems: [CUDABenchmark.Problem] {
    fold.map {
      [
        CUDABenchmark.Problem(
          tokens: tokens ?? $0.capacity, heads: heads, width: width, pattern: pattern($0))
      ]
    } ?? CUDABenchmark.Problem.standard(upTo: upTo)
  }
}

/// The operators that can be measured.
enum MeasuredOperator: String, ExpressibleByArgument, CaseIterable {
  case tensorized
  case multiMask = "multi-mask"
}

/// Reads `128x128`.
func parseFold(_ text: String) throws -> Fold {
  guard let fold = Fold(text) else {
    throw ValidationError("expected a fold such as 128x128, found \(text)")
  }
  return fold
}
