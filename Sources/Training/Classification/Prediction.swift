import Models
import NN
import Text
import Torch

extension LabeledBatch {
  /// What a model reads.
  public func inputs(device: Device = .cpu) -> [SequenceInput] {
    sentences.enumerated().map { side, sentence in
      SequenceInput(
        tokens: Tensor(
          sentence.ids, shape: [sentence.batchSize, sentence.length], device: device),
        padding: Padding(lengths: sentence.lengths, tokens: sentence.length, device: device),
        markers: side == 0 ? markers.map { $0.map(Int.init) } : nil)
    }
  }
}

/// The mean cross entropy of a batch in nats, as a scalar that carries gradients; of tagging, over
/// all tokens of the batch.
public func meanLoss(
  _ model: SequenceModel, _ batch: LabeledBatch, labelSmoothing: Double = 0,
  dropout: Generator? = nil
) -> Tensor {
  crossEntropy(
    model.scores(batch.inputs(), dropout: dropout), batch, labelSmoothing: labelSmoothing,
    reduction: .mean)
}

private func crossEntropy(
  _ scores: Tensor, _ batch: LabeledBatch, labelSmoothing: Double, reduction: Tensor.Reduction
) -> Tensor {
  scores.reshape([-1, scores.size(-1)]).crossEntropy(
    Tensor(batch.targets), reduction: reduction, ignoring: LabeledBatch.ignoredTarget,
    labelSmoothing: labelSmoothing)
}

/// What a model answers for a dataset.
public struct Predictions: Sendable, Hashable {
  /// The mean cross entropy of the targets in nats.
  public let loss: Double
  /// The classes found, one an example or, for tagging, one a token, in the dataset's order.
  public let classes: [[Int]]

  /// Asks a model for every example.
  ///
  /// - Parameter shouldStop: asked after every batch; nil is returned if it is true.
  public init?(
    of model: SequenceModel, for dataset: TokenDataset, batchSize: Int,
    shouldStop: () -> Bool = { false }
  ) {
    let batches = LabeledBatches(dataset, batchSize: batchSize, seed: 0)
    var classes = [[Int]](repeating: [], count: dataset.examples.count)
    var (sum, targets) = (0.0, 0)
    for indices in batches.inOrder() {
      if shouldStop() { return nil }
      let batch = batches.batch(indices)
      let scores = withNoGrad { model.scores(batch.inputs()) }
      sum += withNoGrad {
        crossEntropy(scores, batch, labelSmoothing: 0, reduction: .sum).item(Double.self)
      }
      let found = scores.argmax(axis: -1).array(Int.self)
      let width = found.count / indices.count
      for (row, index) in indices.enumerated() {
        let count = dataset.examples[index].targets.count
        classes[index] = Array(found[(row * width)..<(row * width + count)])
        targets += count
      }
    }
    loss = sum / Double(max(targets, 1))
    self.classes = classes
  }
}
