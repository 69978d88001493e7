/// CoNLL-2005 semantic roles: a token a line, columns separated by whitespace, an empty line after each
/// sentence. The first column is the word. One column, the predicate's, is `-` except at predicates;
/// behind it comes a column for each predicate of the sentence with the spans of its arguments, such as
/// `(A0*`, `*`, `*)`, `(V*)`.
///
///     The      DT   -     (A0*   *
///     boy      NN   -     *)     *
///     wants    VBZ  want  (V*)   *
///
/// Every predicate gives one example: the sentence, a tag for each token (`O`, `B-A0`, `I-A0`, …), and the
/// predicate's position as the marker. Sentences without a predicate are left out and counted.
public struct SemanticRoleFormat: DatasetFormat {
  /// The column of the predicates, from 0 on; nil finds the only one that fits the columns behind it.
  public var predicateColumn: Int?
  /// How words are written.
  public var splitter: WordSplitter

  /// Creates the format.
  public init(predicateColumn: Int? = nil, splitter: WordSplitter = .whitespace) {
    self.predicateColumn = predicateColumn
    self.splitter = splitter
  }

  /// Reads a file of sentences.
  public func read(_ path: String) throws -> WordDataset {
    var sentences = SentenceReader(column: predicateColumn, splitter: splitter)
    try LineReader.forEachLine(of: path, encoding: .utf8) { line in
      if line.isBlank { try sentences.endSentence() } else { sentences.add(line) }
    }
    try sentences.endSentence()
    let roles = Set(sentences.examples.flatMap { $0.spans.map(\.role) }).sorted()
    let begins = Dictionary(uniqueKeysWithValues: roles.enumerated().map { ($1, 1 + 2 * $0) })
    let examples = sentences.examples.map { example in
      var tags = Array(repeating: 0, count: example.words.count)
      for span in example.spans {
        let begin = begins[span.role] ?? 0
        for place in span.tokens { tags[place] = place == span.tokens.first ? begin : begin + 1 }
      }
      return LabeledExample(sentences: [example.words], targets: tags, marker: example.predicate)
    }
    let skipped = sentences.withoutPredicate
    return try dataset(
      .tagging, labels: ["O"] + roles.flatMap { ["B-" + $0, "I-" + $0] }, examples,
      skipped: skipped == 0 ? [:] : ["sentences without a predicate": skipped], path: path)
  }
}

private struct RoleSpan {
  let role: String
  let tokens: Range<Int>
}

private struct RoleExample {
  let words: [String]
  let predicate: Int
  let spans: [RoleSpan]
}

/// Collects the rows of a sentence and turns them into an example for each predicate.
private struct SentenceReader {
  private(set) var examples: [RoleExample] = []
  private(set) var withoutPredicate = 0
  private var column: Int?
  private let splitter: WordSplitter
  private var rows: [Row] = []

  private struct Row {
    let line: TextLine
    let cells: [Substring]
  }

  init(column: Int?, splitter: WordSplitter) {
    self.column = column
    self.splitter = splitter
  }

  mutating func add(_ line: TextLine) {
    rows.append(Row(line: line, cells: line.text.split(whereSeparator: \.isWhitespace)))
  }

  mutating func endSentence() throws {
    defer { rows = [] }
    guard let first = rows.first else { return }
    if let odd = rows.first(where: { $0.cells.count != first.cells.count }) {
      throw odd.line.error(
        .columns, expected: "\(first.cells.count) columns as in the sentence's first line",
        found: "\(odd.cells.count)", remedy: "correct the line, or end the sentence before it")
    }
    let column = try predicateColumn()
    let predicates = rows.indices.filter { rows[$0].cells[column] != "-" }
    guard first.cells.count == column + 1 + predicates.count else {
      throw first.line.error(
        .columns,
        expected: "\(column + 1 + predicates.count) columns: \(column + 1) and one for each of "
          + "\(predicates.count) predicates",
        found: "\(first.cells.count)", remedy: "correct the sentence or name another column")
    }
    if predicates.isEmpty { withoutPredicate += 1 }
    let words = rows.map { splitter.normalized($0.cells[0]) }
    for (index, predicate) in predicates.enumerated() {
      let spans = try spans(column: column + 1 + index)
      examples.append(RoleExample(words: words, predicate: predicate, spans: spans))
    }
  }

  /// The column that was named, or the one that the first sentence with predicates leaves possible.
  private mutating func predicateColumn() throws -> Int {
    let width = rows[0].cells.count
    if let column {
      guard column >= 1, column < width else {
        throw rows[0].line.error(
          .columns, expected: "predicates in column \(column), counted from 0 and not the word's",
          found: "\(width) columns", remedy: "name another column")
      }
      return column
    }
    let fitting = (1..<max(width, 1)).filter { column in
      let predicates = rows.count { $0.cells[column] != "-" }
      return width == column + 1 + predicates
        && rows.allSatisfy { $0.cells[(column + 1)...].allSatisfy { RoleCell($0) != nil } }
    }
    guard fitting.count == 1 else {
      throw rows[0].line.error(
        .columns,
        expected:
          "one column that is - except at predicates, and a column of spans for each of them "
          + "behind it",
        found: "\(fitting.count) such columns of \(width)",
        remedy: "name the column of the predicates, or correct the sentence")
    }
    if fitting[0] + 1 < width { column = fitting[0] }
    return fitting[0]
  }

  private func spans(column: Int) throws -> [RoleSpan] {
    var spans: [RoleSpan] = []
    var open: (role: Substring, start: Int)?
    for (place, row) in rows.enumerated() {
      let text = row.cells[column]
      let fail = { (expected: String) in
        row.line.error(.syntax, expected: expected + " in column \(column)", found: quoted(text))
      }
      guard let cell = RoleCell(text) else { throw fail("a cell such as (A0*, * or *)") }
      if let role = cell.begins {
        guard open == nil else { throw fail("the end of the span \(open?.role ?? "") first") }
        open = (role, place)
      }
      if cell.ends {
        guard let span = open else { throw fail("a span that begins before it ends") }
        spans.append(RoleSpan(role: String(span.role), tokens: span.start..<(place + 1)))
        open = nil
      }
    }
    if let open, let last = rows.last {
      throw last.line.error(
        .syntax, expected: "the end of the span \(open.role) in column \(column)",
        found: "the end of the sentence", remedy: "close it with *)")
    }
    return spans
  }
}

/// A cell of a column of spans: `*`, `(A0*`, `*)` or `(A0*)`.
private struct RoleCell {
  let begins: Substring?
  let ends: Bool

  init?(_ text: Substring) {
    guard let star = text.firstIndex(of: "*") else { return nil }
    let (head, tail) = (text[..<star], text[text.index(after: star)...])
    guard tail.isEmpty || tail == ")" else { return nil }
    ends = !tail.isEmpty
    if head.isEmpty {
      begins = nil
    } else {
      begins = head.dropFirst()
      guard head.first == "(", head.count > 1, !head.dropFirst().contains("(") else { return nil }
    }
  }
}
