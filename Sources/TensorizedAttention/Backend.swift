import AttentionCPU
import AttentionCUDA
import AttentionCore
import Torch

/// Which implementation attends. All compute the same function with the same gradients.
public enum Backend: String, Sendable, Hashable, Codable, CaseIterable {
  /// `cpu` for f32 on a processor with AVX2, `cuda` on a GPU, `composed` for everything else.
  case automatic
  /// Plain loops that read like the equations: f32 and f64, slow.
  case reference
  /// The SIMD kernels: f32 on the CPU.
  case cpu
  /// The CUDA kernels: bf16, f16 and f32 on a GPU. What they do not cover runs through `composed`, which is
  /// logged.
  case cuda
  /// The same mathematics through libtorch operations: any floating type, any device.
  case composed
}

/// A backend that cannot serve what it is asked for.
public struct BackendError: Error, CustomStringConvertible, Sendable {
  /// What was expected and found, and what to do.
  public let description: String
}

extension Backend {
  /// The implementation that serves tensors of a type on a device.
  ///
  /// - Throws: ``BackendError`` if a backend named by the caller cannot.
  public func resolved(dtype: DType, device: Device) throws -> Backend {
    let servesCPU = device == .cpu && dtype == .float32
    switch self {
    case .automatic:
      if device.kind == .cuda, CUDAElement(dtype) != nil {
        do {
          _ = try (CUDAKernels.shared(), NVRTC.shared())
          return .cuda
        } catch {
          ComposedFallback.log("\(error)")
          return .composed
        }
      }
      guard servesCPU, case .success = Processor.supported else { return .composed }
      return .cpu
    case .cpu:
      guard servesCPU else {
        throw BackendError(
          description: "The cpu backend attends float32 tensors on the CPU, got \(dtype) on "
            + "\(device); convert them, or use reference (float64) or composed.")
      }
      if case .failure(let error) = Processor.supported {
        throw BackendError(description: error.description)
      }
      return .cpu
    case .reference:
      guard device == .cpu, dtype == .float32 || dtype == .float64 else {
        throw BackendError(
          description: "The reference attends float32 or float64 tensors on the CPU, got \(dtype) "
            + "on \(device).")
      }
      return .reference
    case .cuda:
      guard device.kind == .cuda, CUDAElement(dtype) != nil else {
        throw BackendError(
          description:
            "The cuda backend attends bfloat16, float16 or float32 tensors on a GPU, got "
            + "\(dtype) on \(device); move them with to(.cuda()), or use automatic.")
      }
      _ = try (CUDAKernels.shared(), NVRTC.shared())
      return .cuda
    case .composed:
      return .composed
    }
  }
}

extension ParallelExecutor {
  /// libtorch's own pool, so that two pools never fight over the cores.
  public static let torch = ParallelExecutor { count, task in
    // Tasks write disjoint memory, which the type system cannot see.
    nonisolated(unsafe) let task = task
    Runtime.parallelFor(count) { task($0) }
  }
}
