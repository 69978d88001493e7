// What the tests that compile kernels share.

import Folding
import Testing

import AttentionCUDA

let nvrtc = Result { try NVRTC.shared() }

/// Whether NVRTC is here; compiling for a GPU needs none.
var hasCompiler: Bool { (try? nvrtc.get()) != nil }

/// Expects the code of an H200 from a plan's kernel.
func expectCompiles(_ plan: LaunchPlan) throws {
  let cubin = try nvrtc.get().compile(
    source: KernelSources.source(of: plan.file), name: plan.file + ".cu",
    options: plan.options(architecture: "sm_90a"))
  #expect(cubin.starts(with: [0x7f, 0x45, 0x4c, 0x46]), "\(plan.entry) with \(plan.macros)")
}

/// The highest (1), the middle (2) or the lowest (3) of three passes of a block support; `full`: `block`, joint with β, and with
/// biases.
func oneOfThree(
  _ index: Int, _ element: CUDAElement, width: Int, sizes: (Int, Int, Int), batch: Int, heads: Int,
  keyHeads: Int, tokens: Int, full: Bool
) -> CUDAPassShape {
  CUDAPassShape(
    element: element, headWidth: width, batch: batch, heads: heads, keyHeads: keyHeads,
    valueHeads: index == 3 ? keyHeads : heads, tokens: tokens,
    mode: Mode(
      index: index, size: [sizes.0, sizes.1, sizes.2][index - 1],
      stride: [sizes.1 * sizes.2, sizes.2, 1][index - 1], isLowest: index == 3),
    support: full ? .block : .blockCausal, isJoint: full && index < 3, hasBeta: full && index < 3,
    hasBias: full, isRotary: false)
}
