import Foundation

extension MultiMaskBenchmark {
  /// Rows as a table; a row whose check failed shows no time and no ratio.
  public static func table(_ rows: [Row]) -> String {
    Evaluation.table(
      [
        "n", "check", "max error", "fwd ms", "f+b ms", "plain f+b", "ratio", "composed f+b",
        "n·n·d f+b", "extra MB", "composed", "n·n·d",
      ],
      rows.map { row in
        [
          "\(row.n) \(row.heads)x\(row.headDim)", row.correct ? "ok" : "FAILED",
          String(format: "%.1e", row.maxError), milliseconds(row.forwardMs),
          milliseconds(row.forwardBackwardMs), milliseconds(row.plainForwardBackwardMs),
          ratio(row.forwardBackwardMs, row.plainForwardBackwardMs),
          faster(row.composedForwardBackwardMs, row.forwardBackwardMs),
          faster(row.naiveForwardBackwardMs, row.forwardBackwardMs), megabytes(row.extraBytes),
          megabytes(row.composedExtraBytes), megabytes(row.naiveExtraBytes),
        ]
      })
        + """
        plain: attention with one softmax a row through the same kernels; ratio: what feature-wise \
        scores cost over it.
        composed: the same operator through libtorch; n·n·d: the tensor of scores formed outright, and \
        how many times faster the kernels are.
        extra MB: forward and backward, beyond the output and the gradients.

        """
  }

  private static func milliseconds(_ ms: Double?) -> String {
    ms.map { String(format: $0 < 10 ? "%.2f" : "%.1f", $0) } ?? "–"
  }

  private static func ratio(_ own: Double?, _ other: Double?) -> String {
    guard let own, let other else { return "–" }
    return String(format: "%.2f", own / other)
  }

  private static func faster(_ other: Double?, _ own: Double?) -> String {
    guard let own, let other else { return "–" }
    return milliseconds(other) + String(format: " (%.1fx)", other / own)
  }

  private static func megabytes(_ bytes: Int?) -> String {
    bytes.map { String(format: "%.1f", Double($0) / 1e6) } ?? "–"
  }

  /// The rows as JSON with snake-case keys.
  public static func json(_ rows: [Row]) throws -> Data {
    let encoder = JSONEncoder()
    encoder.outputFormatting = [.prettyPrinted, .sortedKeys]
    encoder.keyEncodingStrategy = .convertToSnakeCase
    return try encoder.encode(rows)
  }
}
