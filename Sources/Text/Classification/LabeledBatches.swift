import Folding

/// Sentences of a batch, padded at their ends to one length with id 0.
public struct PaddedTokens: Sendable, Hashable {
  /// The id that fills the ends.
  public static let padding = 0

  /// B.
  public let batchSize: Int
  /// N, the number of tokens in the longest sentence.
  public let length: Int
  /// The ids, [B, N] in row-major order.
  public let ids: [Int64]
  /// The number of tokens in each sentence, [B].
  public let lengths: [Int]

  /// Pads sentences.
  public init(_ sentences: [[Int]]) {
    batchSize = sentences.count
    lengths = sentences.map(\.count)
    let length = lengths.max() ?? 0
    self.length = length
    ids = sentences.flatMap { padded($0, to: length, with: Self.padding) }
  }

  /// Whether each place holds a token and no padding, [B, N] in row-major order.
  public var isToken: [Bool] {
    lengths.flatMap { count in (0..<length).lazy.map { $0 < count } }
  }
}

private func padded(_ values: [Int], to length: Int, with filler: Int) -> [Int64] {
  values.map(Int64.init) + Array(repeating: Int64(filler), count: length - values.count)
}

/// Examples that a model sees at once.
public struct LabeledBatch: Sendable, Hashable {
  /// The target of padding in tagging: losses and scores leave it out.
  public static let ignoredTarget = -100

  /// Where the examples are in their dataset, [B].
  public let indices: [Int]
  /// The first sentences, and for pairs the second ones.
  public let sentences: [PaddedTokens]
  /// The targets: [B], or for tagging [B, N] in row-major order with ``ignoredTarget`` in padding.
  public let targets: [Int64]
  /// The marked positions, [B]; nil if some example has none.
  public let markers: [Int64]?

  /// The examples at `indices` of a dataset.
  public init(_ dataset: TokenDataset, indices: [Int]) {
    let examples = indices.map { dataset.examples[$0] }
    self.indices = indices
    sentences = (0..<dataset.kind.sentences).map { side in
      PaddedTokens(examples.map { $0.sentences[side] })
    }
    let width = dataset.kind == .tagging ? sentences[0].length : 1
    targets = examples.flatMap { padded($0.targets, to: width, with: Self.ignoredTarget) }
    let markers = examples.compactMap { $0.marker.map(Int64.init) }
    self.markers = markers.count == examples.count ? markers : nil
  }

  /// B.
  public var batchSize: Int { indices.count }

  /// The share of places that hold padding.
  public var paddingShare: Double {
    let places = sentences.map { $0.batchSize * $0.length }.reduce(0, +)
    let tokens = sentences.flatMap(\.lengths).reduce(0, +)
    return places == 0 ? 0 : 1 - Double(tokens) / Double(places)
  }
}

/// Cuts a dataset into batches of sentences of similar lengths.
///
/// An epoch shuffles the examples, sorts pools of 50 batches by length and shuffles the batches:
/// padding is a few percent, and the order is nearly uniform. An epoch's batches depend on the seed and
/// on its number alone, so nothing has to be saved to resume.
public struct LabeledBatches: Sendable {
  /// The dataset.
  public let dataset: TokenDataset
  /// The greatest number of examples in a batch.
  public let batchSize: Int
  /// The seed of the shuffles.
  public let seed: UInt64

  private static let pool = 50

  /// Creates batches; the last of an epoch may be smaller.
  public init(_ dataset: TokenDataset, batchSize: Int, seed: UInt64) {
    require(batchSize >= 1, "A batch needs at least one example, got \(batchSize).")
    self.dataset = dataset
    self.batchSize = batchSize
    self.seed = seed
  }

  /// The number of batches in an epoch.
  public var count: Int { (dataset.examples.count + batchSize - 1) / batchSize }

  /// The batches of an epoch in training order: indices of examples.
  public func epoch(_ number: Int) -> [[Int]] {
    var random = SplitMix64(seed: seed, UInt64(number))
    let shuffled = random.shuffled(dataset.examples.indices)
    let pools = parts(of: shuffled, size: batchSize * Self.pool).map(sortedByLength)
    return random.shuffled(pools.flatMap { parts(of: $0, size: batchSize) })
  }

  /// All examples once, by length: the order for evaluation.
  public func inOrder() -> [[Int]] {
    parts(of: sortedByLength(Array(dataset.examples.indices)), size: batchSize)
  }

  /// The examples at some indices, padded.
  public func batch(_ indices: [Int]) -> LabeledBatch { LabeledBatch(dataset, indices: indices) }

  /// Indices by length; equal lengths keep their order.
  private func sortedByLength(_ indices: [Int]) -> [Int] {
    indices.enumerated().map { (dataset.examples[$1].length, $0, $1) }.sorted {
      ($0.0, $0.1) < ($1.0, $1.1)
    }.map(\.2)
  }

  private func parts(of indices: [Int], size: Int) -> [[Int]] {
    stride(from: 0, to: indices.count, by: size).map {
      Array(indices[$0..<min($0 + size, indices.count)])
    }
  }
}
