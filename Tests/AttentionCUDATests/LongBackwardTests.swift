import Folding
import Testing

import AttentionCUDA

@Suite("Long backward passes")
struct LongBackwardTests {
  /// A pass whose fibers one block holds.
  static func whole(
    _ element: CUDAElement, size: Int, support: Support, isJoint: Bool, tokens: Int = 4096
  ) -> CUDAPassShape {
    CUDAPassShape(
      element: element, headWidth: 128, batch: 2, heads: 4, keyHeads: 4, valueHeads: 4,
      tokens: tokens, mode: Mode(index: 1, size: size, stride: 16, isLowest: false),
      support: support, isJoint: isJoint, hasBeta: isJoint)
  }

  @Test(
    "backward passes of whole fibers compile",
    .enabled(if: hasCompiler, "NVRTC is not here: set TENSATTN_NVRTC to libnvrtc.so.13"),
    arguments: [CUDAElement.bfloat16, .float16], [true, false])
  func compileWhole(element: CUDAElement, isJoint: Bool) throws {
    for support in [Support.blockCausal, .slidingCausal] {
      var shape = Self.whole(element, size: 256, support: support, isJoint: isJoint)
      shape.isRotary = support == .slidingCausal
      #expect(shape.backwardWholePlans.count == (shape.isRotary ? 2 : 1))
      #expect(shape.backwardWholePlans[0].threads == 512)
      for plan in shape.backwardWholePlans {
        #expect(plan.sharedMemory <= 227 * 1024)
        try expectCompiles(plan)
      }
    }
  }

  /// A pass below one of whole fibers of 128 tokens.
  static func below(_ size: Int, stride: Int = 1, support: Support) -> CUDAPassShape {
    CUDAPassShape(
      element: .bfloat16, headWidth: 128, batch: 2, heads: 4, keyHeads: 4, valueHeads: 4,
      tokens: 128 * 128, mode: Mode(index: 2, size: size, stride: stride, isLowest: true),
      support: support, isJoint: false, hasBeta: false, isRotary: true)
  }

  @Test(
    "query roles that turn back what the pass above leaves compile",
    .enabled(if: hasCompiler, "NVRTC is not here: set TENSATTN_NVRTC to libnvrtc.so.13"),
    arguments: [Support.slidingCausal, .blockCausal])
  func compileTurned(support: Support) throws {
    let plan = try #require(Self.below(128, support: support).backwardTurnedPlan)
    #expect(plan.sharedMemory <= 227 * 1024)
    try expectCompiles(plan)
  }

  @Test("query roles turn back where all tokens of a block have one place above")
  func turnedPlan() {
    #expect(Self.below(100, support: .slidingCausal).backwardTurnedPlan != nil)
    #expect(Self.below(100, support: .blockCausal).backwardTurnedPlan == nil)
    #expect(Self.below(128, stride: 2, support: .slidingCausal).backwardTurnedPlan == nil)
    var shape = Self.below(128, support: .slidingCausal)
    shape.isRotary = false
    #expect(shape.backwardTurnedPlan == nil)
  }

  @Test(
    "backward passes of windows compile",
    .enabled(if: hasCompiler, "NVRTC is not here: set TENSATTN_NVRTC to libnvrtc.so.13"),
    arguments: [true, false])
  func compileWindow(turned: Bool) throws {
    var shape = Self.below(128, support: .slidingCausal)
    for isJoint in [true, false] {
      (shape.isJoint, shape.hasBeta) = (isJoint, isJoint)
      let plan = try #require(shape.backwardWindowPlan(turned: turned))
      #expect(plan.sharedMemory <= 227 * 1024)
      #expect(plan.threads == 512)
      try expectCompiles(plan)
    }
  }

  @Test("windows of 65 to 128 tokens have a backward pass of one launch")
  func windowPlan() {
    let has = { (shape: CUDAPassShape, turned: Bool) in
      shape.backwardWindowPlan(turned: turned) != nil
    }
    let below = { Self.below($0, stride: $1, support: .slidingCausal) }
    #expect(has(below(128, 1), true) && has(below(65, 1), false))
    #expect(!has(below(129, 1), false) && !has(below(64, 1), false))
    #expect(has(below(128, 2), false) && !has(below(128, 2), true))
    #expect(!has(Self.below(128, support: .blockCausal), false))
    var shape = below(128, 1)
    shape.keyHeads = 2
    #expect(!has(shape, false))
    shape = below(128, 1)
    shape.tokens = 128 * 128 + 1
    #expect(!has(shape, false))
    // Every tile once, in walks whose places the rotary table has.
    let schedule = below(128, 1).backwardWindowSchedule(multiprocessors: 132)
    #expect(schedule.order == .stretches && schedule.chunks == 256)
    #expect(schedule.walks == 2 * 4 * 256 && schedule.blocks == 132)
    #expect((schedule.walkSteps + 4) * 64 <= below(128, 1).rotaryRows)
  }

  @Test("whole fibers of 128 or 256 tokens have a backward pass of one launch")
  func wholePlan() {
    let make = Self.whole
    #expect(make(.bfloat16, 256, .blockCausal, true, 4096).backwardWholePlans.count == 1)
    #expect(make(.bfloat16, 128, .blockCausal, false, 4096).backwardWholePlans.count == 1)
    #expect(make(.float16, 256, .slidingCausal, true, 4096).backwardWholePlans.count == 1)
    #expect(make(.float16, 128, .slidingCausal, true, 4096).backwardWholePlans.isEmpty)
    #expect(make(.float16, 1000, .slidingCausal, true, 4096).backwardWholePlans.count == 1)
    #expect(make(.bfloat16, 256, .blockCausal, true, 4095).backwardWholePlans.isEmpty)
    #expect(make(.bfloat16, 256, .block, true, 4096).backwardWholePlans.isEmpty)
    #expect(make(.bfloat16, 192, .blockCausal, true, 3072).backwardWholePlans.isEmpty)
    #expect(make(.float32, 256, .blockCausal, true, 4096).backwardWholePlans.isEmpty)
    var shape = make(.bfloat16, 256, .blockCausal, true, 4096)
    shape.isRotary = true
    #expect(shape.backwardWholePlans.count == 2)
    shape.keyHeads = 2
    #expect(shape.backwardWholePlans.isEmpty)
    // All kernels of the pass deal its fibers out alike.
    let schedule = make(.bfloat16, 256, .blockCausal, true, 4096)
      .backwardSchedule(key: false, multiprocessors: 132)
    #expect(schedule.order == .acrossFibers && schedule.chunks == 1 && schedule.walks == 2 * 4 * 16)
  }
}
