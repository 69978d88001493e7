// MARK: - Sums and extremes. Without axes: over all elements.

extension Tensor {
  /// The sum over `axes`.
  public func sum(axes: [Int]? = nil, keepAxes: Bool = false, dtype: DType? = nil) -> Tensor {
    reduce("aten::sum.dim_IntList", axes, keepAxes, dtype)
  }

  /// The mean over `axes`.
  public func mean(axes: [Int]? = nil, keepAxes: Bool = false, dtype: DType? = nil) -> Tensor {
    reduce("aten::mean.dim", axes, keepAxes, dtype)
  }

  /// The sum over `axis`.
  public func sum(axis: Int, keepAxes: Bool = false) -> Tensor {
    sum(axes: [axis], keepAxes: keepAxes)
  }

  /// The mean over `axis`.
  public func mean(axis: Int, keepAxes: Bool = false) -> Tensor {
    mean(axes: [axis], keepAxes: keepAxes)
  }

  /// The variance over `axes`: the squared distances from the mean, summed and divided by the
  /// number of elements less `correction`.
  public func variance(
    axes: [Int]? = nil, correction: Int = 1, keepAxes: Bool = false
  ) -> Tensor {
    spread("aten::var.correction", axes, correction, keepAxes)
  }

  /// The square root of ``variance(axes:correction:keepAxes:)``.
  public func standardDeviation(
    axes: [Int]? = nil, correction: Int = 1, keepAxes: Bool = false
  ) -> Tensor {
    spread("aten::std.correction", axes, correction, keepAxes)
  }

  /// The largest element over `axes`; equal ones share the gradient.
  public func max(axes: [Int] = [], keepAxes: Bool = false) -> Tensor {
    ATen.tensor("aten::amax", [.tensor(self), .ints(axes), .bool(keepAxes)])
  }

  /// The smallest element over `axes`; equal ones share the gradient.
  public func min(axes: [Int] = [], keepAxes: Bool = false) -> Tensor {
    ATen.tensor("aten::amin", [.tensor(self), .ints(axes), .bool(keepAxes)])
  }

  /// The largest elements along `axis` and their indices.
  public func max(axis: Int, keepAxes: Bool = false) -> (values: Tensor, indices: Tensor) {
    pair("aten::max.dim", [.tensor(self), .int(axis), .bool(keepAxes)])
  }

  /// The smallest elements along `axis` and their indices.
  public func min(axis: Int, keepAxes: Bool = false) -> (values: Tensor, indices: Tensor) {
    pair("aten::min.dim", [.tensor(self), .int(axis), .bool(keepAxes)])
  }

  /// The index of the largest element along `axis`, or in row-major order without one.
  public func argmax(axis: Int? = nil, keepAxes: Bool = false) -> Tensor {
    ATen.tensor("aten::argmax", [.tensor(self), .optional(axis), .bool(keepAxes)])
  }

  /// The index of the smallest element along `axis`, or in row-major order without one.
  public func argmin(axis: Int? = nil, keepAxes: Bool = false) -> Tensor {
    ATen.tensor("aten::argmin", [.tensor(self), .optional(axis), .bool(keepAxes)])
  }

  /// Whether all elements are true.
  public func all() -> Tensor { unary("aten::all") }

  /// Whether any element is true.
  public func any() -> Tensor { unary("aten::any") }

  /// The norm (Σ |x|^order)^(1/order) over `axes`.
  public func norm(order: Double = 2, axes: [Int]? = nil, keepAxes: Bool = false) -> Tensor {
    ATen.tensor(
      "aten::linalg_vector_norm",
      [.tensor(self), .double(order), axes.map(Value.ints) ?? .none, .bool(keepAxes)])
  }

  /// ln Σ eˣ over `axes`, without overflow.
  public func logSumExp(axes: [Int], keepAxes: Bool = false) -> Tensor {
    ATen.tensor("aten::logsumexp", [.tensor(self), .ints(axes), .bool(keepAxes)])
  }

  /// The sums of the elements up to each one along `axis`.
  public func cumulativeSum(axis: Int) -> Tensor {
    ATen.tensor("aten::cumsum", [.tensor(self), .int(axis)])
  }
}

// MARK: - Order

extension Tensor {
  /// The `count` largest (or smallest) elements along `axis`, in order, and their indices.
  public func topK(
    _ count: Int, axis: Int = -1, largest: Bool = true
  ) -> (values: Tensor, indices: Tensor) {
    pair("aten::topk", [.tensor(self), .int(count), .int(axis), .bool(largest)])
  }

  /// The elements in order along `axis`, and their indices. Equal ones keep their order.
  public func sorted(
    axis: Int = -1, descending: Bool = false
  ) -> (values: Tensor, indices: Tensor) {
    pair("aten::sort.stable", [.tensor(self), true, .int(axis), .bool(descending)])
  }

  /// Indices drawn with the probabilities of the last axis, which need not be normalized.
  ///
  /// - Parameters:
  ///   - count: how many are drawn from each row.
  ///   - replacement: whether an index may be drawn again.
  ///   - generator: where the randomness comes from; the device's default one without it.
  public func multinomial(
    _ count: Int, replacement: Bool = false, generator: Generator? = nil
  ) -> Tensor {
    ATen.tensor(
      "aten::multinomial",
      [.tensor(self), .int(count), .bool(replacement), .optional(generator)])
  }
}

// MARK: - The forms of call

extension Tensor {
  private func reduce(
    _ name: String, _ axes: [Int]?, _ keepAxes: Bool, _ dtype: DType?
  ) -> Tensor {
    ATen.tensor(
      name, [.tensor(self), axes.map(Value.ints) ?? .none, .bool(keepAxes)],
      named: ["dtype": .optional(dtype)])
  }

  private func spread(
    _ name: String, _ axes: [Int]?, _ correction: Int, _ keepAxes: Bool
  ) -> Tensor {
    ATen.tensor(
      name, [.tensor(self), axes.map(Value.ints) ?? .none],
      named: ["correction": .int(correction), "keepdim": .bool(keepAxes)])
  }

  private func pair(
    _ name: String, _ arguments: [Value]
  ) -> (values: Tensor, indices: Tensor) {
    let results = ATen.tensors(name, arguments)
    return (results[0], results[1])
  }
}
