import Torch

extension Tensor {
  /// Elements set to zero with `probability`, the others divided by what is left.
  ///
  /// - Parameter generator: where the draws come from; nil, as outside training, drops nothing. The
  ///   same state of a generator gives the same zeros.
  public func dropped(_ probability: Double, by generator: Generator?) -> Tensor {
    guard let generator, probability > 0 else { return self }
    let keep = 1 - probability
    let kept = detached().emptyLike()
    ATen.tensor("aten::bernoulli_.float", [.tensor(kept), .double(keep), .generator(generator)])
    return self * (kept / keep)
  }
}
