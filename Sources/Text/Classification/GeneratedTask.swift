import Folding

/// A task whose examples are drawn instead of downloaded: as many as wanted, of any length, with a
/// known chance level.
///
/// An answer needs *order* and the selection of *different features from different tokens*; a model
/// without positions and without directed masks has a known bound, ``orderBlindAccuracy``.
/// An example depends on the task's parameters, its seed and the example's index alone, and every run of
/// as many examples as there are labels holds each label once.
public struct GeneratedTask: Sendable, Hashable {
  /// What is asked.
  let rule: Rule
  /// N, the number of tokens in the first sentence of every example.
  public let length: Int
  /// The seed of the draws.
  public let seed: UInt64

  /// The parameters of each kind of task.
  enum Rule: Sendable, Hashable {
    case lastOfEach(attributes: Int, fillers: Int)
    case precedence(entities: Int, mentioned: Int, fillers: Int, hypothesis: Int)
    case roles(chunks: Int, nouns: Int, fillers: Int)
  }

  /// The color of the last marked token and the shape of the first.
  ///
  /// Every token has one of A colors and one of A shapes. A of them, at uniformly random places, are
  /// marked; among these every color and every shape occurs once. The label is the pair (color of the
  /// last marked token, shape of the first marked token), one of A² equally frequent ones: two features,
  /// from two tokens that only their order tells apart, however far away they are.
  ///
  /// The marked tokens as a set leave A (A − 1) labels, equally likely: that is all that a model
  /// without order can know.
  ///
  /// - Parameters:
  ///   - length: N, at least `attributes`.
  ///   - attributes: A, 2 to 32.
  ///   - fillers: further unmarked tokens that have neither color nor shape; they widen the vocabulary,
  ///     which has 1 + 2 A² + `fillers` ids.
  public static func lastOfEach(
    length: Int, attributes: Int = 4, fillers: Int = 0, seed: UInt64 = 1
  ) -> GeneratedTask {
    require(
      (2...32).contains(attributes) && length >= attributes && fillers >= 0,
      "lastOfEach needs 2 to 32 attributes and at least as many tokens, "
        + "got \(attributes) attributes, \(length) tokens, \(fillers) fillers.")
    return GeneratedTask(
      rule: .lastOfEach(attributes: attributes, fillers: fillers), length: length, seed: seed)
  }

  /// Whether one event comes before another: an entailment that rests on order alone.
  ///
  /// The first sentence mentions `mentioned` of `entities` different entities, once each, among
  /// fillers. The second mentions two, a and b in this order, among fillers. The label is *entailment*
  /// if the first sentence has a before b, *contradiction* if it has b before a, *neutral* if it
  /// lacks one of them; all three are equally frequent. The second sentence alone says nothing about
  /// the label.
  ///
  /// Without order only *neutral* can be told, which is right 2 times in 3. The more entities are
  /// mentioned, the more orders there are to tell apart, and the longer training takes.
  ///
  /// - Parameters:
  ///   - length: N of the first sentence, at least `mentioned`.
  ///   - hypothesis: the number of tokens in the second sentence, at least 2.
  ///   - entities: the number of entities.
  ///   - mentioned: 2 to `entities` − 1.
  ///   - fillers: the number of other tokens; the vocabulary has 1 + `entities` + `fillers` ids.
  public static func precedence(
    length: Int, hypothesis: Int = 8, entities: Int = 4, mentioned: Int = 2, fillers: Int = 16,
    seed: UInt64 = 1
  ) -> GeneratedTask {
    require(
      mentioned >= 2 && entities > mentioned && fillers >= 1 && length >= mentioned
        && hypothesis >= 2,
      "precedence needs 2 <= mentioned < entities, room for them and fillers, got \(mentioned) of "
        + "\(entities) in \(length) tokens, 2 in \(hypothesis), \(fillers) fillers.")
    return GeneratedTask(
      rule: .precedence(
        entities: entities, mentioned: mentioned, fillers: fillers, hypothesis: hypothesis),
      length: length, seed: seed)
  }

  /// Who does what to whom: semantic roles in miniature.
  ///
  /// A predicate, whose place is the example's marker, stands among fillers, with 1 to `chunks` runs
  /// of one to three nouns on each side. The nearest run before it is ARG0 and the nearest after
  /// it ARG1 if the predicate is active, the reverse if it is passive (half of the examples each). All
  /// else is O: a tag depends on the tokens just before (B or I), on the side, on what lies in
  /// between, and on the predicate's form, however far away it is.
  ///
  /// Always answering O is right for 1 − 4/N of the tokens on average and has a span F1 of 0.
  ///
  /// - Parameters:
  ///   - length: N, at least 1 + 8 `chunks`.
  ///   - chunks: the greatest number of runs on a side.
  ///   - nouns: the number of different nouns.
  ///   - fillers: the number of fillers; the vocabulary has 1 + 4 + `nouns` + `fillers` ids.
  public static func roles(
    length: Int, chunks: Int = 3, nouns: Int = 16, fillers: Int = 16, seed: UInt64 = 1
  ) -> GeneratedTask {
    require(
      chunks >= 1 && nouns >= 1 && fillers >= 1 && length >= 1 + 8 * chunks,
      "roles needs nouns, fillers and 1 + 8 tokens a chunk, got \(length) tokens for \(chunks) "
        + "chunks, \(nouns) nouns, \(fillers) fillers.")
    return GeneratedTask(
      rule: .roles(chunks: chunks, nouns: nouns, fillers: fillers), length: length, seed: seed)
  }

  private init(rule: Rule, length: Int, seed: UInt64) {
    self.rule = rule
    self.length = length
    self.seed = seed
  }
}

// MARK: - What is known of a task

extension GeneratedTask {
  /// The task's name in reports.
  public var name: String {
    switch rule {
    case .lastOfEach: "last-of-each"
    case .precedence: "precedence"
    case .roles: "roles"
    }
  }

  /// What the examples ask for.
  public var kind: TaskKind {
    switch rule {
    case .lastOfEach: .classification
    case .precedence: .pair
    case .roles: .tagging
    }
  }

  /// The names of the labels.
  public var labels: [String] {
    switch rule {
    case .lastOfEach(let attributes, _):
      (0..<attributes * attributes).map { "color \($0 / attributes), shape \($0 % attributes)" }
    case .precedence: InferenceFormat.labels
    case .roles: ["O", "B-ARG0", "I-ARG0", "B-ARG1", "I-ARG1"]
    }
  }

  /// The number of token ids: 0 is padding, all others occur.
  public var vocabularySize: Int {
    switch rule {
    case .lastOfEach(let attributes, let fillers): 1 + 2 * attributes * attributes + fillers
    case .precedence(let entities, _, let fillers, _): 1 + entities + fillers
    case .roles(_, let nouns, let fillers): 1 + Self.predicates + nouns + fillers
    }
  }

  /// The expected accuracy of the best answer that ignores the tokens.
  public var chance: Double {
    switch rule {
    case .lastOfEach(let attributes, _): 1 / Double(attributes * attributes)
    case .precedence: 1 / 3
    case .roles: 1 - 4 / Double(length)
    }
  }

  /// The best expected accuracy of an answer that depends on how often each token occurs in each
  /// sentence and not on where: what a model without positions and directed masks can reach. Nil where
  /// it has no closed form.
  public var orderBlindAccuracy: Double? {
    switch rule {
    case .lastOfEach(let attributes, _): 1 / Double(attributes * (attributes - 1))
    case .precedence: 2 / 3
    case .roles: nil
    }
  }
}

// MARK: - Examples

extension GeneratedTask {
  /// The example at an index; any number from 0 on.
  ///
  /// - Complexity: O(N).
  public func example(_ index: Int) -> LabeledExample<Int> {
    require(index >= 0, "Examples are numbered from 0, got \(index).")
    var random = SplitMix64(seed: seed, UInt64(index), 1)
    switch rule {
    case .lastOfEach(let attributes, let fillers):
      return lastOfEach(label(of: index), attributes, fillers, &random)
    case .precedence(let entities, let mentioned, let fillers, let hypothesis):
      let names = Array(random.shuffled(1...entities).prefix(mentioned + 1))
      return precedence(label(of: index), names, hypothesis, &random) {
        1 + entities + $0.below(fillers)
      }
    case .roles(let chunks, let nouns, let fillers):
      return roles(
        isPassive: passive(index), chunks, &random,
        noun: { 1 + Self.predicates + $0.below(nouns) },
        filler: { 1 + Self.predicates + nouns + $0.below(fillers) })
    }
  }

  /// The examples at some indices. Disjoint ranges are independent draws.
  public func dataset(_ indices: Range<Int>) -> TokenDataset {
    TokenDataset(kind: kind, labels: labels, examples: indices.map(example))
  }

  /// Three parts that are independent draws, without a common index.
  public func splits(training: Int, validation: Int, test: Int) -> DatasetSplits<Int> {
    let counts = [training, validation, test]
    require(counts.allSatisfy { $0 >= 0 }, "Numbers of examples are at least 0, got \(counts).")
    return DatasetSplits(
      training: dataset(0..<training), validation: dataset(training..<(training + validation)),
      test: dataset((training + validation)..<(training + validation + test)))
  }

  /// The label of an example: each block of as many examples as labels holds every label once, in an
  /// order of its own.
  private func label(of index: Int) -> Int { balanced(index, labels.count) }

  private func passive(_ index: Int) -> Bool { balanced(index, 2) == 1 }

  private func balanced(_ index: Int, _ count: Int) -> Int {
    var random = SplitMix64(seed: seed, UInt64(index / count), 0)
    return random.shuffled(0..<count)[index % count]
  }
}
