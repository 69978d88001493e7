#if arch(x86_64) && canImport(Glibc)
  import Glibc
#endif
import AttentionCore
import AttentionKernels
import AttentionKernelsAVX512

/// What the kernels can run on.
public enum Processor {
  /// The vector instructions that the kernels use on this machine.
  public enum Vectors: String, Sendable, CaseIterable {
    /// 8 floats with fused multiply-add (on Arm: NEON through the same sources).
    case avx2
    /// 16 floats.
    case avx512
  }

  /// A processor that lacks what the kernels are compiled for.
  public struct Unsupported: Error, CustomStringConvertible, Sendable {
    /// What was expected and found, and what to do.
    public let description: String
  }

  /// The instruction sets named by the operating system.
  static func flags() -> Set<Substring> {
    guard let file = fopen("/proc/cpuinfo", "r") else { return [] }
    defer { fclose(file) }
    var text = ""
    var buffer = [CChar](repeating: 0, count: 8192)
    while fgets(&buffer, Int32(buffer.count), file) != nil {
      let bytes = buffer.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }
      let line = String(decoding: bytes, as: UTF8.self)
      text += line
      if text.contains("flags"), text.hasSuffix("\n"), line.hasPrefix("flags") || text.count > 8192
      {
        break
      }
    }
    let line = text.split(separator: "\n").first { $0.hasPrefix("flags") } ?? ""
    return Set(line.split(whereSeparator: { $0 == " " || $0 == "\t" || $0 == ":" }))
  }

  /// The widest vectors that a processor with these flags has.
  ///
  /// - Throws: ``Unsupported`` if it lacks AVX2 or FMA.
  static func vectors(flags: Set<Substring>) throws(Unsupported) -> Vectors {
    #if arch(x86_64)
      let wide: Set<Substring> = ["avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"]
      let base: Set<Substring> = ["avx2", "fma", "bmi2"]
      guard base.isSubset(of: flags) else {
        let missing = base.subtracting(flags).sorted().joined(separator: ", ")
        throw Unsupported(
          description:
            "The kernels need an x86-64-v3 processor (AVX2 and FMA; Intel since 2013, AMD "
            + "since 2015); this one lacks \(missing). Use --backend reference or composed here.")
      }
      return wide.isSubset(of: flags) ? .avx512 : .avx2
    #else
      return .avx2
    #endif
  }

  /// What this machine runs, found once.
  public static let supported: Result<Vectors, Unsupported> = Result {
    () throws(Unsupported) -> Vectors in try vectors(flags: flags())
  }

  /// Runs multiply-adds on registers only and returns the rate of one core in FLOP/s.
  ///
  /// - Parameters:
  ///   - vectors: the instructions to time.
  ///   - seconds: how long to try; the best of many short stretches is returned.
  public static func peak(_ vectors: Vectors, seconds: Double = 0.2) -> Double {
    switch vectors {
    case .avx2: AttentionKernels.FMAPeak.measure(seconds: seconds)
    case .avx512: AttentionKernelsAVX512.FMAPeak.measure(seconds: seconds)
    }
  }
}
