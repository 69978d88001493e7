// What the tests that compile kernels share.

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
