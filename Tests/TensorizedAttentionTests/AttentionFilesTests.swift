import Folding
import Foundation
import TensorizedAttention
import TestSupport
import Testing
import Torch

@Suite struct AttentionFilesTests {
  let folder: TemporaryFolder
  var input: String { folder.path("in.safetensors") }
  var output: String { folder.path("out.safetensors") }

  init() throws { folder = try TemporaryFolder() }

  static let pattern: AttentionPattern = AttentionPattern(
    fold: Fold([5, 4]), support: .slidingCausal, rotary: Rotary(.mode))

  /// B 2, H 4, G 2, N 18, D 8, with everything optional.
  static func tensors(_ dtype: DType = .float64) -> [String: Tensor] {
    var numbers = Numbers(seed: 4)
    return [
      "q": numbers.tensor([2, 4, 18, 8], dtype), "k": numbers.tensor([2, 2, 18, 8], dtype),
      "v": numbers.tensor([2, 2, 18, 8], dtype), "beta": numbers.tensor([2, 4], dtype),
      "mode_bias_1": numbers.tensor([1, 5], dtype), "mode_bias_2": numbers.tensor([4, 4], dtype),
      "lengths": Tensor([18, 11] as [Int32]), "grad_output": numbers.tensor([2, 4, 18, 8], dtype),
      "unrelated": Tensor([1] as [Int64]),
    ]
  }

  private func attend(
    _ tensors: [String: Tensor], pattern: AttentionPattern = Self.pattern,
    backend: Backend = .automatic, dtype: DType? = nil
  ) throws -> [String: Tensor] {
    try SafetensorsFile.write(tensors, to: input)
    try AttentionFiles(pattern: pattern, backend: backend, dtype: dtype)
      .attend(input, to: output)
    return try SafetensorsFile(output).tensors()
  }

  @Test(
    "results are those of the call, in the type asked for",
    arguments: [
      (Backend.reference, DType.float64), (.composed, .float64), (.composed, .float32),
      (.cpu, .float32), (.reference, .float32),
    ])
  func roundTrip(backend: Backend, dtype: DType) throws {
    let tensors = Self.tensors()
    let found = try attend(tensors, backend: backend, dtype: dtype)
    let names = [
      "output", "lse", "grad_q", "grad_k", "grad_v", "grad_beta", "grad_mode_bias_1",
      "grad_mode_bias_2",
    ]
    #expect(Set(found.keys) == Set(names))
    let expected = Self.expected(tensors)
    for name in names {
      let (x, y) = (try #require(found[name]), try #require(expected[name]))
      #expect(x.dtype == dtype && x.shape == y.shape)
      // Padded rows have log-sum-exp −∞ in both.
      let difference = Tensor.select(x.to(.float64) .== y, y.zerosLike(), x.to(.float64) - y)
      #expect(difference.abs().max().item() < (dtype == .float64 ? 1e-12 : 1e-4), "\(name)")
    }
  }

  @Test("half types are attended as such", arguments: [DType.bfloat16, .float16])
  func halfTypes(dtype: DType) throws {
    let tensors = Self.tensors()
    let found = try attend(tensors, backend: .composed, dtype: dtype)
    let expected = Self.expected(tensors)
    for name in ["output", "grad_q", "grad_k", "grad_v"] {
      let (x, y) = (try #require(found[name]), try #require(expected[name]))
      #expect(x.dtype == dtype && x.shape == y.shape)
      let error = (x.to(.float64) - y).norm().item() / y.norm().item()
      #expect(error > 0 && error < 0.05, "\(name) errs by \(error)")
    }
  }

  private static func expected(_ tensors: [String: Tensor]) -> [String: Tensor] {
    let names = ["q", "k", "v", "beta", "mode_bias_1", "mode_bias_2"]
    let inputs = names.compactMap { tensors[$0]?.cloned() }
    for input in inputs { input.requiresGrad = true }
    let (output, lse) = tensorizedAttention(
      queries: inputs[0], keys: inputs[1], values: inputs[2], pattern: pattern, beta: inputs[3],
      modeBiases: [inputs[4], inputs[5]], lengths: [18, 11], backend: .reference)
    let gradients = Autograd.gradients(
      of: [output], by: inputs, gradients: [tensors["grad_output"]])
    var results = ["output": output.detached(), "lse": lse.detached()]
    for (name, gradient) in zip(names, gradients) { results["grad_\(name)"] = gradient }
    return results
  }

  @Test("without grad_output there are no gradients; f16 is converted")
  func forwardOnly() throws {
    var tensors = Self.tensors(.float16)
    tensors["grad_output"] = nil
    let found = try attend(tensors)
    #expect(Set(found.keys) == ["output", "lse"])
    #expect(found["output"]?.dtype == .float32)
    #expect(found["lse"]?.shape == [2, 4, 18])
  }

  @Test("beta of order 1 gets a gradient of zero", arguments: [Backend.cpu, .composed, .reference])
  func orderOne(backend: Backend) throws {
    var tensors = Self.tensors(.float32)
    for name in ["mode_bias_1", "mode_bias_2", "lengths"] { tensors[name] = nil }
    tensors["beta"] = Tensor.ones([1, 4])
    let found = try attend(
      tensors, pattern: AttentionPattern(fold: Fold([18])), backend: backend)
    #expect(found["grad_beta"]?.abs().max().item() == 0)
    #expect(found["grad_beta"]?.shape == [1, 4])
  }

  /// A change that spoils the tensors, and words that the error must say.
  struct Fault: Sendable, CustomTestStringConvertible {
    let testDescription: String
    let words: [String]
    var pattern: AttentionPattern = AttentionFilesTests.pattern
    let spoil: @Sendable (inout [String: Tensor]) -> Void
  }

  static let allFaults: [Fault] = [
    Fault(testDescription: "no k", words: ["'k' is missing", "beta"]) { $0["k"] = nil },
    Fault(testDescription: "nothing at all", words: ["'q' is missing", "none"]) { $0 = [:] },
    Fault(testDescription: "three axes", words: ["[4, 18, 8]"]) { $0["q"] = $0["q"]?[0] },
    Fault(testDescription: "an empty axis", words: ["no empty axis"]) {
      for name in ["q", "k", "v"] { $0[name] = .zeros([2, 2, 0, 8]) }
    },
    Fault(testDescription: "another N", words: ["[2, 2, 17, 8]", "[2, 4, 18, 8]"]) {
      for name in ["k", "v"] { $0[name] = .zeros([2, 2, 17, 8]) }
    },
    Fault(testDescription: "k unlike v", words: ["[2, 2, 18, 6]"]) {
      $0["v"] = .zeros([2, 2, 18, 6])
    },
    Fault(testDescription: "H no multiple of G", words: ["multiple of G"]) {
      for name in ["k", "v"] { $0[name] = .zeros([2, 3, 18, 8]) }
    },
    Fault(testDescription: "integers", words: ["'v'", "int64"]) {
      $0["v"] = .zeros([2, 2, 18, 8], dtype: .int64)
    },
    Fault(testDescription: "beta of another shape", words: ["'beta'", "[2, 4]", "[4]"]) {
      $0["beta"] = .zeros([4])
    },
    Fault(testDescription: "a bias of another mode size", words: ["'mode_bias_2'", "[4, 5]"]) {
      $0["mode_bias_2"] = .zeros([4, 5])
    },
    Fault(testDescription: "a bias of no mode", words: ["'mode_bias_3'", "1 to 2"]) {
      $0["mode_bias_3"] = .zeros([1, 4])
    },
    Fault(testDescription: "grad_output of another shape", words: ["'grad_output'"]) {
      $0["grad_output"] = .zeros([2, 4, 18, 9])
    },
    Fault(testDescription: "lengths beyond N", words: ["between 0 and N = 18", "19"]) {
      $0["lengths"] = Tensor([19, 1] as [Int64])
    },
    Fault(testDescription: "lengths of another batch", words: ["'lengths'", "[3]"]) {
      $0["lengths"] = Tensor([1, 2, 3] as [Int64])
    },
    Fault(
      testDescription: "a fold too small", words: ["4x4 holds 16 tokens", "18", "5x4"],
      pattern: AttentionPattern(fold: Fold([4, 4]), support: .block)
    ) {
      for name in ["mode_bias_1", "mode_bias_2"] { $0[name] = nil }
    },
    Fault(testDescription: "an odd D with positions", words: ["even D"]) {
      for (name, heads) in [("q", 4), ("k", 2), ("v", 2)] { $0[name] = .zeros([2, heads, 18, 7]) }
    },
  ]

  @Test(
    "tensors that do not fit are refused, and nothing is written", arguments: allFaults)
  func faults(fault: Fault) throws {
    var tensors = Self.tensors()
    fault.spoil(&tensors)
    let error = #expect(throws: AttentionFileError.self) {
      try attend(tensors, pattern: fault.pattern)
    }
    let sentence = error?.description ?? ""
    for word in fault.words { #expect(sentence.contains(word), "\(sentence)") }
    #expect(!FileManager.default.fileExists(atPath: output))
  }

  @Test("cpu refuses f64")
  func doubleOnCPU() throws {
    let error = #expect(throws: BackendError.self) {
      try attend(Self.tensors(), backend: .cpu, dtype: .float64)
    }
    #expect(error?.description.contains("float64") == true)
  }

  @Test("files that are missing, cut, lying or no tensors are refused")
  func damagedFiles() throws {
    let files = AttentionFiles(pattern: Self.pattern)
    #expect(throws: SafetensorsError.self) { try files.attend(folder.path("none"), to: output) }
    #expect(throws: SafetensorsError.self) { try files.attend(folder.path, to: output) }
    try SafetensorsFile.write(Self.tensors(), to: input)
    let whole = try Data(contentsOf: URL(fileURLWithPath: input))
    for count in [0, 7, 8, 100, whole.count - 1] {
      try folder.write("in.safetensors", Array(whole.prefix(count)))
      #expect(throws: SafetensorsError.self) { try files.attend(input, to: output) }
    }
    let lie = String(decoding: whole.prefix(2000), as: UTF8.self)
      .replacingOccurrences(of: "[2,4,18,8]", with: "[9,4,18,8]")
    try folder.write("in.safetensors", Array(lie.utf8) + Array(whole.dropFirst(2000)))
    #expect(throws: SafetensorsError.self) { try files.attend(input, to: output) }
    try folder.write("in.safetensors", "no tensors at all")
    #expect(throws: SafetensorsError.self) { try files.attend(input, to: output) }
    #expect(!FileManager.default.fileExists(atPath: output))
  }

  @Test("what was there before survives a file that cannot be written")
  func unwritable() throws {
    try SafetensorsFile.write(Self.tensors(), to: input)
    let files = AttentionFiles(pattern: Self.pattern)
    #expect(throws: SafetensorsError.self) {
      try files.attend(input, to: folder.path("none/out.safetensors"))
    }
    // A folder in the way: the rename fails after all bytes are written.
    try folder.write("taken/file", "precious")
    #expect(throws: SafetensorsError.self) { try files.attend(input, to: folder.path("taken")) }
    #expect(try String(contentsOfFile: folder.path("taken/file"), encoding: .utf8) == "precious")
    let left = try FileManager.default.contentsOfDirectory(atPath: folder.path)
    #expect(left.sorted() == ["in.safetensors", "taken"])
  }
}
