// MARK: - The same elements in another shape

extension Tensor {
  /// This tensor in another shape, without a copy if its strides allow it.
  ///
  /// - Parameter shape: the extents; one of them may be −1 and follows from the others.
  public func reshape(_ shape: [Int]) -> Tensor { with("aten::reshape", shape) }

  /// This memory in another shape, which its strides must allow.
  public func view(_ shape: [Int]) -> Tensor { with("aten::view", shape) }

  /// The axes from `start` to `end`, both included, made one.
  public func flatten(from start: Int = 0, to end: Int = -1) -> Tensor {
    ATen.tensor("aten::flatten.using_ints", [.tensor(self), .int(start), .int(end)])
  }

  /// `axis` split into axes of these extents, one of which may be −1.
  public func unflatten(_ axis: Int, _ sizes: [Int]) -> Tensor {
    ATen.tensor("aten::unflatten.int", [.tensor(self), .int(axis), .ints(sizes)])
  }

  /// Two axes exchanged: the last two by default.
  public func transpose(_ a: Int = -2, _ b: Int = -1) -> Tensor {
    ATen.tensor("aten::transpose.int", [.tensor(self), .int(a), .int(b)])
  }

  /// The axes in the order `axes`.
  public func permute(_ axes: [Int]) -> Tensor { with("aten::permute", axes) }

  /// A new axis of extent 1 before `axis`.
  public func unsqueeze(_ axis: Int) -> Tensor {
    ATen.tensor("aten::unsqueeze", [.tensor(self), .int(axis)])
  }

  /// `axis` removed if its extent is 1.
  public func squeeze(_ axis: Int) -> Tensor {
    ATen.tensor("aten::squeeze.dim", [.tensor(self), .int(axis)])
  }

  /// Axes of extent 1 repeated up to `shape` without a copy; −1 keeps an extent.
  public func expand(_ shape: [Int]) -> Tensor { with("aten::expand", shape) }

  private func with(_ name: String, _ shape: [Int]) -> Tensor {
    ATen.tensor(name, [.tensor(self), .ints(shape)])
  }
}

// MARK: - Parts

extension Tensor {
  /// The part of index `index` of the first axis, which the result lacks.
  public subscript(index: Int) -> Tensor { select(axis: 0, index) }

  /// The parts `range` of the first axis.
  public subscript(range: Range<Int>) -> Tensor {
    narrow(axis: 0, from: range.lowerBound, count: range.count)
  }

  /// The part of index `index` of `axis`, which the result lacks; negative counts from the end.
  public func select(axis: Int, _ index: Int) -> Tensor {
    ATen.tensor("aten::select.int", [.tensor(self), .int(axis), .int(index)])
  }

  /// `count` parts of `axis` from `start` on.
  public func narrow(axis: Int, from start: Int, count: Int) -> Tensor {
    ATen.tensor("aten::narrow", [.tensor(self), .int(axis), .int(start), .int(count)])
  }

  /// The parts of `axis` from `start` up to but not including `end`, `step` apart.
  ///
  /// Negative bounds count from the end; nil are the axis's own; bounds beyond it are cut.
  public func slice(axis: Int, from start: Int? = nil, to end: Int? = nil, step: Int = 1) -> Tensor
  {
    ATen.tensor(
      "aten::slice.Tensor",
      [.tensor(self), .int(axis), .optional(start), .optional(end), .int(step)])
  }

  /// The parts of `axis` that the vector `indices` lists.
  public func indexSelect(axis: Int, _ indices: Tensor) -> Tensor {
    ATen.tensor("aten::index_select", [.tensor(self), .int(axis), .tensor(indices)])
  }

  /// Elements by their index on `axis`: result[i][j] = self[indices[i][j]][j] for axis 0.
  public func gather(axis: Int, _ indices: Tensor) -> Tensor {
    ATen.tensor("aten::gather", [.tensor(self), .int(axis), .tensor(indices)])
  }

  /// Elements by index tensors, one an axis; nil takes all of an axis.
  public func index(_ indices: [Tensor?]) -> Tensor {
    ATen.tensor("aten::index.Tensor", [.tensor(self), .tensors(indices)])
  }

  /// `parts` parts along `axis`, equal but for the last.
  public func chunk(_ parts: Int, axis: Int = 0) -> [Tensor] {
    ATen.tensors("aten::chunk", [.tensor(self), .int(parts), .int(axis)])
  }

  /// Parts of these extents along `axis`.
  public func split(_ sizes: [Int], axis: Int = 0) -> [Tensor] {
    ATen.tensors("aten::split_with_sizes", [.tensor(self), .ints(sizes), .int(axis)])
  }

  /// The lower triangle of the last two axes, zero above the `diagonal`-th diagonal.
  public func lowerTriangle(diagonal: Int = 0) -> Tensor {
    ATen.tensor("aten::tril", [.tensor(self), .int(diagonal)])
  }

  /// The upper triangle of the last two axes, zero below the `diagonal`-th diagonal.
  public func upperTriangle(diagonal: Int = 0) -> Tensor {
    ATen.tensor("aten::triu", [.tensor(self), .int(diagonal)])
  }
}

// MARK: - Composed and rearranged

extension Tensor {
  /// The tensors one after another along `axis`.
  public static func cat(_ tensors: [Tensor], axis: Int = 0) -> Tensor {
    ATen.tensor("aten::cat", [.tensors(tensors), .int(axis)])
  }

  /// The tensors along a new axis `axis`.
  public static func stack(_ tensors: [Tensor], axis: Int = 0) -> Tensor {
    ATen.tensor("aten::stack", [.tensors(tensors), .int(axis)])
  }

  /// The elements moved by `shift` along `axis`, around the end.
  public func roll(_ shift: Int, axis: Int) -> Tensor {
    ATen.tensor("aten::roll", [.tensor(self), [shift], [axis]])
  }

  /// The axes reversed.
  public func flip(axes: [Int]) -> Tensor {
    ATen.tensor("aten::flip", [.tensor(self), .ints(axes)])
  }

  /// How ``pad(_:mode:value:)`` finds the elements it adds.
  public enum PaddingMode: String, Sendable {
    case constant, reflect, replicate, circular
  }

  /// Elements added at the ends of the last axes.
  ///
  /// - Parameters:
  ///   - widths: before and after the last axis, then before and after the one before it, …;
  ///     negative widths cut.
  ///   - mode: where the elements come from.
  ///   - value: the element to add if the mode is constant.
  public func pad(_ widths: [Int], mode: PaddingMode = .constant, value: Double = 0) -> Tensor {
    ATen.tensor(
      "aten::pad",
      [
        .tensor(self), .ints(widths), .string(mode.rawValue),
        .optional(mode == .constant ? value : nil),
      ])
  }

  /// Every part of `axis` repeated `count` times in place.
  public func repeatInterleave(_ count: Int, axis: Int) -> Tensor {
    ATen.tensor(
      "aten::repeat_interleave.self_int", [.tensor(self), .int(count), .int(axis)])
  }

  /// Copies of the tensor side by side, `counts[i]` along axis i.
  public func tiled(_ counts: [Int]) -> Tensor { with("aten::repeat", counts) }
}
