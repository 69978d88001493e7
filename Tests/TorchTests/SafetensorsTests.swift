import Foundation
import Testing
import Torch

@Suite("Safetensors files")
struct SafetensorsTests {
  /// A file with this header and so many bytes of data.
  static func file(_ header: String, data: Int = 0) -> Data {
    file(Data(header.utf8), data: data)
  }

  static func file(_ header: Data, length: UInt64? = nil, data: Int = 0) -> Data {
    let length = (length ?? UInt64(header.count)).littleEndian
    return withUnsafeBytes(of: length) { Data($0) } + header + Data(count: data)
  }

  @Test func `all types, shapes and texts come back as they were written`() throws {
    var tensors = Dictionary(
      uniqueKeysWithValues: DType.allCases.map {
        ("\($0)", Tensor([0.0, 1, 1, 0, 1, 0], shape: [2, 3], dtype: $0))
      })
    tensors["scalar"] = Tensor(scalar: -1.5)
    tensors["empty"] = Tensor.zeros([0, 4])
    tensors["transposed ⊤ \"quoted\" a/b"] = counting([2, 3]).transpose()
    let metadata = ["format": "pt", "note": "zwölf\n\"x\""]
    try withTemporaryFile { path in
      try SafetensorsFile.write(tensors, metadata: metadata, to: path)
      let file = try SafetensorsFile(path)
      #expect(file.metadata == metadata)
      #expect(file.names == tensors.keys.sorted())
      let read = try file.tensors()
      for (name, tensor) in tensors {
        let found = try #require(read[name])
        #expect(found.dtype == tensor.dtype && found.shape == tensor.shape, "\(name)")
        #expect(found.isEqual(to: tensor), "\(name)")
      }
      #expect(!FileManager.default.fileExists(atPath: path + ".partial"))
    }
  }

  @Test func `files without tensors, and tensors alone, work`() throws {
    try withTemporaryFile { path in
      try SafetensorsFile.write([:], to: path)
      #expect(try SafetensorsFile(path).tensors().isEmpty)
      try SafetensorsFile.write(["x": counting([2])], to: path)
      let file = try SafetensorsFile(path)
      #expect(file.metadata.isEmpty)
      #expect(try file.tensor("x").array() == [1, 2])
      #expect(throws: SafetensorsError.missing(path: path, name: "y")) { try file.tensor("y") }
    }
  }

  @Test func `the bytes are those of the format`() throws {
    // Written by the format's Python package 0.8: save({"b": int16 [1, -2], "a": float32 [[0.5]]}).
    let header =
      #"{"__metadata__":{"k":"v"},"a":{"dtype":"F32","shape":[1,1],"data_offsets":[0,4]},"#
      + #""b":{"dtype":"I16","shape":[2],"data_offsets":[4,8]}}"#
    let padded = header + String(repeating: " ", count: (8 - header.utf8.count % 8) % 8)
    let data: [UInt8] = [0, 0, 0, 0x3F, 1, 0, 0xFE, 0xFF]
    let bytes = Self.file(padded) + Data(data)
    try withTemporaryFile { path in
      try bytes.write(to: URL(fileURLWithPath: path))
      let file = try SafetensorsFile(path)
      #expect(file.metadata == ["k": "v"])
      #expect(try file.tensor("a").array() == [0.5])
      #expect(try file.tensor("b").array(Int16.self) == [1, -2])
      try SafetensorsFile.write(try file.tensors(), metadata: file.metadata, to: path)
      let rewritten = try Data(contentsOf: URL(fileURLWithPath: path))
      #expect(rewritten.count == bytes.count)
      #expect(rewritten.suffix(8) == Data(data))
      #expect(try SafetensorsFile(path).entries == file.entries)
    }
  }

  struct Lie: Sendable, CustomTestStringConvertible {
    let name: String
    let bytes: Data
    let sentence: String
    var testDescription: String { name }
  }

  static func tensor(_ fields: String, data: Int = 4) -> Data {
    file("{\"x\":{\(fields)}}", data: data)
  }

  static let lies: [Lie] = [
    Lie(name: "no bytes", bytes: Data(), sentence: "it has 0 bytes"),
    Lie(name: "seven bytes", bytes: Data(count: 7), sentence: "it has 7 bytes"),
    Lie(name: "no header", bytes: Data(count: 8), sentence: "starts with '{'"),
    Lie(
      name: "a header longer than the file", bytes: file(Data("{}".utf8), length: 3),
      sentence: "claims 3 bytes in a file of 10"),
    Lie(
      name: "a header of 2⁶⁴ − 1 bytes", bytes: file(Data("{}".utf8), length: .max),
      sentence: "claims 18446744073709551615 bytes"),
    Lie(
      name: "a header of 2⁶³ bytes", bytes: file(Data("{}".utf8), length: 1 << 63),
      sentence: "claims 9223372036854775808 bytes"),
    Lie(name: "half a header", bytes: file("{\"x\":"), sentence: "no valid JSON"),
    Lie(name: "a list as header", bytes: file("[]"), sentence: "starts with '{'"),
    Lie(name: "text after the header", bytes: file("{}x"), sentence: "no valid JSON"),
    Lie(
      name: "bytes that are no UTF-8", bytes: file(Data([0x7B, 0x22, 0xFF, 0x22, 0x3A, 0x7D])),
      sentence: "no valid JSON"),
    Lie(
      name: "UTF-16", bytes: file(Data([0x7B, 0, 0x7D, 0])), sentence: "no UTF-8 text"),
    Lie(
      name: "deep nesting", bytes: file("{\"x\":" + String(repeating: "[", count: 100_000)),
      sentence: "no valid JSON"),
    Lie(
      name: "metadata that is no text", bytes: file(#"{"__metadata__":{"a":1}}"#),
      sentence: "no valid JSON"),
    Lie(
      name: "data without tensors", bytes: file("{}", data: 1),
      sentence: "describes 0 bytes of tensors but 1 follow"),
    Lie(
      name: "missing data",
      bytes: tensor(#""dtype":"F32","shape":[1],"data_offsets":[0,4]"#, data: 3),
      sentence: "describes 4 bytes of tensors but 3 follow"),
    Lie(
      name: "surplus data",
      bytes: tensor(#""dtype":"F32","shape":[1],"data_offsets":[0,4]"#, data: 5),
      sentence: "describes 4 bytes of tensors but 5 follow"),
    Lie(
      name: "an unknown type", bytes: tensor(#""dtype":"F31","shape":[1],"data_offsets":[0,4]"#),
      sentence: "unsupported type 'F31'"),
    Lie(
      name: "a shape of more bytes",
      bytes: tensor(#""dtype":"F32","shape":[2],"data_offsets":[0,4]"#),
      sentence: "needs 8 bytes but has the offsets [0, 4]"),
    Lie(
      name: "a shape of fewer bytes",
      bytes: tensor(#""dtype":"I8","shape":[2],"data_offsets":[0,4]"#),
      sentence: "needs 2 bytes"),
    Lie(
      name: "a negative extent", bytes: tensor(#""dtype":"I8","shape":[-4],"data_offsets":[0,4]"#),
      sentence: "impossible shape [-4]"),
    Lie(
      name: "two negative extents",
      bytes: tensor(#""dtype":"I8","shape":[-2,-2],"data_offsets":[0,4]"#),
      sentence: "impossible shape [-2, -2]"),
    Lie(
      name: "a shape that overflows",
      bytes: tensor(
        #""dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,4]"#),
      sentence: "impossible shape"),
    Lie(
      name: "an extent beyond 64 bits",
      bytes: tensor(#""dtype":"I8","shape":[18446744073709551620],"data_offsets":[0,4]"#),
      sentence: "no valid JSON"),
    Lie(
      name: "negative offsets", bytes: tensor(#""dtype":"I8","shape":[4],"data_offsets":[-4,0]"#),
      sentence: "has the offsets [-4, 0]"),
    Lie(
      name: "offsets in reverse", bytes: tensor(#""dtype":"I8","shape":[4],"data_offsets":[4,0]"#),
      sentence: "has the offsets [4, 0]"),
    Lie(
      name: "offsets whose difference overflows",
      bytes: tensor(
        #""dtype":"I8","shape":[4],"data_offsets":[-9223372036854775808,9223372036854775807]"#),
      sentence: "has the offsets"),
    Lie(
      name: "three offsets", bytes: tensor(#""dtype":"I8","shape":[4],"data_offsets":[0,4,4]"#),
      sentence: "has the offsets [0, 4, 4]"),
    Lie(
      name: "offsets beyond the file",
      bytes: tensor(#""dtype":"I8","shape":[4],"data_offsets":[4,8]"#),
      sentence: "starts at byte 4 of the data where 0 was expected"),
    Lie(name: "no offsets", bytes: tensor(#""dtype":"I8","shape":[4]"#), sentence: "no valid JSON"),
    Lie(
      name: "a field that is repeated",
      bytes: tensor(#""dtype":"I8","dtype":"U8","shape":[4],"data_offsets":[0,4]"#),
      sentence: "repeats a name"),
    Lie(
      name: "a name that is repeated",
      bytes: file(
        #"{"x":{"dtype":"I8","shape":[4],"data_offsets":[0,4]},"#
          + #""x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#, data: 4),
      sentence: "repeats a name"),
    Lie(
      name: "tensors that overlap",
      bytes: file(
        #"{"x":{"dtype":"I8","shape":[4],"data_offsets":[0,4]},"#
          + #""y":{"dtype":"I8","shape":[4],"data_offsets":[2,6]}}"#, data: 6),
      sentence: "tensor 'y' starts at byte 2 of the data where 4 was expected"),
    Lie(
      name: "tensors with a gap",
      bytes: file(
        #"{"x":{"dtype":"I8","shape":[4],"data_offsets":[0,4]},"#
          + #""y":{"dtype":"I8","shape":[4],"data_offsets":[6,10]}}"#, data: 10),
      sentence: "tensor 'y' starts at byte 6 of the data where 4 was expected"),
  ]

  @Test(arguments: lies)
  func `a lying file is refused with what is wrong`(lie: Lie) throws {
    try withTemporaryFile { path in
      try lie.bytes.write(to: URL(fileURLWithPath: path))
      #expect {
        try SafetensorsFile(path)
      } throws: { error in
        guard case SafetensorsError.malformed(path, let reason) = error else { return false }
        return reason.contains(lie.sentence)
      }
    }
  }

  @Test func `a file cut anywhere, or with any byte changed, never crashes`() throws {
    try withTemporaryFile { path in
      let url = URL(fileURLWithPath: path)
      try SafetensorsFile.write(["x": counting([3]), "y": Tensor([true, false])], to: path)
      let bytes = try Data(contentsOf: url)
      for count in 0..<bytes.count {
        try bytes.prefix(count).write(to: url)
        #expect(throws: SafetensorsError.self) { try SafetensorsFile(path).tensors() }
      }
      for index in bytes.indices {
        for change: UInt8 in [0x01, 0x10, 0x80, 0xFF] {
          var changed = bytes
          changed[index] ^= change
          try changed.write(to: url)
          // Either refused, or read as a file of the right size: a name or an element changed.
          if let tensors = try? SafetensorsFile(path).tensors() {
            #expect(tensors.values.reduce(0) { $0 + $1.byteCount } == 14)
          }
        }
      }
    }
  }

  @Test func `a file that shrinks after opening throws instead of reading beyond it`() throws {
    try withTemporaryFile { path in
      try SafetensorsFile.write(["x": counting([1000])], to: path)
      let file = try SafetensorsFile(path)
      #expect(truncate(path, 200) == 0)
      #expect(
        throws: SafetensorsError.unreadable(
          path: path, reason: "it became shorter while it was read")
      ) { try file.tensor("x") }
    }
  }

  @Test func `paths that are no file throw`() throws {
    try withTemporaryFile { path in
      #expect { try SafetensorsFile(path) } throws: { "\($0)".contains("No such file") }
      let folder = URL(fileURLWithPath: path).deletingLastPathComponent().path
      #expect { try SafetensorsFile(folder) } throws: { "\($0)".contains("not a regular file") }
      #expect {
        try SafetensorsFile.write([:], to: folder + "/none/x.safetensors")
      } throws: {
        "\($0)".contains("No such file") && "\($0)".contains("Could not write")
      }
      #expect(throws: SafetensorsError.self) {
        try SafetensorsFile.write(["__metadata__": counting([1])], to: path)
      }
    }
  }

  @Test func `a full disk throws, and the file that was there survives`() async {
    await #expect(processExitsWith: .success) {
      try withTemporaryFile { path in
        try SafetensorsFile.write(["x": counting([3])], to: path)
        // A limit on the size of files stands in for the disk's.
        signal(SIGXFSZ, SIG_IGN)
        var limit = rlimit(rlim_cur: 4096, rlim_max: 4096)
        #expect(setrlimit(__rlimit_resource_t(RLIMIT_FSIZE.rawValue), &limit) == 0)
        #expect {
          try SafetensorsFile.write(["x": Tensor.zeros([100_000])], to: path)
        } throws: { error in
          guard case SafetensorsError.unwritable(path, let reason) = error else { return false }
          return reason == "File too large"
        }
        #expect(try SafetensorsFile(path).tensor("x").array() == [1, 2, 3])
        #expect(!FileManager.default.fileExists(atPath: path + ".partial"))
      }
    }
  }
}
