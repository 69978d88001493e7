import Foundation

extension Corpus {
  /// Reads a corpus.
  ///
  /// - Parameters:
  ///   - path: a text file, or a folder that is searched recursively.
  ///   - extensions: the file extensions to take, in any case; empty takes all.
  ///     A single file is taken whatever its extension.
  ///   - split: how the validation text is set apart.
  /// - Throws: ``CorpusError``.
  /// - Complexity: one read of every file; at most twice the size of the text in memory (once, if
  ///   the split is by file).
  public init(
    readingFrom path: String, extensions: [String] = [], split: Split = .automatic(share: 0.1)
  ) throws {
    precondition(
      split.share > 0 && split.share < 1,
      "The validation share must lie between 0 and 1, got \(split.share).")
    var isFolder: ObjCBool = false
    guard FileManager.default.fileExists(atPath: path, isDirectory: &isFolder) else {
      throw CorpusError.missing(path: path)
    }
    var reader = CorpusReader(
      extensions: Set(extensions.map { String($0.lowercased().drop { $0 == "." }) }))
    let root = URL(fileURLWithPath: path).resolvingSymlinksInPath()
    let files = isFolder.boolValue ? try reader.files(below: root) : [""]
    let byFile =
      switch split {
      case .files: true
      case .tail: false
      case .automatic: files.count >= 20
      }
    for file in files {
      try reader.read(
        root, file, isValidation: byFile && isHeldOut(path: file, share: split.share))
    }
    guard !reader.documents.isEmpty else {
      throw CorpusError.empty(path: path, extensions: extensions, skipped: reader.skipped)
    }
    if !byFile { reader.moveTail(share: split.share) }
    self.init(
      training: reader.training, validation: reader.validation, documents: reader.documents,
      skipped: reader.skipped)
  }
}

extension Corpus {
  /// Reads a corpus all of which is validation text.
  ///
  /// - Throws: ``CorpusError``.
  public init(wholeTextFrom path: String, extensions: [String] = []) throws {
    let read = try Corpus(
      readingFrom: path, extensions: extensions, split: .files(share: .ulpOfOne))
    self.init(
      training: [], validation: read.training + read.validation, documents: read.documents,
      skipped: read.skipped)
  }
}

/// Whether a file belongs to the validation text: its path's hash, as a number in [0, 1), is below
/// the share. Adding files never moves another file from one text to the other.
private func isHeldOut(path: String, share: Double) -> Bool {
  Double(mixed(fnv1a(path.utf8)) >> 11) * 0x1p-53 < share
}

/// The 64-bit FNV-1a hash: Swift's own hashes differ from run to run.
func fnv1a(_ bytes: some Sequence<UInt8>) -> UInt64 {
  var hash: UInt64 = 0xcbf2_9ce4_8422_2325
  for byte in bytes { hash = (hash ^ UInt64(byte)) &* 0x100_0000_01b3 }
  return hash
}

private struct CorpusReader {
  let extensions: Set<String>
  var training: [UInt8] = []
  var validation: [UInt8] = []
  var documents: [Corpus.Document] = []
  var skipped = Corpus.Skipped()
  /// Contents by hash and length. Two different files that agree in both would be taken for
  /// duplicates: at 10⁵ files the chance is below 10⁻⁹.
  private var seen: Set<Content> = []

  private struct Content: Hashable {
    let hash: UInt64
    let count: Int
  }

  init(extensions: Set<String>) { self.extensions = extensions }

  /// The regular files below a folder, as paths relative to it, in the order of their bytes.
  mutating func files(below root: URL) throws -> [String] {
    var failure: CorpusError?
    let keys: Set<URLResourceKey> = [.isRegularFileKey, .isSymbolicLinkKey]
    guard
      let enumerator = FileManager.default.enumerator(
        at: root, includingPropertiesForKeys: Array(keys), options: [.skipsHiddenFiles],
        errorHandler: { url, error in
          failure = .unreadable(path: url.path, reason: error.localizedDescription)
          return false
        })
    else { throw CorpusError.unreadable(path: root.path, reason: "it cannot be listed") }
    // Both sides resolved: the enumerator may spell the root differently.
    let prefix = root.standardizedFileURL.path
    var files: [String] = []
    for case let url as URL in enumerator {
      let values = try? url.resourceValues(forKeys: keys)
      guard values?.isRegularFile == true, values?.isSymbolicLink != true else { continue }
      guard extensions.isEmpty || extensions.contains(url.pathExtension.lowercased()) else {
        skipped.otherExtensions += 1
        continue
      }
      files.append(String(url.standardizedFileURL.path.dropFirst(prefix.count + 1)))
    }
    if let failure { throw failure }
    return files.sorted { $0.utf8.lexicographicallyPrecedes($1.utf8) }
  }

  /// Reads one document to the end of its text, unless it is empty, binary or a duplicate.
  mutating func read(_ root: URL, _ path: String, isValidation: Bool) throws {
    let url = path.isEmpty ? root : root.appendingPathComponent(path)
    let data: Data
    do {
      data = try Data(contentsOf: url)
    } catch {
      throw CorpusError.unreadable(path: url.path, reason: error.localizedDescription)
    }
    guard !data.isEmpty else {
      skipped.empty += 1
      return
    }
    guard !data.prefix(8192).contains(0) else {
      skipped.binary += 1
      return
    }
    guard seen.insert(Content(hash: data.withUnsafeBytes { fnv1a($0) }, count: data.count)).inserted
    else {
      skipped.duplicates += 1
      return
    }
    documents.append(
      Corpus.Document(
        path: path.isEmpty ? root.lastPathComponent : path, bytes: data.count,
        isValidation: isValidation))
    if isValidation {
      validation.append(contentsOf: data)
      validation.append(ByteTokenizer.endOfDocument)
    } else {
      training.append(contentsOf: data)
      training.append(ByteTokenizer.endOfDocument)
    }
  }

  /// Makes the last share of the bytes the validation text.
  mutating func moveTail(share: Double) {
    let count = Int((Double(training.count) * share).rounded())
    validation = Array(training.suffix(count))
    training.removeLast(count)
  }
}
