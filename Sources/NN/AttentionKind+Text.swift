import Folding

/// Why a description of attention cannot be read.
public struct AttentionKindError: Error, Equatable, CustomStringConvertible {
  /// The sentence to print: what was expected, what was found.
  public let description: String

  init(_ description: String) { self.description = description }
}

extension AttentionKind: CustomStringConvertible {
  /// Reads one kind.
  ///
  /// - Throws: ``AttentionKindError``, also for attention that is not causal.
  public init(parsing text: String) throws {
    let parts = text.split(separator: ":", maxSplits: 1, omittingEmptySubsequences: false)
    switch (parts.first.map(String.init), parts.dropFirst().first.map(String.init)) {
    case ("full", nil):
      self = .full
    case ("window", .some(let size)):
      guard let size = Int(size), size >= 1 else {
        throw AttentionKindError(
          "Expected a window of at least one token, such as window:128, found \(text).")
      }
      self = .window(size)
    case ("tensorized", .some(let options)):
      self = try TensorizedOptions(options.split(separator: ",").map(String.init), in: text).kind
    default:
      throw AttentionKindError(
        "Expected full, window:SIZE or tensorized:FOLD[,OPTION…], found \"\(text)\".")
    }
  }

  /// The form that ``init(parsing:)`` reads.
  public var description: String {
    switch self {
    case .full: return "full"
    case .window(let size): return "window:\(size)"
    case .tensorized(let pattern, let beta):
      var options = [
        pattern.fold.description, pattern.support.rawValue, pattern.normalization.rawValue,
      ]
      if pattern.order != .lowToHigh { options.append(pattern.order.rawValue) }
      if pattern.rotary.positions != .mode {
        options.append("positions:\(pattern.rotary.positions.rawValue)")
      }
      if beta != Self.defaultInitialBeta {
        options.append("beta:" + (beta.map { "\($0)" } ?? "none"))
      }
      return "tensorized:" + options.joined(separator: ",")
    }
  }
}

extension AttentionKind: Codable {
  /// Decodes the textual form.
  public init(from decoder: any Decoder) throws {
    let container = try decoder.singleValueContainer()
    do {
      try self.init(parsing: container.decode(String.self))
    } catch let error as AttentionKindError {
      throw DecodingError.dataCorruptedError(in: container, debugDescription: error.description)
    }
  }

  /// Encodes the textual form.
  public func encode(to encoder: any Encoder) throws {
    var container = encoder.singleValueContainer()
    try container.encode(description)
  }
}

/// What follows `tensorized:`.
private struct TensorizedOptions {
  let fold: Fold
  var support = Support.slidingCausal
  var normalization: Normalization?
  var order = ChainOrder.lowToHigh
  var positions = Rotary.Positions.mode
  var beta: Double? = AttentionKind.defaultInitialBeta

  init(_ options: [String], in text: String) throws {
    guard let first = options.first, let fold = Fold(first) else {
      throw AttentionKindError(
        "Expected a fold such as tensorized:32x128, found \"\(text)\".")
    }
    self.fold = fold
    for option in options.dropFirst() where !read(option) {
      let words =
        [Support.slidingCausal, .blockCausal].map(\.rawValue)
        + Normalization.allCases.map(\.rawValue) + ChainOrder.allCases.map(\.rawValue)
      throw AttentionKindError(
        "\"\(option)\" in \"\(text)\" is none of: \(words.joined(separator: ", ")), "
          + "positions:none|mode|sequence, beta:NUMBER|none.")
    }
    guard support.isCausal else {
      throw AttentionKindError(
        "A language model needs causal attention; \"\(text)\" lets a token see later ones. "
          + "Use sliding-causal or block-causal.")
    }
    if normalization == .joint, order == .highToLow {
      throw AttentionKindError(
        "Joint normalization carries the log-sum-exp upwards and needs low-to-high; "
          + "\"\(text)\" asks for high-to-low. Use per-mode, or low-to-high.")
    }
  }

  /// Takes one option, false if it is none.
  private mutating func read(_ option: String) -> Bool {
    let parts = option.split(separator: ":", maxSplits: 1, omittingEmptySubsequences: false)
    if parts.count == 1 {
      if let value = Support(rawValue: option) { support = value; return true }
      if let value = Normalization(rawValue: option) { normalization = value; return true }
      if let value = ChainOrder(rawValue: option) { order = value; return true }
      return false
    }
    switch parts[0] {
    case "positions":
      guard let value = Rotary.Positions(rawValue: String(parts[1])) else { return false }
      positions = value
    case "beta":
      let number = Double(parts[1])
      guard parts[1] == "none" || number?.isFinite == true else { return false }
      beta = number
    default:
      return false
    }
    return true
  }

  var kind: AttentionKind {
    .tensorized(
      AttentionPattern(
        fold: fold, support: support,
        normalization: normalization ?? (order == .lowToHigh ? .joint : .perMode), order: order,
        rotary: Rotary(positions)),
      initialBeta: beta)
  }
}
