import Foundation

/// The built `tensattn`, run as a user runs it.
struct Program {
  /// Where the build put it: beside the test bundle that this process has loaded.
  static let path: String? = {
    let maps = (try? String(contentsOfFile: "/proc/self/maps", encoding: .utf8)) ?? ""
    let folders = maps.split(separator: "\n").lazy.compactMap { line -> URL? in
      guard let start = line.firstIndex(of: "/") else { return nil }
      let file = URL(fileURLWithPath: String(line[start...]))
      return file.pathExtension == "xctest" ? file.deletingLastPathComponent() : nil
    }
    guard let path = folders.first?.appendingPathComponent("tensattn").path,
      FileManager.default.isExecutableFile(atPath: path)
    else { return nil }
    return path
  }()

  struct Result {
    var status: Int32
    var output: String
    var errors: String
  }

  /// Runs it to its end and returns what it printed.
  static func run(_ arguments: String...) throws -> Result { try run(arguments) }

  /// The same; `meanwhile` is called once it has started.
  static func run(
    _ arguments: [String], meanwhile: (Process) -> Void = { _ in }
  ) throws -> Result {
    let process = Process()
    process.executableURL = URL(fileURLWithPath: path ?? "tensattn")
    process.arguments = arguments
    let files = [UUID(), UUID()].map {
      FileManager.default.temporaryDirectory.appendingPathComponent("tensattn-\($0)")
    }
    defer { files.forEach { try? FileManager.default.removeItem(at: $0) } }
    // Files rather than pipes: nothing to drain while the program runs.
    for file in files { try Data().write(to: file) }
    process.standardOutput = try FileHandle(forWritingTo: files[0])
    process.standardError = try FileHandle(forWritingTo: files[1])
    try process.run()
    meanwhile(process)
    process.waitUntilExit()
    let texts = try files.map { try String(contentsOf: $0, encoding: .utf8) }
    return Result(status: process.terminationStatus, output: texts[0], errors: texts[1])
  }
}
