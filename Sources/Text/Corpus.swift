import Foundation

/// A training and a validation text, each one contiguous array of bytes.
///
/// A corpus is read from a file or from any folder: recursively, in the order of the paths' bytes,
/// without hidden files, symbolic links, binaries (a byte 0 among the first 8192, git's rule) and
/// duplicates. Every document ends with ``ByteTokenizer/endOfDocument``. The same files give the
/// same corpus on every machine.
public struct Corpus: Sendable {
  /// The bytes to train on.
  public let training: [UInt8]
  /// The bytes to validate on; disjoint from ``training``.
  public let validation: [UInt8]
  /// The documents, in the order in which they were read.
  public let documents: [Document]
  /// What was found and left out.
  public let skipped: Skipped

  /// One file of the corpus.
  public struct Document: Sendable, Hashable {
    /// The path below the corpus folder.
    public let path: String
    /// The number of bytes.
    public let bytes: Int
    /// Whether it belongs to the validation text.
    public let isValidation: Bool
  }

  /// Counts of files that were left out.
  public struct Skipped: Sendable, Hashable, CustomStringConvertible {
    /// Files whose extension was not asked for.
    public var otherExtensions = 0
    /// Files with a byte 0 near their beginning.
    public var binary = 0
    /// Files whose content had been read already.
    public var duplicates = 0
    /// Files without a byte.
    public var empty = 0

    /// Nothing was left out.
    public init() {}

    /// The counts in words.
    public var description: String {
      "left out: \(otherExtensions) of other extensions, \(binary) binary, "
        + "\(duplicates) duplicates, \(empty) empty"
    }
  }

  /// How the validation text is set apart.
  public enum Split: Sendable, Hashable {
    /// Whole files, chosen by a hash of their path: about `share` of the files.
    case files(share: Double)
    /// The last `share` of all bytes.
    case tail(share: Double)
    /// ``files(share:)`` from 20 files on, ``tail(share:)`` below.
    case automatic(share: Double)

    var share: Double {
      switch self {
      case .files(let share), .tail(let share), .automatic(let share): share
      }
    }
  }

  /// Creates a corpus from bytes in memory.
  public init(training: [UInt8], validation: [UInt8]) {
    self.training = training
    self.validation = validation
    documents = []
    skipped = Skipped()
  }

  init(
    training: [UInt8], validation: [UInt8], documents: [Document], skipped: Skipped
  ) {
    self.training = training
    self.validation = validation
    self.documents = documents
    self.skipped = skipped
  }

  /// Checks that both texts hold at least one context and its targets.
  ///
  /// - Throws: ``CorpusError/tooShort(part:bytes:needed:)``.
  public func requireContext(training: Int, validation: Int) throws {
    for (part, text, context) in [
      ("training", self.training, training), ("validation", self.validation, validation),
    ] where text.count < context + 1 {
      throw CorpusError.tooShort(part: part, bytes: text.count, needed: context + 1)
    }
  }

  /// One sentence about the corpus, for a log.
  public var summary: String {
    let megabytes = { (bytes: Int) in String(format: "%.2f MB", Double(bytes) / 1e6) }
    let held = documents.filter(\.isValidation).count
    return "\(documents.count) files, \(megabytes(training.count)) to train on, "
      + "\(megabytes(validation.count)) to validate on (\(held) files); \(skipped)"
  }
}
