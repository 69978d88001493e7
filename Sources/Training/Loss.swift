import Models
import Text
import Torch

extension Batch {
  /// The inputs as a tensor [B, N].
  public func inputTensor(device: Device = .cpu) -> Tensor {
    Tensor(inputs, shape: [batchSize, context], device: device)
  }

  /// The targets as a tensor [B, N].
  public func targetTensor(device: Device = .cpu) -> Tensor {
    Tensor(targets, shape: [batchSize, context], device: device)
  }
}

/// The mean cross entropy of a batch in nats, as a scalar that carries gradients.
public func meanLoss(_ model: any LanguageModel, _ batch: Batch) -> Tensor {
  crossEntropy(model, batch, reduction: .mean)
}

/// The cross entropy of every token in nats, [B, N], without gradients.
public func tokenLosses(_ model: any LanguageModel, _ batch: Batch) -> Tensor {
  withNoGrad {
    crossEntropy(model, batch, reduction: .none)
      .reshape([batch.batchSize, batch.context])
  }
}

private func crossEntropy(
  _ model: any LanguageModel, _ batch: Batch, reduction: Tensor.Reduction
) -> Tensor {
  let scores = model(batch.inputTensor(device: model.device))
  // The logarithm of a sum over all tokens needs more than 8 bits.
  let isHalf = scores.dtype == .bfloat16 || scores.dtype == .float16
  return scores.reshape([-1, model.vocabularySize]).to(dtype: isHalf ? .float32 : nil)
    .crossEntropy(batch.targetTensor(device: model.device).flatten(), reduction: reduction)
}

/// The mean loss over evaluation windows of one context length.
public func validationLoss(
  _ model: any LanguageModel, _ windows: EvaluationWindows, context: Int, batchTokens: Int
) -> Double {
  let batches = windows.batches(context: context, batchTokens: batchTokens)
  let sum = batches.reduce(0.0) { sum, batch in
    sum + tokenLosses(model, batch).to(.float64).sum().item(Double.self)
  }
  return sum / Double(windows.tokens)
}
