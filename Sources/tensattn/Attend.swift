import ArgumentParser
import TensorizedAttention
import Torch

struct Attend: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Attends tensors of a safetensors file.",
    discussion: """
      Reads q [B,H,N,D], k and v [B,G,N,D]; if present beta [m,H], mode_bias_1 … mode_bias_m, \
      lengths [B] and grad_output [B,H,N,D]. Writes output [B,H,N,D] and lse [B,H,N]; with \
      grad_output also grad_q, grad_k, grad_v, grad_beta and grad_mode_bias_1 ….
      """)

  @Option(help: "The safetensors file to read.")
  var input: String

  @Option(help: "The safetensors file to write, complete or not at all.")
  var output: String

  @OptionGroup var pattern: PatternOptions

  @Option(help: "The factor on the logits; by default 1/√D.")
  var scale: Double?

  @Option(help: "Which implementation attends.")
  var backend = Backend.automatic

  @Option(
    help: "Convert to f32, f64, bf16 or f16 first; by default to f64 if q is, else to f32.",
    transform: { text in
      guard let dtype = try? DType(parsing: text), dtype.isFloatingPoint else {
        throw ValidationError("expected f32, f64, bf16 or f16, found '\(text)'")
      }
      return dtype
    })
  var dtype: DType?

  @OptionGroup var compute: ComputeOptions

  func validate() throws {
    if let scale, !scale.isFinite {
      throw ValidationError("--scale must be a finite number, not \(scale).")
    }
  }

  func run() throws {
    try compute.apply()
    try AttentionFiles(
      pattern: pattern.pattern, scale: scale, backend: backend, dtype: dtype
    ).attend(input, to: output)
  }
}
