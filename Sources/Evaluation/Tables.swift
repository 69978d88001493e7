import Foundation
import TextTable

extension Double {
  var formatted4: String { String(format: "%.4f", self) }
}

/// Bytes as `12.3 MB`, or `n/a`.
func megabytes(_ bytes: Int?) -> String {
  bytes.map { String(format: "%.0f MB", Double($0) / 1e6) } ?? "n/a"
}

/// A table with right-aligned columns after the first, or after the first few.
func table(_ header: [String], _ rows: [[String]], leftAligned: Int = 1) -> String {
  let columns = header.indices.map { index in
    { (row: [String]) in
      Column(title: header[index], value: row[index], align: index < leftAligned ? .left : .right)
    }
  }
  let text = TextTable<[String]> { row in columns.map { $0(row) } }.string(for: rows) ?? ""
  return text.split(separator: "\n", omittingEmptySubsequences: false)
    .map { line in String(line.reversed().drop { $0 == " " }.reversed()) }.joined(separator: "\n")
}

extension PerplexityReport {
  /// The report as two tables: by context length and by position.
  public var text: String {
    let byLength = table(
      ["context", "loss (nats)", "perplexity", "ms/token", "peak memory"],
      lengths.map {
        [
          "\($0.context)", $0.loss.formatted4, String(format: "%.3f", $0.perplexity),
          String(format: "%.4f", $0.millisecondsPerToken), megabytes($0.peakBytes),
        ]
      })
    let byPosition = table(
      ["positions", "loss (nats)"],
      positions.map { ["\($0.from)–\($0.to - 1)", $0.loss.formatted4] })
    return """
      \(name): attention \(attention), \(parameters) parameters, \(tokens) validation tokens

      \(byLength)
      By position at context \(lengths.last?.context ?? 0):

      \(byPosition)
      """
  }
}
