import Folding

/// Whether outputs before a token stay the same, bit for bit, when the token changes.
public struct LeakReport: Sendable, Hashable, Codable {
  /// A token whose change was seen before it.
  public struct Leak: Sendable, Hashable, Codable {
    /// The token that was changed.
    public let changed: Int
    /// The earliest token whose output or log-sum-exp differs.
    public let seenAt: Int

    package init(changed: Int, seenAt: Int) {
      self.changed = changed
      self.seenAt = seenAt
    }
  }

  /// The tokens that were changed, one after the other.
  public let probes: [Int]
  /// Those that leaked.
  public let leaks: [Leak]
  /// The tokens whose change did not even alter their own output: a probe that tests nothing.
  public let ignored: [Int]

  package init(probes: [Int], leaks: [Leak], ignored: [Int]) {
    self.probes = probes
    self.leaks = leaks
    self.ignored = ignored
  }

  /// Whether nothing leaked and every probe was felt.
  public var passed: Bool { leaks.isEmpty && ignored.isEmpty }
}

/// How far two results that must agree are apart.
public struct Deviation: Sendable, Hashable, Codable {
  /// The largest absolute difference; NaN if either result holds one.
  public let error: Double
  /// What rounding explains: c·ε·norm.
  public let bound: Double
  /// Where the largest difference is, an index for each axis.
  public let position: [Int]
  /// What was expected there.
  public let expected: Double
  /// What was found there.
  public let found: Double

  package init(error: Double, bound: Double, position: [Int], expected: Double, found: Double) {
    self.error = error
    self.bound = bound
    self.position = position
    self.expected = expected
    self.found = found
  }

  /// Whether the difference is within the bound.
  public var passed: Bool { error <= bound }
}

/// What the properties of a pattern came to.
public struct PropertyReport: Sendable, Codable {
  /// One property.
  public struct Check: Sendable, Codable {
    /// What must hold.
    public let name: String
    /// Whether it does; nil where it does not apply.
    public let passed: Bool?
    /// What was measured, in words.
    public let detail: String
  }

  /// The pattern.
  public let pattern: AttentionPattern
  /// N.
  public let tokens: Int
  /// The implementation.
  public let backend: Backend
  /// The keys that reach a query over those that could.
  public let reach: Reach
  /// The same for as many tokens as the fold holds; nil if they are too many to count.
  public let reachOfFold: Reach?
  /// All properties.
  public let checks: [Check]
  /// Whether none failed.
  public let passed: Bool
}
