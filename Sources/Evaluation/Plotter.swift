import Foundation

/// Draws figures from metrics and reports, through `Scripts/plot.py` and matplotlib.
public struct Plotter {
  /// Why no figure could be drawn.
  public enum Failure: Error, Equatable, CustomStringConvertible {
    /// There is no such file.
    case missing(what: String, looked: [String])
    /// The script stopped with an error.
    case failed(status: Int32, output: String)

    /// The sentence to print.
    public var description: String {
      switch self {
      case .missing(let what, let looked):
        "Expected \(what) at \(looked.joined(separator: " or ")), found none; "
          + "run `make setup` and start from the package's folder."
      case .failed(let status, let output):
        "Drawing failed with status \(status): \(output)"
      }
    }
  }

  private let python: String
  private let script: String

  /// Finds Python and the script in the package's folder: the working folder, or the one in which
  /// the program was built.
  ///
  /// - Throws: ``Failure/missing(what:looked:)``.
  public init() throws {
    var roots = [FileManager.default.currentDirectoryPath]
    var folder = URL(fileURLWithPath: CommandLine.arguments[0]).resolvingSymlinksInPath()
    for _ in 0..<5 {
      folder.deleteLastPathComponent()
      roots.append(folder.path)
    }
    python = try Self.find(
      "Python with matplotlib", roots.map { $0 + "/.venv/bin/python" })
    script = try Self.find("the plotting script", roots.map { $0 + "/Scripts/plot.py" })
  }

  private static func find(_ what: String, _ paths: [String]) throws -> String {
    guard let found = paths.first(where: FileManager.default.fileExists(atPath:)) else {
      throw Failure.missing(what: what, looked: Array(paths.prefix(1)))
    }
    return found
  }

  /// Draws the figures that the inputs give.
  ///
  /// - Parameters:
  ///   - inputs: metrics (`.jsonl`) and reports (`.json`), each labeled in the figures.
  ///   - folder: where the figures are written.
  /// - Returns: the paths of the figures.
  /// - Throws: ``Failure``.
  public func draw(_ inputs: [(label: String, path: String)], into folder: String) throws
    -> [String]
  {
    let process = Process()
    process.executableURL = URL(fileURLWithPath: python)
    process.arguments =
      [script, "--output", folder] + inputs.map { $0.label + "=" + $0.path }
    let output = Pipe()
    process.standardOutput = output
    process.standardError = output
    try process.run()
    let data = output.fileHandleForReading.readDataToEndOfFile()
    process.waitUntilExit()
    let text = String(decoding: data, as: UTF8.self)
    guard process.terminationStatus == 0 else {
      throw Failure.failed(
        status: process.terminationStatus,
        output: text.trimmingCharacters(in: .whitespacesAndNewlines))
    }
    return text.split(separator: "\n").map(String.init)
  }
}
