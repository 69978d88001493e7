import Folding
import Testing

import AttentionCUDA

@Suite("Kernels")
struct KernelCompilationTests {
  static let mode = Mode(index: 2, size: 32, stride: 1, isLowest: true)

  static func shape(
    _ element: CUDAElement, width: Int, size: Int, support: Support, full: Bool
  ) -> CUDAPassShape {
    CUDAPassShape(
      element: element, headWidth: width, batch: 2, heads: 8, keyHeads: full ? 2 : 8, valueHeads: 8,
      tokens: 5000, mode: Mode(index: 1, size: size, stride: 8, isLowest: false), support: support,
      isJoint: full, hasBeta: full, hasBias: full, isRotary: full)
  }

  static let shapes: [CUDAPassShape] = CUDAElement.allCases.flatMap { element in
    [
      shape(element, width: 128, size: 32, support: .blockCausal, full: false),
      shape(element, width: 40, size: 5, support: .block, full: true),
      shape(element, width: 64, size: 64, support: .block, full: true),
      shape(element, width: 128, size: 256, support: .slidingCausal, full: true),
      shape(element, width: 256, size: 300, support: .slidingCausal, full: true),
      shape(element, width: 64, size: 128, support: .slidingCausal, full: true),
      shape(element, width: 64, size: 1000, support: .block, full: true),
      shape(element, width: 128, size: 128, support: .blockCausal, full: false),
    ]
      // Without a bias, long fibers have a backward pass of their own on a Hopper GPU.
      // A window of whole tiles has a forward pass of its own.
      + [
        (128, 256, Support.slidingCausal), (64, 2000, .slidingCausal), (64, 100, .block),
        (128, 128, .slidingCausal),
      ].map {
        var shape = shape(element, width: $0, size: $1, support: $2, full: true)
        shape.hasBias = false
        return shape
      }
  }

  @Test(
    "every variant compiles for an H200",
    .enabled(if: hasCompiler, "NVRTC is not here: set TENSATTN_NVRTC to libnvrtc.so.13"),
    arguments: shapes.indices)
  func compile(index: Int) throws {
    let shape = Self.shapes[index]
    let forward = [shape.forwardPlan] + [shape.warpgroupPlan].compactMap { $0 }
    let bias = shape.hasBias ? [shape.biasPlan] : []
    var plain = shape
    plain.isRotary = false
    let backward =
      shape.backwardPlans + (shape.backwardWarpgroupPlans ?? [])
      + [plain.backwardShortWarpgroupPlan].compactMap { $0 }
    for plan in forward + [shape.reductionPlan] + backward + bias {
      try expectCompiles(plan)
    }
  }

  /// The lower (2) or the upper (1) of two passes, block-causal, 8 heads of 2 sequences; joint with β and shared keys if `full`.
  private static func oneOfTwo(
    _ index: Int, _ element: CUDAElement, width: Int, sizes: (Int, Int), tokens: Int, full: Bool
  ) -> CUDAPassShape {
    CUDAPassShape(
      element: element, headWidth: width, batch: 2, heads: 8, keyHeads: full ? 2 : 8,
      valueHeads: index == 2 && full ? 2 : 8, tokens: tokens,
      mode: Mode(
        index: index, size: index == 2 ? sizes.1 : sizes.0, stride: index == 2 ? 1 : sizes.1,
        isLowest: index == 2), support: .blockCausal, isJoint: full && index == 1,
      hasBeta: full && index == 1)
  }

  /// Two passes of a block support that fit one launch.
  static func fused(
    _ element: CUDAElement, width: Int, sizes: (Int, Int), full: Bool, isRotary: Bool? = nil,
    tokens: Int = 5000, multiprocessors: Int = 132
  ) -> CUDAFusedShape? {
    let make = { (index: Int) in
      var shape = Self.oneOfTwo(
        index, element, width: width, sizes: sizes, tokens: tokens, full: full)
      shape.support = full ? .block : .blockCausal
      shape.hasBias = full
      shape.isRotary = isRotary ?? full
      return shape
    }
    return CUDAFusedShape(
      lower: make(2), upper: make(1), saves: full, multiprocessors: multiprocessors)
  }

  @Test(
    "two passes of one launch compile",
    .enabled(if: hasCompiler, "NVRTC is not here: set TENSATTN_NVRTC to libnvrtc.so.13"),
    arguments: [CUDAElement.bfloat16, .float16], [(32, 32), (5, 13), (64, 16), (27, 30)])
  func compileFused(element: CUDAElement, sizes: (Int, Int)) throws {
    for (width, full, isRotary) in [
      (128, false, false), (128, true, false), (64, true, true), (64, true, false),
      (40, false, false),
    ] {
      let shape = try #require(
        Self.fused(element, width: width, sizes: sizes, full: full, isRotary: isRotary))
      #expect((shape.backwardWarpgroupPlan == nil) == (isRotary || width == 40))
      #expect((shape.clusterPlan == nil) == (isRotary || width == 40 || sizes == (5, 13)))
      let silent = CUDAFusedShape(
        lower: shape.lower, upper: shape.upper, saves: false, returnsLSE: false)
      for plan in [shape.forwardPlan, shape.backwardPlan, shape.backwardClusterPlan]
        + [shape.clusterPlan, silent?.clusterPlan].compactMap({ $0 })
      {
        #expect(plan.sharedMemory <= 227 * 1024)
        try expectCompiles(plan)
      }
    }
  }

  @Test(
    "backward passes of whole blocks whose rows tensor memory access copies compile",
    .enabled(if: hasCompiler, "NVRTC is not here: set TENSATTN_NVRTC to libnvrtc.so.13"),
    arguments: [CUDAElement.bfloat16, .float16], [(32, 32), (64, 16), (8, 64), (64, 2)])
  func compileBulk(element: CUDAElement, sizes: (Int, Int)) throws {
    for (width, full) in [(128, false), (128, true), (64, true)] {
      let shape = try #require(
        Self.fused(
          element, width: width, sizes: sizes, full: full, isRotary: false, tokens: 4096))
      let plan = try #require(shape.backwardBulkPlan)
      #expect(plan.sharedMemory <= 227 * 1024 && plan.threads == 384)
      try expectCompiles(plan)
    }
  }

  @Test("rows are copied by tensor memory access where tokens are whole blocks of powers of two")
  func bulkPlan() throws {
    let plan = { (sizes: (Int, Int), tokens: Int, isRotary: Bool) in
      try #require(
        Self.fused(
          .bfloat16, width: 128, sizes: sizes, full: false, isRotary: isRotary, tokens: tokens)
      ).backwardBulkPlan
    }
    #expect(try plan((32, 32), 4096, false) != nil)
    #expect(try plan((32, 32), 5000, false) == nil)
    #expect(try plan((32, 32), 4096, true) == nil)
    #expect(try plan((27, 30), 4050, false) == nil)
    #expect(MemoryLayout<FusedBulkParameters>.size == 2624)
  }

  @Test("blocks that stay own two tiles of a cluster each")
  func clusterPlan() throws {
    let pair = try #require(Self.fused(.bfloat16, width: 128, sizes: (32, 32), full: false))
    let shape = try #require(pair.clusterPlan)
    #expect(shape.cluster == 8 && shape.threads == 512 && shape.macros.contains("TILES=16"))
    #expect(pair.returnsLSE && shape.macros.contains("LSE=1"))
    let silent = try #require(
      CUDAFusedShape(lower: pair.lower, upper: pair.upper, saves: false, returnsLSE: false))
    #expect(silent != pair && silent.clusterPlan?.macros.contains("LSE=0") == true)
    #expect(!shape.macros.contains { $0.hasPrefix("CLUSTER=") })
    // 64 tokens of both modes are one tile.
    let single = try #require(Self.fused(.bfloat16, width: 128, sizes: (8, 8), full: false))
    #expect(single.clusterPlan == nil)
  }

  /// Three passes of a block support, 4 heads of 16 sequences of `tokens` tokens.
  static func chain(
    _ element: CUDAElement, width: Int, sizes: (Int, Int, Int), tokens: Int, full: Bool,
    saves: Bool? = nil
  ) -> CUDAChainShape? {
    let make = {
      oneOfThree(
        $0, element, width: width, sizes: sizes, batch: 16, heads: 4, keyHeads: full ? 2 : 4,
        tokens: tokens, full: full)
    }
    // Of passes that are not joint nobody reads ℓ' below the last one.
    return CUDAFusedShape(
      lower: make(3), upper: make(2), saves: saves ?? full, returnsLSE: saves ?? full
    ).flatMap { CUDAChainShape(pair: $0, top: make(1)) }
  }

  @Test(
    "three passes of one launch compile",
    .enabled(if: hasCompiler, "NVRTC is not here: set TENSATTN_NVRTC to libnvrtc.so.13"),
    arguments: [CUDAElement.bfloat16, .float16], [(32, 32, 32), (5, 16, 16), (50, 27, 30)])
  func compileChain(element: CUDAElement, sizes: (Int, Int, Int)) throws {
    let tokens = sizes.0 * sizes.1 * sizes.2 - 7
    for (width, full) in [(128, false), (64, true), (128, true)] {
      let shape = try #require(
        Self.chain(element, width: width, sizes: sizes, tokens: tokens, full: full))
      let plan = try #require(shape.plan)
      try expectCompiles(plan)
    }
  }

  @Test("third passes that a tile cannot hold and those of little work are launched for themselves")
  func notChained() {
    let make = { (sizes: (Int, Int, Int), tokens: Int) in
      Self.chain(.bfloat16, width: 128, sizes: sizes, tokens: tokens, full: false)
    }
    #expect(make((32, 32, 32), 32768) != nil)
    #expect(make((32, 32, 32), 32768).map(\.keptFrom) == 0)
    #expect(make((32, 32, 32), 32768)?.order(clusters: 15) ?? (0, 0) == (16, 1))
    let saving = { (size: Int) in
      Self.chain(
        .bfloat16, width: 128, sizes: (size, 32, 32), tokens: size * 1024, full: false, saves: true)
    }
    #expect(saving(32)?.order(clusters: 15) ?? (0, 0) == (12, 1))
    #expect(saving(16)?.order(clusters: 15) ?? (0, 0) == (16, 1))
    #expect(make((64, 32, 32), 65536).map(\.keptFrom) == 39)
    #expect(make((64, 32, 32), 65536)?.order(clusters: 15) ?? (0, 0) == (28, 1))
    #expect(make((16, 16, 16), 4096)?.order(clusters: 66) ?? (0, 0) == (16, 4))
    #expect(make((65, 16, 16), 16640) == nil)
    #expect(make((4, 16, 16), 2048) == nil)
    #expect(make((4, 16, 16), 1024) == nil)
    #expect(make((16, 16, 16), 4096)?.plan?.macros.contains("TOP=16") == true)
  }

  /// The two lowest passes of a block support, 8 heads of 2 sequences of `tokens` tokens.
  static func longPair(
    _ element: CUDAElement, width: Int, sizes: (Int, Int), tokens: Int = 9000, full: Bool = false,
    isRotary: Bool = false, support: Support = .blockCausal
  ) -> CUDALongPairShape? {
    let make = { (index: Int) in
      var shape = Self.oneOfTwo(
        index, element, width: width, sizes: sizes, tokens: tokens, full: full)
      shape.support = support
      shape.isRotary = isRotary
      return shape
    }
    return CUDALongPairShape(lower: make(2), upper: make(1))
  }

  @Test(
    "two passes of one launch compile, the upper one's fibers being long",
    .enabled(if: hasCompiler, "NVRTC is not here: set TENSATTN_NVRTC to libnvrtc.so.13"),
    arguments: [CUDAElement.bfloat16, .float16],
    [(128, 128, 64), (128, 192, 64), (128, 128, 128), (64, 256, 64)])
  func compileLongPair(element: CUDAElement, sizes: (Int, Int, Int)) throws {
    for (full, support) in [(false, Support.blockCausal), (true, .blockCausal), (true, .block)]
    where sizes.2 == 64 || support == .blockCausal {
      let plan = try #require(
        Self.longPair(
          element, width: sizes.0, sizes: (sizes.1, sizes.2), full: full, support: support)
      ).plan
      #expect(plan.sharedMemory <= 227 * 1024 && plan.threads == 512)
      try expectCompiles(plan)
    }
  }

  @Test("long passes share a launch where their walks are of one size and L2 holds a block of both")
  func longPairs() throws {
    let make = { (width: Int, sizes: (Int, Int)) in
      Self.longPair(.bfloat16, width: width, sizes: sizes)
    }
    let plan = try #require(make(128, (128, 64))).plan
    #expect(["APART=1", "BOTH=1", "STAGES=3", "TILES=2"].allSatisfy(plan.macros.contains))
    #expect(try #require(make(128, (128, 128))).plan.macros.contains("APART=0"))
    #expect(make(128, (128, 64))?.lag(blocks: 132) == 140)
    #expect(make(128, (128, 128))?.lag(blocks: 132) == 161)
    #expect(make(128, (128, 64))?.lag(blocks: 1) == 64)
    #expect(make(128, (128, 64))?.workspaceBytes == 2 * 8 * 2 * 4)
    #expect(make(128, (256, 64)) == nil && make(64, (256, 64)) != nil)
    #expect(make(64, (128, 64)) == nil && make(40, (256, 64)) == nil)
    #expect(make(128, (64, 64)) == nil && make(128, (100, 100)) == nil)
    #expect(make(128, (128, 32)) == nil && make(128, (192, 128)) == nil)
    #expect(make(128, (192, 192)) == nil)
    #expect(Self.longPair(.bfloat16, width: 128, sizes: (128, 128), support: .block) == nil)
    #expect(Self.longPair(.float32, width: 128, sizes: (128, 64)) == nil)
    #expect(Self.longPair(.bfloat16, width: 128, sizes: (128, 64), isRotary: true) == nil)
    #expect(
      Self.longPair(.bfloat16, width: 128, sizes: (128, 64), support: .slidingCausal) == nil)
    #expect(Self.longPair(.bfloat16, width: 128, sizes: (128, 64), tokens: 2000) == nil)
  }

  @Test("passes that a cluster cannot hold are launched one by one")
  func notFused() {
    #expect(Self.fused(.bfloat16, width: 128, sizes: (64, 64), full: false) == nil)
    #expect(Self.fused(.bfloat16, width: 128, sizes: (2, 65), full: false) == nil)
    #expect(Self.fused(.bfloat16, width: 128, sizes: (3, 5), full: false) == nil)
    #expect(Self.fused(.float32, width: 128, sizes: (32, 32), full: true) == nil)
    #expect(Self.fused(.bfloat16, width: 256, sizes: (32, 32), full: true) == nil)
    #expect(
      Self.fused(.bfloat16, width: 128, sizes: (32, 32), full: false, multiprocessors: 32) == nil)
  }

  @Test(
    "decoding compiles",
    .enabled(if: hasCompiler, "NVRTC is not here: set TENSATTN_NVRTC to libnvrtc.so.13"),
    arguments: CUDAElement.allCases)
  func compileDecode(element: CUDAElement) throws {
    let tensor = DeviceTensor(address: 0, heads: 8, tokens: 4096, width: 64)
    let step = CUDADecode(
      element: element, headWidth: 64, batch: 1, heads: 8, keyHeads: 8, support: .slidingCausal,
      isJoint: true, queries: tensor, keys: tensor, output: tensor, position: 0,
      passes: [.init(mode: Self.mode, values: tensor, valueHeads: 8)], scale: 1)
    try expectCompiles(step.plan(clusters: true))
  }

  @Test(
    "a compile error carries the compiler's log",
    .enabled(if: hasCompiler, "NVRTC is not here: set TENSATTN_NVRTC to libnvrtc.so.13"))
  func compileError() throws {
    let compiler = try nvrtc.get()
    #expect {
      try compiler.compile(
        source: "__global__ void f() { nonsense; }", name: "f.cu", options: ["--std=c++17"])
    } throws: { error in
      "\(error)".contains("nonsense") && "\(error)".contains("f.cu")
    }
  }

  @Test("every plan fits a block's shared memory", arguments: CUDAElement.allCases)
  func sharedMemory(element: CUDAElement) {
    for width in stride(from: 32, through: 256, by: 8) {
      for size in [1, 3, 16, 33, 64, 65, 128, 1000] {
        for support in Support.allCases {
          let shape = Self.shape(element, width: width, size: size, support: support, full: true)
          let forward = [shape.forwardPlan] + [shape.warpgroupPlan].compactMap { $0 }
          var plain = shape
          plain.hasBias = false
          plain.isRotary = false
          let backward =
            shape.backwardPlans + (plain.backwardWarpgroupPlans ?? [])
            + [plain.backwardShortWarpgroupPlan].compactMap { $0 }
          for plan in forward + [shape.biasPlan] + backward {
            #expect(plan.sharedMemory <= 227 * 1024, "\(plan.entry) for \(shape)")
            #expect(plan.rows % 16 == 0)
          }
        }
      }
    }
  }

  @Test("what no kernel covers is named")
  func objections() {
    var shape = Self.shape(.bfloat16, width: 40, size: 8, support: .block, full: true)
    #expect(shape.objection() == nil)
    #expect(shape.objection(backward: true, biasGradient: true) == nil)
    shape.headWidth = 36
    #expect(shape.objection()?.contains("head width 36") == true)
    shape.headWidth = 64
    #expect(shape.objection(sharedMemory: 1024)?.contains("1024") == true)
    shape.batch = 10_000
    #expect(shape.objection()?.contains("80000") == true)
  }
}
