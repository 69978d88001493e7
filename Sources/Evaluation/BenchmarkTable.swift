import Foundation

extension BenchmarkRow {
  /// Rows as a table; a row whose check failed shows no time and no ratio.
  public static func table(_ rows: [BenchmarkRow]) -> String {
    Evaluation.table(
      [
        "n, fold", "support", "norm", "check", "max error", "fwd ms", "f+b ms", "composed",
        "fused", "window", "full", "GFLOP/s", "peak", "extra MB",
      ],
      rows.map { row in
        [
          "\(row.n) \(row.fold) h\(row.heads)", row.support, row.normalization,
          row.correct ? "ok" : "FAILED", String(format: "%.1e", row.maxError),
          format(row.forwardMs), format(row.forwardBackwardMs),
          ratios(
            row, row.composedForwardMs, row.composedForwardBackwardMs),
          ratios(row, row.composedFusedForwardMs, row.composedFusedForwardBackwardMs),
          ratios(row, row.windowForwardMs, nil), ratios(row, row.fullForwardMs, nil),
          row.forwardGflops.map { String(format: "%.0f", $0) } ?? "–",
          row.fmaPeakShare.map { String(format: "%.0f %%", 100 * $0) } ?? "–",
          "\(megabytesOrDash(row.extraBytes)) / \(megabytesOrDash(row.extraBytesBackward))",
        ]
      })
        + """
        composed, fused, window, full: ms forward through libtorch and how many times faster the \
        kernels are (forward, forward+backward).
        peak: of \(rows.first.map { String(format: "%.0f", $0.fmaPeakGflops) } ?? "–") GFLOP/s \
        multiply-adds on registers, all threads.

        """
  }

  private static func format(_ ms: Double?) -> String {
    ms.map { String(format: $0 < 10 ? "%.2f" : "%.1f", $0) } ?? "–"
  }

  private static func ratios(_ row: BenchmarkRow, _ forward: Double?, _ both: Double?) -> String {
    guard let forward, let own = row.forwardMs else { return "–" }
    var text = "\(format(forward)) (\(String(format: "%.1f", forward / own))x"
    if let both, let own = row.forwardBackwardMs {
      text += String(format: ", %.1fx", both / own)
    }
    return text + ")"
  }

  private static func megabytesOrDash(_ bytes: Int?) -> String {
    bytes.map { String(format: "%.0f", Double($0) / 1e6) } ?? "–"
  }

  /// The rows as JSON with snake-case keys; what was not run is null.
  public static func json(_ rows: [BenchmarkRow]) throws -> Data {
    let encoder = JSONEncoder()
    encoder.outputFormatting = [.prettyPrinted, .sortedKeys]
    encoder.keyEncodingStrategy = .convertToSnakeCase
    let data = try encoder.encode(rows)
    guard var objects = try JSONSerialization.jsonObject(with: data) as? [[String: Any]] else {
      return data
    }
    // Swift leaves out what is nil; readers of the file want the key.
    let optional = [
      "forward_ms", "forward_backward_ms", "composed_forward_ms", "composed_forward_backward_ms",
      "composed_fused_forward_ms", "composed_fused_forward_backward_ms", "window_forward_ms",
      "full_forward_ms", "forward_gflops", "fma_peak_share", "extra_bytes",
      "extra_bytes_backward",
    ]
    for index in objects.indices {
      for key in optional where objects[index][key] == nil { objects[index][key] = NSNull() }
    }
    return try JSONSerialization.data(
      withJSONObject: objects, options: [.prettyPrinted, .sortedKeys])
  }
}
