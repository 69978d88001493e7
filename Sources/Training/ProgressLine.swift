import Foundation

/// A progress line on the standard error: redrawn in place on a terminal, printed every ten seconds
/// elsewhere.
public final class ProgressLine {
  private let label: String
  private let total: Int
  private let isTerminal = isatty(2) == 1
  private let began = ContinuousClock.now
  private let first: Int
  private var lastShown: ContinuousClock.Instant?
  private var isDirty = false

  /// Starts a line for work that has `total` units, `done` of which are done already.
  public init(label: String, total: Int, done: Int = 0) {
    self.label = label
    self.total = total
    first = done
  }

  /// Shows that `done` units are done, with details such as a loss, and the time left at the
  /// average rate so far.
  public func update(_ done: Int, details: String) {
    let now = ContinuousClock.now
    let isLast = done >= total
    let pause: Duration = isTerminal ? .milliseconds(200) : .seconds(10)
    if let lastShown, now - lastShown < pause, !isLast { return }
    lastShown = now
    let seconds = (now - began) / .seconds(1)
    let left = done > first ? seconds / Double(done - first) * Double(total - done) : .nan
    let percent = total > 0 ? done * 100 / total : 100
    var line = "\(label)  \(done)/\(total) (\(percent)%)  \(details)"
    if left.isFinite { line += isLast ? "  took \(clock(seconds))" : "  \(clock(left)) left" }
    write(isTerminal ? "\r\u{1B}[2K" + line : line + "\n")
    isDirty = isTerminal
  }

  /// Ends the line, so that other output begins on a fresh one.
  public func finish() {
    if isDirty { write("\n") }
    isDirty = false
  }

  private func write(_ text: String) {
    FileHandle.standardError.write(Data(text.utf8))
  }
}

/// `1:05` for 65 seconds, `1:01:05` for an hour more.
package func clock(_ seconds: Double) -> String {
  let whole = Int(seconds.rounded())
  let (hours, minutes, rest) = (whole / 3600, whole / 60 % 60, whole % 60)
  return hours > 0
    ? String(format: "%d:%02d:%02d", hours, minutes, rest)
    : String(format: "%d:%02d", minutes, rest)
}
