/// The shape into which a sequence of tokens is folded: an order-m tensor `n_1 × … × n_m`.
///
/// Token `t` has the coordinates
///
///     s_m = 1,   s_k = n_{k+1} · … · n_m
///     a_k(t) = ⌊t / s_k⌋ mod n_k   for k > 1,      a_1(t) = ⌊t / s_1⌋
///
/// Mode 1 is the slowest one (the *top* mode); its coordinate is not reduced, so it grows with the
/// sequence. Mode m is the *lowest*: neighboring tokens differ in it. Folding is index arithmetic;
/// no tensor is copied or transposed in memory to fold it.
///
/// Source: Feng, Ying, Tassiulas, "Long Sequence Modeling with Attention Tensorization", section 3.1.
public struct Fold: Sendable, Hashable {
  /// The mode sizes `n_1, …, n_m`, all at least 1.
  public let sizes: [Int]

  /// The strides `s_1, …, s_m` in tokens.
  public let strides: [Int]

  /// Creates a fold from its mode sizes.
  ///
  /// - Precondition: there is at least one size, every size is at least 1, and their product fits
  ///   an `Int`.
  public init(_ sizes: [Int]) {
    require(!sizes.isEmpty, "A fold needs at least one mode, got none.")
    require(
      sizes.allSatisfy { $0 >= 1 }, "Every mode size must be at least 1, got \(sizes).")
    var strides = [Int](repeating: 1, count: sizes.count)
    for k in stride(from: sizes.count - 2, through: 0, by: -1) {
      let (product, overflow) = strides[k + 1].multipliedReportingOverflow(by: sizes[k + 1])
      require(!overflow, "The product of the mode sizes \(sizes) overflows.")
      strides[k] = product
    }
    require(
      !strides[0].multipliedReportingOverflow(by: sizes[0]).overflow,
      "The product of the mode sizes \(sizes) overflows.")
    self.sizes = sizes
    self.strides = strides
  }

  /// The number m of modes.
  public var order: Int { sizes.count }

  /// The number of tokens that the fold holds: the product of its sizes.
  public var capacity: Int { sizes[0] * strides[0] }

  /// The number of keys that a token meets at most, one pass after the other: `Σ n_k`.
  public var keysPerToken: Int { sizes.reduce(0, +) }

  /// The modes from the top one (k = 1) to the lowest (k = m).
  public var modes: [Mode] {
    sizes.indices.map {
      Mode(index: $0 + 1, size: sizes[$0], stride: strides[$0], isLowest: $0 == order - 1)
    }
  }

  /// The coordinate `a_k` of a token.
  ///
  /// - Parameters:
  ///   - token: the position t ≥ 0 in the sequence.
  ///   - mode: k, counted from 1 (top) to m (lowest).
  public func coordinate(of token: Int, mode: Int) -> Int {
    let a = token / strides[mode - 1]
    return mode == 1 ? a : a % sizes[mode - 1]
  }

  /// All coordinates `(a_1, …, a_m)` of a token.
  public func coordinates(of token: Int) -> [Int] {
    (1...order).map { coordinate(of: token, mode: $0) }
  }
}

/// One mode of a ``Fold``.
public struct Mode: Sendable, Hashable {
  /// k, from 1 (top) to m (lowest).
  public let index: Int
  /// The number `n_k` of coordinates.
  public let size: Int
  /// The distance `s_k` in tokens between neighbors along this mode.
  public let stride: Int
  /// Whether this is mode m, whose stride is 1.
  public let isLowest: Bool

  /// Creates a mode; ``Fold/modes`` is the usual way to get one.
  public init(index: Int, size: Int, stride: Int, isLowest: Bool) {
    self.index = index
    self.size = size
    self.stride = stride
    self.isLowest = isLowest
  }
}

extension Fold: LosslessStringConvertible {
  /// Reads the form `32x32x32`; returns nil for anything else, and for sizes below 1.
  public init?(_ description: String) {
    let parts = description.split(separator: "x", omittingEmptySubsequences: false)
    let sizes = parts.compactMap { Int($0) }
    guard !sizes.isEmpty, sizes.count == parts.count, sizes.allSatisfy({ $0 >= 1 }) else {
      return nil
    }
    var product = 1
    for size in sizes {
      let (next, overflow) = product.multipliedReportingOverflow(by: size)
      if overflow { return nil }
      product = next
    }
    self.init(sizes)
  }

  /// The form `32x32x32`, top mode first.
  public var description: String { sizes.map(String.init).joined(separator: "x") }
}

extension Fold: Codable {
  /// Decodes the form `"32x32x32"`.
  public init(from decoder: any Decoder) throws {
    let container = try decoder.singleValueContainer()
    let text = try container.decode(String.self)
    guard let fold = Fold(text) else {
      throw DecodingError.dataCorruptedError(
        in: container,
        debugDescription: "Expected a fold such as \"32x32x32\", found \"\(text)\".")
    }
    self = fold
  }

  /// Encodes as `"32x32x32"`.
  public func encode(to encoder: any Encoder) throws {
    var container = encoder.singleValueContainer()
    try container.encode(description)
  }
}
