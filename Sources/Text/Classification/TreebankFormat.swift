/// The Stanford Sentiment Treebank: a tree a line, such as `(3 (2 A) (4 delight))`, every node with a
/// label from 0, very negative, to 4, very positive.
public struct TreebankFormat: DatasetFormat {
  /// The labels of SST-5.
  public static let fiveLabels = [
    "very negative", "negative", "neutral", "positive", "very positive",
  ]
  /// The labels of SST-2.
  public static let twoLabels = ["negative", "positive"]

  /// Whether negative and positive are all labels, and neutral examples are left out (SST-2).
  public var isBinary: Bool
  /// Whether every node is an example, as is usual for training, or the whole sentences alone.
  public var includesPhrases: Bool
  /// How words are written; trees have them separated.
  public var splitter: WordSplitter

  /// Creates the format.
  public init(
    isBinary: Bool = false, includesPhrases: Bool = false, splitter: WordSplitter = .whitespace
  ) {
    self.isBinary = isBinary
    self.includesPhrases = includesPhrases
    self.splitter = splitter
  }

  /// Reads a file of trees.
  public func read(_ path: String) throws -> WordDataset {
    var examples: [LabeledExample<String>] = []
    var neutral = 0
    try LineReader.forEachLine(of: path, encoding: .utf8) { line in
      if line.isBlank { return }
      var tree = TreeParser(line: line, splitter: splitter)
      let nodes = try tree.parse()
      for node in includesPhrases ? nodes[...] : nodes.suffix(1) {
        let words = Array(tree.words[node.words])
        if !isBinary {
          examples.append(LabeledExample(words, label: node.label))
        } else if node.label == 2 {
          neutral += 1
        } else {
          examples.append(LabeledExample(words, label: node.label > 2 ? 1 : 0))
        }
      }
    }
    return try dataset(
      .classification, labels: isBinary ? Self.twoLabels : Self.fiveLabels, examples,
      skipped: neutral == 0 ? [:] : ["neutral": neutral], path: path)
  }
}

/// Reads one tree, from left to right, with the open nodes on a stack: depth costs no recursion.
private struct TreeParser {
  let line: TextLine
  let splitter: WordSplitter
  private(set) var words: [String] = []
  private var open: [(label: Int, firstWord: Int)] = []

  struct Node {
    let label: Int
    let words: Range<Int>
  }

  init(line: TextLine, splitter: WordSplitter) {
    self.line = line
    self.splitter = splitter
  }

  /// The nodes in the order in which they end: the root is the last.
  mutating func parse() throws -> [Node] {
    var nodes: [Node] = []
    var rest = line.text[...].drop(while: \.isWhitespace)
    while let first = rest.first {
      if open.isEmpty && (first != "(" || !nodes.isEmpty) {
        throw error("one tree such as (3 (2 A) (4 delight))", found: quoted(rest))
      }
      switch first {
      case "(":
        let label = rest.dropFirst().prefix { !$0.isWhitespace && !"()".contains($0) }
        guard let number = Int(label), (0...4).contains(number) else {
          throw line.error(
            .label, expected: "a label from 0 to 4 after each (", found: quoted(label))
        }
        open.append((number, words.count))
        rest = rest[label.endIndex...]
      case ")":
        nodes.append(try closed())
        rest.removeFirst()
      default:
        let word = rest.prefix { !$0.isWhitespace && !"()".contains($0) }
        words.append(splitter.normalized(unescaped(word)))
        rest = rest[word.endIndex...]
      }
      rest = rest.drop(while: \.isWhitespace)
    }
    guard open.isEmpty else {
      throw error("a ) for each (", found: "\(open.count) open at the line's end")
    }
    return nodes
  }

  private mutating func closed() throws -> Node {
    let node = open.removeLast()
    guard node.firstWord < words.count else {
      throw error("words in every node", found: "none in a node labeled \(node.label)")
    }
    return Node(label: node.label, words: node.firstWord..<words.count)
  }

  /// The treebank writes a slash as `\/`.
  private func unescaped(_ word: Substring) -> String {
    String(word).replacing("\\/", with: "/")
  }

  private func error(_ expected: String, found: String) -> DatasetError {
    line.error(.syntax, expected: expected, found: found)
  }
}
