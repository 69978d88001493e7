import AttentionCore
import Folding
import Testing

import AttentionCUDA

@Suite("Long passes behind pairs")
struct FollowedPairTests {
  /// Three passes of a block support.
  static func shape(
    _ element: CUDAElement = .bfloat16, width: Int = 128, sizes: (Int, Int, Int) = (128, 32, 32),
    heads: Int = 8, full: Bool = false, isJoint: Bool = false, isRotary: Bool = false,
    saves: Bool = false
  ) -> CUDAFollowedPairShape? {
    let make = { (index: Int) in
      var shape = oneOfThree(
        index, element, width: width, sizes: sizes, batch: 1, heads: heads, keyHeads: heads,
        tokens: sizes.0 * sizes.1 * sizes.2, full: full)
      shape.isJoint = isJoint && index < 3
      shape.isRotary = isRotary
      return shape
    }
    return CUDAFusedShape(lower: make(3), upper: make(2), saves: saves, returnsLSE: saves)
      .flatMap { CUDAFollowedPairShape(pair: $0, top: make(1)) }
  }

  @Test(
    "both launches compile",
    .enabled(if: hasCompiler, "NVRTC is not here: set TENSATTN_NVRTC to libnvrtc.so.13"),
    arguments: [CUDAElement.bfloat16, .float16], [(128, 32, 32), (70, 16, 16), (300, 24, 24)])
  func compile(element: CUDAElement, sizes: (Int, Int, Int)) throws {
    for (width, full, saves) in [(128, false, false), (64, true, true), (128, true, true)] {
      let shape = try #require(
        Self.shape(element, width: width, sizes: sizes, full: full, saves: saves))
      #expect(shape.plans.count == 2)
      for plan in shape.plans { try expectCompiles(plan) }
    }
  }

  @Test("the long pass waits for the pair's end where it gains nothing")
  func waits() throws {
    let plans = try #require(Self.shape()).plans
    #expect(plans[0].entry == "forwardCluster" && plans[0].macros.contains("TELLS=1"))
    #expect(plans[1].entry == "forwardWarpgroup" && plans[1].macros.contains("FOLLOWS=1"))
    #expect(Self.shape()?.workspaceBytes == 32)
    #expect(Self.shape(heads: 1) == nil)
    #expect(Self.shape(sizes: (66, 16, 16), heads: 2) == nil)
    #expect(Self.shape(sizes: (128, 8, 8)) == nil)
    #expect(Self.shape(isJoint: true) == nil)
    #expect(Self.shape(isRotary: true) == nil)
    #expect(Self.shape(.float32) == nil)
    // A short pass above, and one whose fibers leave the ring.
    #expect(Self.shape(sizes: (64, 32, 32)) == nil)
    #expect(Self.shape(sizes: (400, 32, 32)) == nil)
    #expect(Self.shape(width: 64, sizes: (400, 32, 32)) != nil)
  }

  @Test("a third of the idle multiprocessors waits for nearly all of many heads")
  func late() throws {
    let shape = try #require(Self.shape(heads: 32))
    #expect(shape.lateBlocks(idle: 12) == (8, 12))
    #expect(shape.lateBlocks(idle: 0) == (0, 0))
    #expect(Self.shape(heads: 16)?.lateBlocks(idle: 12) ?? (1, 1) == (0, 0))
  }
}
