import Foundation
import Testing
import Torch

/// A call of a wrapper and what it must return.
struct Case: Sendable, CustomTestStringConvertible {
  let name: String
  let shape: [Int]
  let expected: [Double]
  let compute: @Sendable () -> Tensor

  var testDescription: String { name }

  init(
    _ name: String, _ expected: [Double], shape: [Int]? = nil,
    _ compute: @escaping @Sendable () -> Tensor
  ) {
    self.name = name
    self.expected = expected
    self.shape = shape ?? [expected.count]
    self.compute = compute
  }

  func check(sourceLocation: SourceLocation = #_sourceLocation) {
    expectEqual(compute(), expected, shape: shape, sourceLocation: sourceLocation)
  }
}

/// Expects a shape and elements, up to a few roundings of float32, and shows the worst element.
func expectEqual(
  _ tensor: Tensor, _ expected: [Double], shape: [Int]? = nil,
  sourceLocation: SourceLocation = #_sourceLocation
) {
  #expect(tensor.shape == shape ?? [expected.count], sourceLocation: sourceLocation)
  let found = tensor.array(Double.self)
  guard found.count == expected.count else {
    Issue.record("\(found.count) elements, not \(expected.count)", sourceLocation: sourceLocation)
    return
  }
  // Elementwise functions are good to a few units in the last place of float32.
  let unit = Double(Float.ulpOfOne)
  let errors = zip(found, expected).map { pair in
    pair.0 == pair.1 || (pair.0.isNaN && pair.1.isNaN)
      ? 0 : abs(pair.0 - pair.1) / (unit * max(abs(pair.1), 1))
  }
  guard let worst = errors.indices.max(by: { errors[$0] < errors[$1] }) else { return }
  #expect(
    errors[worst] <= 8,
    "element \(worst): \(found[worst]), expected \(expected[worst]), \(errors[worst]) ulp",
    sourceLocation: sourceLocation)
}

/// 1, 2, …, the product of the extents, as float32.
func counting(_ shape: [Int]) -> Tensor {
  Tensor.arange(1, shape.reduce(1, *) + 1, dtype: .float32).reshape(shape)
}

/// A vector of float32.
func vector(_ elements: [Double]) -> Tensor { Tensor(elements, dtype: .float32) }

/// A path in a new folder, which is removed after `body`.
func withTemporaryFile(_ body: (String) throws -> Void) throws {
  let folder = FileManager.default.temporaryDirectory
    .appendingPathComponent("TorchTests-\(UUID().uuidString)")
  try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
  defer { try? FileManager.default.removeItem(at: folder) }
  try body(folder.appendingPathComponent("test.safetensors").path)
}

/// Bytes of the process that are in memory.
func residentByteCount() -> Int {
  let status = (try? String(contentsOfFile: "/proc/self/statm", encoding: .utf8)) ?? ""
  let pages = status.split(separator: " ").dropFirst().first.flatMap { Int($0) } ?? 0
  return pages * 4096
}
