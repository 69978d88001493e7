import NN
import Torch

extension EncoderConfiguration {
  /// Multi-mask attention in blocks, or one layer of it alone: then without an output map, as in
  /// the published sentence models.
  func multiMaskEncoder(inputs: Int, initializer: Initializer) -> any SequenceLayer {
    encoder(inputs: inputs, initializer: initializer) { inputs, outputs in
      MultiMaskSelfAttention(
        inputs: inputs, heads: heads, headWidth: mixerWidth / heads,
        outputs: blocks > 0 ? outputs : nil, activation: activation, options: multiMask,
        initializer: initializer)
    }
  }

  /// The published encoder of single sentences: one layer, one head a direction, 600 features.
  public static var publishedSentence: EncoderConfiguration {
    var configuration = EncoderConfiguration()
    configuration.blocks = 0
    configuration.heads = 2
    configuration.mixerWidth = 600
    configuration.multiMask = .sentence
    return configuration
  }
}
