import Foundation

extension CUDABenchmark {
  /// The rows as a table: the check first, then times and ratios.
  public static func report(_ rows: [Row]) -> String {
    let ms = { (x: Double?) in x.map { String(format: $0 < 10 ? "%.3f" : "%.1f", $0) } ?? "–" }
    let ratio = { (x: Double?, y: Double?) -> String in
      guard let x, let y else { return "–" }
      return String(format: "%.1f×", x / y)
    }
    return table(
      [
        "n, fold", "check", "floor", "forward", "× floor", "GB/s", "composed", "flash", "cuDNN",
        "÷ cuDNN", "window 1024", "fwd+bwd", "× floor", "flash", "cuDNN", "÷ cuDNN",
        "extra memory",
      ],
      rows.map { row in
        [
          "\(row.n) \(row.fold) \(row.support) \(row.normalization)",
          String(
            format: row.correct ? "ok %.1e ≤ %.1e" : "FAILED %.1e > %.1e", row.maxError,
            row.errorBound),
          ms(row.floorMs), ms(row.forwardMs), ratio(row.forwardMs, row.floorMs),
          row.forwardGbps.map { String(format: "%.0f", $0) } ?? "–", ms(row.composedForwardMs),
          ms(row.flashForwardMs), ms(row.cudnnForwardMs),
          ratio(row.cudnnForwardMs, row.forwardMs), ms(row.windowForwardMs),
          ms(row.forwardBackwardMs), ratio(row.forwardBackwardMs, row.floorBackwardMs),
          ms(row.flashForwardBackwardMs), ms(row.cudnnForwardBackwardMs),
          ratio(row.cudnnForwardBackwardMs, row.forwardBackwardMs),
          "\(megabytes(row.extraBytes)) / \(megabytes(row.extraBytesBackward))",
        ]
      })
  }

  /// The rows as JSON with null where nothing was run.
  public static func json(_ rows: [Row]) throws -> Data {
    let encoder = JSONEncoder()
    encoder.keyEncodingStrategy = .convertToSnakeCase
    let names = [
      "floor_backward_ms", "forward_ms", "forward_backward_ms", "forward_to_floor",
      "forward_backward_to_floor", "forward_gbps", "forward_tflops", "composed_forward_ms",
      "composed_forward_backward_ms", "flash_forward_ms", "flash_forward_backward_ms",
      "cudnn_forward_ms", "cudnn_forward_backward_ms", "window_forward_ms", "full_forward_ms",
      "fma_peak_share", "extra_bytes", "extra_bytes_backward",
    ]
    let objects = try JSONSerialization.jsonObject(with: encoder.encode(rows))
    let complete = (objects as? [[String: Any]] ?? []).map { row in
      names.reduce(into: row) { if $0[$1] == nil { $0[$1] = NSNull() } }
    }
    return try JSONSerialization.data(
      withJSONObject: complete, options: [.prettyPrinted, .sortedKeys, .withoutEscapingSlashes])
  }
}
