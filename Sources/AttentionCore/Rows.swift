/// Rows of D channels, one for each (batch, head, token), anywhere in memory.
///
/// Strides are in elements and channels are neighbors, so both layouts `[B, H, N, D]` and
/// `[B, N, H, D]` are described without a copy.
public struct Rows<Element> {
  /// The row of batch 0, head 0, token 0.
  public let base: UnsafePointer<Element>
  /// The distance between sequences of the batch.
  public let batchStride: Int
  /// The distance between heads.
  public let headStride: Int
  /// The distance between tokens.
  public let tokenStride: Int

  /// Describes rows in memory.
  @inlinable
  public init(
    _ base: UnsafePointer<Element>, batchStride: Int, headStride: Int, tokenStride: Int
  ) {
    self.base = base
    self.batchStride = batchStride
    self.headStride = headStride
    self.tokenStride = tokenStride
  }

  /// The row of one token.
  @inlinable
  public func row(_ batch: Int, _ head: Int, _ token: Int) -> UnsafePointer<Element> {
    base + (batch * batchStride + head * headStride + token * tokenStride)
  }

  /// The same rows from another sequence and head on.
  public func advanced(batch: Int, head: Int) -> Rows {
    Rows(
      row(batch, head, 0), batchStride: batchStride, headStride: headStride,
      tokenStride: tokenStride)
  }
}

/// Rows of D channels that can be written; see ``Rows``.
public struct MutableRows<Element> {
  /// The row of batch 0, head 0, token 0.
  public let base: UnsafeMutablePointer<Element>
  /// The distance between sequences of the batch.
  public let batchStride: Int
  /// The distance between heads.
  public let headStride: Int
  /// The distance between tokens.
  public let tokenStride: Int

  /// Describes rows in memory.
  @inlinable
  public init(
    _ base: UnsafeMutablePointer<Element>, batchStride: Int, headStride: Int, tokenStride: Int
  ) {
    self.base = base
    self.batchStride = batchStride
    self.headStride = headStride
    self.tokenStride = tokenStride
  }

  /// The row of one token.
  @inlinable
  public func row(_ batch: Int, _ head: Int, _ token: Int) -> UnsafeMutablePointer<Element> {
    base + (batch * batchStride + head * headStride + token * tokenStride)
  }

  /// The same rows from another sequence and head on.
  public func advanced(batch: Int, head: Int) -> MutableRows {
    MutableRows(
      row(batch, head, 0), batchStride: batchStride, headStride: headStride,
      tokenStride: tokenStride)
  }

  /// The same rows, to be read.
  @inlinable
  public var reading: Rows<Element> {
    Rows(
      UnsafePointer(base), batchStride: batchStride, headStride: headStride,
      tokenStride: tokenStride)
  }
}

/// The order of the axes of queries, keys, values and output.
public enum Layout: String, Sendable, Hashable, Codable, CaseIterable {
  /// `[B, H, N, D]`, as in torch's scaled dot-product attention.
  case headsFirst = "bhnd"
  /// `[B, N, H, D]`, as projections leave it and flash-attention takes it.
  case tokensFirst = "bnhd"
}
