import Foundation
import Models
import NN
import Text
import Torch
import Training

/// The loss of a model on a text by context length and by position, and what it costs.
public struct PerplexityReport: Codable, Sendable, Hashable {
  /// What the model is called.
  public var name: String
  /// The attention of its layers, in textual form.
  public var attention: String
  /// The number of scalars in its parameters.
  public var parameters: Int
  /// The number of validation tokens; the same ones at every length.
  public var tokens: Int
  /// A row a context length.
  public var lengths: [Length]
  /// A row a range of positions, at the longest context.
  public var positions: [Position]

  /// What was measured at one context length.
  public struct Length: Codable, Sendable, Hashable {
    /// The number of tokens in a sequence.
    public var context: Int
    /// The mean loss in nats.
    public var loss: Double
    /// exp(loss).
    public var perplexity: Double
    /// Milliseconds of forward pass for a token, the median over batches.
    public var millisecondsPerToken: Double
    /// By how much the resident memory grew at most in the forward pass of one batch.
    public var peakBytes: Int?

    enum CodingKeys: String, CodingKey {
      case context, loss, perplexity
      case millisecondsPerToken = "ms_per_token"
      case peakBytes = "peak_bytes"
    }
  }

  /// The mean loss at positions `from ..< to` of a sequence.
  public struct Position: Codable, Sendable, Hashable {
    /// The first position.
    public var from: Int
    /// The position after the last.
    public var to: Int
    /// The mean loss in nats.
    public var loss: Double
  }

  /// Evaluates a model.
  ///
  /// - Parameters:
  ///   - contexts: the context lengths, each dividing the longest.
  ///   - tokens: the number of tokens, rounded down to a multiple of the longest context.
  ///   - shouldStop: asked after every batch.
  /// - Throws: ``CorpusError`` if not one longest context fits, ``AttentionKindError`` if a fold has
  ///   no place for it, ``EvaluationError``.
  public init(
    of model: Llama, name: String, text: [UInt8], contexts: [Int], tokens: Int,
    shouldStop: () -> Bool = { Interruption.isRequested }
  ) throws {
    let contexts = contexts.sorted()
    guard let longest = contexts.last, contexts[0] >= 1 else { throw EvaluationError.noContexts }
    if let odd = contexts.first(where: { longest % $0 != 0 }) {
      throw EvaluationError.unevenContexts(odd, longest: longest)
    }
    try model.configuration.attention.requireRoom(tokens: longest)
    let windows = try EvaluationWindows(text: text, tokens: tokens, longestContext: longest)
    self.name = name
    attention = model.configuration.attention.description
    parameters = model.parameterCount
    self.tokens = windows.tokens
    lengths = []
    positions = []
    let perLength = windows.tokens / longest
    let progress = ProgressLine(label: "evaluating \(name)", total: perLength * contexts.count)
    defer { progress.finish() }
    for (index, context) in contexts.enumerated() {
      var measured = LengthMeasurement(context: context)
      // Batches of the same number of tokens at every length, so that times compare.
      for batch in windows.batches(context: context, batchTokens: longest) {
        measured.add(model, batch)
        let done = index * perLength + measured.batches
        progress.update(done, details: "context \(context)  loss \(measured.loss.formatted4)")
        if shouldStop() { throw EvaluationError.interrupted }
      }
      lengths.append(measured.row)
      if context == longest { positions = measured.positions }
    }
  }
}

/// Why an evaluation gave no report.
public enum EvaluationError: Error, Equatable, CustomStringConvertible {
  /// No context length was asked for.
  case noContexts
  /// A context length does not divide the longest one.
  case unevenContexts(Int, longest: Int)
  /// Asked to stop.
  case interrupted

  /// The sentence to print.
  public var description: String {
    switch self {
    case .noContexts:
      "Expected at least one context length of 1 or more, such as 512,1024."
    case .unevenContexts(let context, let longest):
      "Expected context lengths that divide the longest one, \(longest), so that all see the same "
        + "tokens; \(context) does not."
    case .interrupted:
      "Interrupted."
    }
  }
}

/// Collects one row of a report, batch by batch.
private struct LengthMeasurement {
  let context: Int
  private(set) var batches = 0
  private var sums: [Double]
  private var rows = 0
  private var rates: [Double] = []
  private var peakBytes: Int?

  init(context: Int) {
    self.context = context
    sums = Array(repeating: 0, count: context)
  }

  mutating func add(_ model: Llama, _ batch: Batch) {
    // The first batch tells the memory, the others the time: measuring memory gives pages back,
    // which costs time when they are needed again.
    // Only the processor's is seen.
    if batches == 0 {
      let bytes = PeakMemory.growth { tokenLosses(model, batch) }.bytes
      peakBytes = model.device == .cpu ? bytes : nil
    }
    let began = ContinuousClock.now
    // Ends when the numbers are here: a GPU returns before it has computed them.
    let byPosition = tokenLosses(model, batch).to(.float64).sum(axis: 0).array(Double.self)
    let seconds = (ContinuousClock.now - began) / .seconds(1)
    rates.append(seconds * 1000 / Double(batch.inputs.count))
    for (position, sum) in byPosition.enumerated() { sums[position] += sum }
    rows += batch.batchSize
    batches += 1
  }

  var loss: Double { sums.reduce(0, +) / Double(max(rows, 1) * context) }

  var row: PerplexityReport.Length {
    PerplexityReport.Length(
      context: context, loss: loss, perplexity: exp(loss),
      millisecondsPerToken: rates.sorted()[rates.count / 2], peakBytes: peakBytes)
  }

  /// Ranges that double in length from 64 on: 0..<64, 64..<128, 128..<256, …
  var positions: [PerplexityReport.Position] {
    var from = 0
    var result: [PerplexityReport.Position] = []
    while from < context {
      let to = min(context, max(64, 2 * from))
      let mean = sums[from..<to].reduce(0, +) / Double(rows * (to - from))
      result.append(.init(from: from, to: to, loss: mean))
      from = to
    }
    return result
  }
}
