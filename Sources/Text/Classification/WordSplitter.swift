/// Cuts text into words.
///
/// - At whitespace, always.
/// - With ``splitsPunctuation``, also so: letters, digits and marks run together; so do hyphens between
///   them and points and commas between digits (`well-known`, `1,000.5`). The English endings `n't`,
///   `'s`, `'re`, `'ve`, `'ll`, `'d` and `'m` are words of their own, as word vectors trained on the
///   Penn Treebank's words have them (`don't` gives `do`, `n't`). Every other character is a word.
/// - With ``lowercases``, words are in lower case, whatever the locale.
public struct WordSplitter: Sendable, Hashable {
  /// Whether words are put in lower case.
  public var lowercases: Bool
  /// Whether punctuation is cut off; without, only whitespace separates words.
  public var splitsPunctuation: Bool

  /// Creates a splitter.
  public init(lowercases: Bool = true, splitsPunctuation: Bool = true) {
    self.lowercases = lowercases
    self.splitsPunctuation = splitsPunctuation
  }

  /// For text whose words are separated by spaces already.
  public static let whitespace = WordSplitter(splitsPunctuation: false)

  /// The words of a text; none of them is empty or holds whitespace.
  ///
  /// - Complexity: linear in the text.
  public func words(in text: some StringProtocol) -> [String] {
    let pieces = text.split(whereSeparator: \.isWhitespace)
    guard splitsPunctuation else { return pieces.map(normalized) }
    return pieces.flatMap { words(inPiece: Array($0)) }
  }

  /// A word as the splitter would return it.
  func normalized(_ word: some StringProtocol) -> String {
    lowercases ? word.lowercased() : String(word)
  }

  private func words(inPiece characters: [Character]) -> [String] {
    var words: [String] = []
    var begin = 0
    while begin < characters.count {
      var end = begin + 1
      if characters[begin].isWordPart {
        while end < characters.count, joins(characters, at: end) { end += 1 }
        words += withoutEnding(characters[begin..<end]).map { normalized(String($0)) }
      } else {
        words.append(normalized(String(characters[begin])))
      }
      begin = end
    }
    return words
  }

  /// Whether the character at `place` continues the word before it.
  private func joins(_ characters: [Character], at place: Int) -> Bool {
    if characters[place].isWordPart { return true }
    guard place + 1 < characters.count else { return false }
    let (before, after) = (characters[place - 1], characters[place + 1])
    switch characters[place] {
    case "-", "'", "\u{2019}": return before.isWordPart && after.isWordPart
    case ".", ",": return before.isNumber && after.isNumber
    default: return false
    }
  }

  private func withoutEnding(_ word: ArraySlice<Character>) -> [ArraySlice<Character>] {
    guard let apostrophe = word.lastIndex(where: { $0 == "'" || $0 == "\u{2019}" }) else {
      return [word]
    }
    var cut = apostrophe
    let ending = String(word[word.index(after: apostrophe)...]).lowercased()
    if ending == "t", String(word[word.index(before: apostrophe)]).lowercased() == "n" {
      cut = word.index(before: apostrophe)
    } else if !["s", "re", "ve", "ll", "d", "m"].contains(ending) {
      return [word]
    }
    return cut == word.startIndex ? [word] : [word[..<cut], word[cut...]]
  }
}

extension Character {
  fileprivate var isWordPart: Bool { isLetter || isNumber || self == "_" }
}
