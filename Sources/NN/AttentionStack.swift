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

  /// Checks that every layer can see `tokens` tokens.
  ///
  /// - Throws: ``AttentionKindError``.
  public func requireRoom(tokens: Int) throws {
    for kind in kinds {
      if let objection = kind.objection(tokens: tokens) { throw AttentionKindError(objection) }
    }
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
