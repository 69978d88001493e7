import Folding

/// Which attention a layer uses. In text and in JSON it is written
///
///     full
///     window:128
///     tensorized:32x128
///     tensorized:32x128,sliding-causal,joint,low-to-high,positions:mode,beta:-2
///
/// where everything after the fold may be left out (the second tensorized form writes the defaults
/// out) and may come in any order.
public enum AttentionKind: Sendable, Hashable {
  /// Ordinary causal attention over all tokens before.
  case full
  /// Causal attention over the last `size` tokens, the query's own included.
  case window(Int)
  /// Tensorized attention. `initialBeta` is the first value of the learned logit bias β, one scalar
  /// a head and mode except the lowest; nil leaves β out.
  case tensorized(AttentionPattern, initialBeta: Double?)

  /// The first β where none is asked for. With joint normalization it makes the far summaries
  /// start at e⁻² of a near key's weight, from where they are learned.
  public static let defaultInitialBeta = -2.0

  /// The largest number of keys that a query of a long sequence meets, nil if it grows with it.
  public var keysPerToken: Int? {
    switch self {
    case .full: nil
    case .window(let size): size
    case .tensorized(let pattern, _): pattern.fold.keysPerToken
    }
  }

  /// A short name for tables and files.
  public var name: String {
    switch self {
    case .full: "full"
    case .window(let size): "window \(size)"
    case .tensorized(let pattern, _): "tensorized \(pattern.fold)"
    }
  }
}

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
      self = try Self.tensorized(options.split(separator: ",").map(String.init), in: text)
    default:
      throw AttentionKindError(
        "Expected full, window:SIZE or tensorized:FOLD[,OPTION…], found \"\(text)\".")
    }
  }

  private static func tensorized(_ options: [String], in text: String) throws -> AttentionKind {
    guard let first = options.first, let fold = Fold(first) else {
      throw AttentionKindError(
        "Expected a fold such as tensorized:32x128, found \"\(text)\".")
    }
    var support = Support.slidingCausal
    var normalization: Normalization?
    var order = ChainOrder.lowToHigh
    var positions = Rotary.Positions.mode
    var beta: Double? = defaultInitialBeta
    for option in options.dropFirst() {
      if let value = Support(rawValue: option) {
        support = value
      } else if let value = Normalization(rawValue: option) {
        normalization = value
      } else if let value = ChainOrder(rawValue: option) {
        order = value
      } else if let name = value(of: "positions", in: option),
        let value = Rotary.Positions(rawValue: name)
      {
        positions = value
      } else if let number = value(of: "beta", in: option),
        number == "none" || Double(number)?.isFinite == true
      {
        beta = Double(number)
      } else {
        throw AttentionKindError(
          "\"\(option)\" in \"\(text)\" is none of: "
            + "\((Support.allCases.filter(\.isCausal).map(\.rawValue) + Normalization.allCases.map(\.rawValue) + ChainOrder.allCases.map(\.rawValue)).joined(separator: ", ")), "
            + "positions:none|mode|sequence, beta:NUMBER|none.")
      }
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
    return .tensorized(
      AttentionPattern(
        fold: fold, support: support,
        normalization: normalization ?? (order == .lowToHigh ? .joint : .perMode), order: order,
        rotary: Rotary(positions)),
      initialBeta: beta)
  }

  private static func value(of key: String, in option: String) -> String? {
    option.hasPrefix(key + ":") ? String(option.dropFirst(key.count + 1)) : nil
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

/// The attention of a stack of layers: a list of kinds that repeats from the first layer to the
/// last.
///
/// Written `window:128` for one kind, `3*window:128+full` for three layers of windows and one of
/// full attention, over and over.
public struct AttentionStack: Sendable, Hashable, CustomStringConvertible {
  /// The kinds of the first layers, at least one.
  public let kinds: [AttentionKind]

  /// Creates a stack.
  public init(_ kinds: [AttentionKind]) {
    precondition(!kinds.isEmpty, "A stack of layers needs at least one kind of attention.")
    self.kinds = kinds
  }

  /// The kind of a layer, counted from 0.
  public subscript(layer layer: Int) -> AttentionKind { kinds[layer % kinds.count] }

  /// Reads the textual form.
  ///
  /// - Throws: ``AttentionKindError``.
  public init(parsing text: String) throws {
    var kinds: [AttentionKind] = []
    for item in text.split(separator: "+", omittingEmptySubsequences: false) {
      let parts = item.split(separator: "*", maxSplits: 1, omittingEmptySubsequences: false)
      guard parts.count == 2 else {
        kinds.append(try AttentionKind(parsing: String(item)))
        continue
      }
      guard let count = Int(parts[0]), (1...1000).contains(count) else {
        throw AttentionKindError(
          "Expected a count from 1 to 1000 before \"*\", such as 3*window:128, found \"\(item)\".")
      }
      let kind = try AttentionKind(parsing: String(parts[1]))
      kinds.append(contentsOf: repeatElement(kind, count: count))
    }
    self.init(kinds)
  }

  /// The form that ``init(parsing:)`` reads.
  public var description: String {
    var runs: [(kind: AttentionKind, count: Int)] = []
    for kind in kinds {
      if let last = runs.last, last.kind == kind {
        runs[runs.count - 1].count += 1
      } else {
        runs.append((kind, 1))
      }
    }
    if runs.count == 1 { return runs[0].kind.description }
    return runs.map { $0.count == 1 ? $0.kind.description : "\($0.count)*\($0.kind)" }
      .joined(separator: "+")
  }

  /// The largest number of keys that a query of a long sequence meets in any layer, nil if it
  /// grows with the sequence.
  public var keysPerToken: Int? {
    kinds.contains { $0.keysPerToken == nil } ? nil : kinds.compactMap(\.keysPerToken).max()
  }

  /// A short name for tables and files.
  public var name: String {
    Set(kinds).count == 1 ? kinds[0].name : kinds.map(\.name).joined(separator: " + ")
  }
}

extension AttentionStack: Codable {
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
