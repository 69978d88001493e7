import Testing
import Torch

@Suite("Shapes, parts and order against known values")
struct ShapeTests {
  static let shapesCases: [Case] = [
    Case("reshape", [1, 2, 3, 4, 5, 6], shape: [3, 2]) { counting([2, 3]).reshape([3, -1]) },
    Case("view", [1, 2, 3, 4, 5, 6], shape: [6]) { counting([2, 3]).view([6]) },
    Case("flatten", [1, 2, 3, 4], shape: [2, 2]) { counting([2, 2, 1]).flatten(from: 1) },
    Case("unflatten", [1, 2, 3, 4], shape: [2, 2]) { counting([4]).unflatten(0, [2, -1]) },
    Case("transpose", [1, 4, 2, 5, 3, 6], shape: [3, 2]) { counting([2, 3]).transpose() },
    Case("permute", [1, 3, 2, 4], shape: [2, 1, 2]) { counting([1, 2, 2]).permute([2, 0, 1]) },
    Case("unsqueeze", [1, 2], shape: [2, 1]) { counting([2]).unsqueeze(-1) },
    Case("squeeze", [1, 2], shape: [2]) { counting([2, 1]).squeeze(1) },
    Case("expand", [1, 1, 2, 2], shape: [2, 2]) { counting([2, 1]).expand([-1, 2]) },
    Case("index", [4, 5, 6]) { counting([2, 3])[1] },
    Case("range", [3, 4, 5, 6], shape: [2, 2]) { counting([3, 2])[1..<3] },
    Case("select", [3, 6]) { counting([2, 3]).select(axis: 1, -1) },
    Case("narrow", [2, 3, 5, 6], shape: [2, 2]) {
      counting([2, 3]).narrow(axis: 1, from: 1, count: 2)
    },
    Case("slice", [2, 4]) { counting([5]).slice(axis: 0, from: 1, to: -1, step: 2) },
    Case("slice without bounds", [1, 2, 3]) { counting([3]).slice(axis: 0) },
    Case("indexSelect", [3, 1]) { counting([3]).indexSelect(axis: 0, Tensor([2, 0])) },
    Case("gather", [2, 4], shape: [2, 1]) {
      counting([2, 2]).gather(axis: 1, Tensor([1, 1], shape: [2, 1]))
    },
    Case("index by tensors", [2, 6]) {
      counting([2, 3]).index([Tensor([0, 1]), Tensor([1, 2])])
    },
    Case("chunk", [4, 5]) { counting([5]).chunk(2)[1] },
    Case("split", [2, 3]) { counting([3]).split([1, 2])[1] },
    Case("lowerTriangle", [1, 0, 3, 4], shape: [2, 2]) { counting([2, 2]).lowerTriangle() },
    Case("upperTriangle", [0, 2, 0, 0], shape: [2, 2]) {
      counting([2, 2]).upperTriangle(diagonal: 1)
    },
    Case("cat", [1, 2, 1, 2]) { .cat([counting([2]), counting([2])]) },
    Case("stack", [1, 1, 2, 2], shape: [2, 2]) { .stack([counting([2]), counting([2])], axis: 1) },
    Case("roll", [3, 1, 2]) { counting([3]).roll(1, axis: 0) },
    Case("flip", [3, 2, 1]) { counting([3]).flip(axes: [0]) },
    Case("pad", [0, 1, 2, 0, 0]) { counting([2]).pad([1, 2]) },
    Case("pad with a value", [1, 2, 9]) { counting([2]).pad([0, 1], value: 9) },
    Case("pad by replication", [1, 2, 2, 2], shape: [1, 4]) {
      counting([1, 2]).pad([0, 2], mode: .replicate)
    },
    Case("repeatInterleave", [1, 1, 2, 2]) { counting([2]).repeatInterleave(2, axis: 0) },
    Case("tiled", [1, 2, 1, 2]) { counting([2]).tiled([2]) },
  ]

  @Test(arguments: shapesCases)
  func shapes(_ example: Case) {
    example.check()
  }

  static let reductionsCases: [Case] = [
    Case("sum", [21], shape: []) { counting([2, 3]).sum() },
    Case("sum of an axis", [5, 7, 9]) { counting([2, 3]).sum(axis: 0) },
    Case("sum kept", [6, 15], shape: [2, 1]) { counting([2, 3]).sum(axis: 1, keepAxes: true) },
    Case("mean", [3.5], shape: []) { counting([2, 3]).mean() },
    Case("mean of axes", [3.5], shape: [1, 1]) {
      counting([2, 3]).mean(axes: [0, 1], keepAxes: true)
    },
    Case("mean of an axis", [2, 5]) { counting([2, 3]).mean(axis: -1) },
    Case("variance", [1], shape: []) { counting([3]).variance() },
    Case("variance uncorrected", [2.0 / 3, 2.0 / 3]) {
      counting([2, 3]).variance(axes: [1], correction: 0)
    },
    Case("standardDeviation", [1], shape: []) { counting([3]).standardDeviation() },
    Case("max", [6], shape: []) { counting([2, 3]).max() },
    Case("max over axes", [4, 5, 6]) { counting([2, 3]).max(axes: [0]) },
    Case("min", [1], shape: []) { counting([2, 3]).min() },
    Case("max's values", [3, 6]) { counting([2, 3]).max(axis: 1).values },
    Case("max's indices", [2, 2]) { counting([2, 3]).max(axis: 1).indices },
    Case("min's values", [1, 4]) { counting([2, 3]).min(axis: 1).values },
    Case("argmax", [1, 1, 1]) { counting([2, 3]).argmax(axis: 0) },
    Case("argmax of all", [5], shape: []) { counting([2, 3]).argmax() },
    Case("argmin", [0, 0]) { counting([2, 3]).argmin(axis: 1) },
    Case("all", [0], shape: []) { (counting([3]) .> 1).all() },
    Case("any", [1], shape: []) { (counting([3]) .> 1).any() },
    Case("norm", [5], shape: []) { vector([3, -4]).norm() },
    Case("norm of order 1", [7], shape: [1]) {
      vector([3, -4]).norm(order: 1, axes: [0], keepAxes: true)
    },
    Case("logSumExp", [1000.6931471806], shape: []) { vector([1000, 1000]).logSumExp(axes: [0]) },
    Case("cumulativeSum", [1, 3, 6]) { counting([3]).cumulativeSum(axis: 0) },
    Case("topK's values", [3, 2]) { vector([2, 3, 1]).topK(2).values },
    Case("topK's indices", [2, 0]) { vector([2, 3, 1]).topK(2, largest: false).indices },
    Case("sorted", [3, 2, 1]) { vector([2, 3, 1]).sorted(descending: true).values },
    Case("sorted's indices", [2, 0, 1]) { vector([2, 3, 1]).sorted().indices },
    Case("multinomial", [1, 1], shape: [1, 2]) {
      vector([0, 1]).reshape([1, 2]).multinomial(2, replacement: true)
    },
  ]

  @Test(arguments: reductionsCases)
  func reductions(_ example: Case) {
    example.check()
  }
}
