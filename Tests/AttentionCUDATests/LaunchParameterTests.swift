import Folding
import Testing

import AttentionCUDA

@Suite("Launch parameters")
struct LaunchParameterTests {
  @Test("parameters have the layout of the kernels' structures")
  func layout() {
    #expect(MemoryLayout<PassParameters>.size == 408)
    #expect(MemoryLayout<BiasParameters>.size == 432)
    #expect(MemoryLayout<ForwardWalkParameters>.size == 1024)
    #expect(MemoryLayout<PairedForwardParameters>.size == 2112)
    #expect(MemoryLayout<FollowedPairParameters>.size == 2 * 408 + 8)
    #expect(MemoryLayout<FusedBulkParameters>.size == 832 + 14 * 128)
    #expect(MemoryLayout<WalkParameters>.size == 408 + 56)
    #expect(MemoryLayout<BackwardWalkParameters>.size == 1408)
    #expect(MemoryLayout<FusedParameters>.size == 2 * 408)
    #expect(MemoryLayout<ChainParameters>.size == 3 * 408 + 24)
    #expect(MemoryLayout<DecodePassParameters>.size == 112)
    #expect(MemoryLayout<DecodeArguments>.size == 120 + 8 * 112)
  }

  @Test("division by multiplication is exact", arguments: [1, 2, 3, 5, 64, 127, 8192, 1_000_003])
  func division(divisor: Int) {
    let by = WalkParameters.Division(divisor)
    for n in [0, 1, divisor - 1, divisor, divisor * 7 - 1, divisor * 7, 1 << 30, (1 << 31) - 1] {
      #expect(Int((UInt64(n) * UInt64(by.factor)) >> UInt64(by.shift)) == n / divisor)
    }
  }

  @Test("walks cover every step of every fiber", arguments: Support.allCases)
  func walks(support: Support) {
    for size in [65, 100, 128, 256, 300, 1000] {
      let shape = KernelCompilationTests.shape(
        .bfloat16, width: 128, size: size, support: support, full: false)
      for skipped in [0, 5, 64, shape.fiberLength - 1] {
        let schedule = shape.walkSchedule(fibers: 9, skipped: skipped, multiprocessors: 132)
        let steps = (shape.fiberLength - skipped / 64 * 64 + 127) / 128
        let lines = shape.batch * shape.heads * 9
        let covered = schedule.order == .stretches ? 1 : schedule.walkSteps
        #expect(schedule.walks == lines * schedule.chunks)
        #expect(schedule.chunks * covered >= steps && (schedule.chunks - 1) * covered < steps)
        #expect(schedule.blocks > 0 && schedule.blocks <= 132)
      }
    }
  }

  @Test("backward walks cover every step of every fiber", arguments: Support.allCases)
  func backwardWalks(support: Support) {
    for (size, keyHeads, width) in [(65, 8, 128), (128, 8, 64), (256, 2, 128), (600, 4, 64)] {
      var shape = KernelCompilationTests.shape(
        .float16, width: width, size: size, support: support, full: false)
      shape.keyHeads = keyHeads
      for key in [false, true] {
        let schedule = shape.backwardSchedule(key: key, multiprocessors: 132)
        let steps = (shape.fiberLength + 127) / 128
        let lines = shape.batch * (key ? keyHeads : shape.heads) * shape.fibers
        let covered = schedule.order == .stretches ? 1 : schedule.walkSteps
        #expect(schedule.walks == lines * schedule.chunks)
        #expect(schedule.chunks * covered >= steps && (schedule.chunks - 1) * covered < steps)
        // Where heads share keys, each of their tiles is seen once a head.
        #expect(!key || keyHeads == shape.heads || covered == 1)
        #expect(schedule.blocks > 0 && schedule.blocks <= 132)
        let turns = schedule.order == .stretches ? schedule.walkSteps : covered
        #expect(shape.rotaryRows >= min(shape.fiberLength, 128 * turns))
      }
    }
  }
}
