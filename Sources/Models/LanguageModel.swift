import NN
import Torch

/// A model that scores the next token at every position.
public protocol LanguageModel: Module {
  /// The number of different tokens.
  var vocabularySize: Int { get }

  /// Where the weights are; tokens must be there too.
  var device: Device { get }

  /// The scores of the next token.
  ///
  /// - Parameters:
  ///   - tokens: [B, N] integers.
  ///   - caches: what ``makeCaches()`` returned, with the tokens before; nil for whole sequences.
  /// - Returns: [B, N, vocabularySize].
  func callAsFunction(_ tokens: Tensor, caches: [any AttentionCache]?) -> Tensor

  /// One empty cache a layer.
  func makeCaches() -> [any AttentionCache]
}

extension LanguageModel {
  /// The scores for whole sequences.
  public func callAsFunction(_ tokens: Tensor) -> Tensor { self(tokens, caches: nil) }
}
