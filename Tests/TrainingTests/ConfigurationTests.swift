import Foundation
import TestSupport
import Testing
import Training

@Suite("Configuration files")
struct ConfigurationTests {
  private func decode(_ json: String) throws -> RunConfiguration {
    try ConfigurationFile.decode(Data(json.utf8), over: RunConfiguration(), path: "run.json")
  }

  @Test("A file states only what differs")
  func overlay() throws {
    let read = try decode(
      #"{"training": {"steps": 7, "learningRate": 0.25, "seed": 18446744073709551615},"#
        + #" "model": {"hidden_size": 64, "tie_word_embeddings": false, "attention": "window:32"}}"#
    )
    var expected = RunConfiguration()
    expected.training.steps = 7
    expected.training.learningRate = 0.25
    expected.training.seed = .max
    expected.model.width = 64
    expected.model.isHeadTied = false
    expected.model.attention = try .init(parsing: "window:32")
    #expect(read == expected)
    #expect(try decode("{}") == RunConfiguration())
  }

  @Test("What is written is read back")
  func roundTrip() throws {
    var configuration = RunConfiguration()
    configuration.training.learningRate = 0.1 + 0.2
    configuration.model.attention = try .init(parsing: "3*window:128+tensorized:32x128,per-mode")
    let data = try JSONEncoder().encode(configuration)
    let read = try ConfigurationFile.decode(data, over: RunConfiguration(), path: "run.json")
    #expect(read == configuration)
  }

  @Test(
    "A misspelled key is named, with those that exist",
    arguments: [
      (#"{"trainin": {}}"#, "trainin"), (#"{"training": {"step": 5}}"#, "training.step"),
    ])
  func unknownKeys(json: String, key: String) {
    #expect {
      try decode(json)
    } throws: { error in
      guard case ConfigurationError.unknownKeys("run.json", [key], _) = error else { return false }
      return "\(error)".contains(key)
    }
  }

  @Test(
    "A value of the wrong kind is named",
    arguments: [
      (#"{"training": {"steps": "many"}}"#, "training.steps"),
      (#"{"model": {"attention": "flash"}}"#, "model.attention"),
      (#"[1, 2]"#, "no JSON object"), (#"{"training""#, "no JSON object"),
    ])
  func malformed(json: String, hint: String) {
    #expect {
      try decode(json)
    } throws: { error in
      guard case ConfigurationError.malformed = error else { return false }
      return "\(error)".contains(hint)
    }
  }

  @Test("Values out of their range are refused by name")
  func ranges() throws {
    let changes: [(String, (inout TrainingConfiguration) -> Void)] = [
      ("steps", { $0.steps = 0 }), ("context", { $0.context = 0 }),
      ("batchSize", { $0.batchSize = -1 }), ("accumulation", { $0.accumulation = 0 }),
      ("learningRate", { $0.learningRate = 0 }), ("learningRate", { $0.learningRate = .nan }),
      ("beta2", { $0.beta2 = 1 }), ("clipNorm", { $0.clipNorm = -1 }),
    ]
    for (key, change) in changes {
      var configuration = TrainingConfiguration()
      change(&configuration)
      #expect {
        try configuration.validate()
      } throws: { error in
        guard case ConfigurationError.outOfRange(key: key, _, _) = error else { return false }
        return true
      }
    }
    try TrainingConfiguration().validate()
  }

  @Test("A missing file is an error with its path")
  func missing() {
    #expect {
      try ConfigurationFile.read("/no/such.json", over: RunConfiguration())
    } throws: {
      "\($0)".contains("/no/such.json")
    }
  }
}

@Suite("Metrics")
struct MetricsTests {
  @Test("Lines after the checkpoint are dropped when a run continues, and a torn line is ignored")
  func continuing() throws {
    let folder = try TemporaryFolder()
    let path = folder.path("metrics.jsonl")
    let first = try MetricsFile(path: path, continuingAfter: 0)
    for step in 1...5 { try first.append(MetricsLine(step: step, loss: Double(step))) }
    let torn = try Data(contentsOf: URL(fileURLWithPath: path)) + Data(#"{"step": 6, "lo"#.utf8)
    try torn.write(to: URL(fileURLWithPath: path))
    let second = try MetricsFile(path: path, continuingAfter: 3)
    try second.append(MetricsLine(step: 4, loss: 40, validationLoss: 2))
    let lines = try MetricsFile.read(path)
    #expect(lines.map(\.step) == [1, 2, 3, 4])
    #expect(lines.last?.loss == 40)
    #expect(lines.last?.validationLoss == 2)
  }

  @Test("What is nil is not written")
  func absent() throws {
    let text = String(decoding: try JSONEncoder().encode(MetricsLine(step: 3)), as: UTF8.self)
    #expect(text == #"{"step":3}"#)
  }
}
