import AttentionCore
import AttentionKernels
import AttentionKernelsAVX512
import Folding

/// Multi-mask attention through the SIMD kernels.
///
/// Results are bitwise the same for any executor. Memory beyond the output forward: half a MiB of
/// scratch a running task at head width 64; backward N·D + N floats a head saved by the caller, and
/// up to 15 N·D floats for dq where a call has fewer than 16 heads in all sequences.
extension CPUAttention {
  /// The output, and what the backward pass wants if there is memory for it.
  public func multiMaskForward(_ arguments: MultiMaskArguments, _ rows: MultiMaskForwardRows) {
    if let objection = arguments.scheme.objection(arguments.shape) { fatalError(objection) }
    switch vectors {
    case .avx2: AttentionKernels.MultiMaskForward.run(arguments, rows, executor: executor)
    case .avx512: AttentionKernelsAVX512.MultiMaskForward.run(arguments, rows, executor: executor)
    }
  }

  /// All gradients.
  public func multiMaskBackward(_ arguments: MultiMaskArguments, _ rows: MultiMaskBackwardRows) {
    if let objection = arguments.scheme.objection(arguments.shape) { fatalError(objection) }
    switch vectors {
    case .avx2: AttentionKernels.MultiMaskBackward.run(arguments, rows, executor: executor)
    case .avx512: AttentionKernelsAVX512.MultiMaskBackward.run(arguments, rows, executor: executor)
    }
  }
}
