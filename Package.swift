// swift-tools-version: 6.2
import Foundation
import PackageDescription

// libtorch: `LIBTORCH` names a torch installation (the folder that holds include/ and lib/);
// without it the build uses the one that `make setup` links as .torch.
let torch = URL(
  fileURLWithPath: Context.environment["LIBTORCH"].flatMap { $0.isEmpty ? nil : $0 } ?? ".torch",
  relativeTo: URL(fileURLWithPath: Context.packageDirectory, isDirectory: true)
).path

// A libctorch.so to link instead of compiling Sources/CTorch: `Scripts/build-shim` makes one with
// the C++ compiler of the machine whose torch it will load. A program linked to it looks for it
// beside itself first.
let prebuiltShim = Context.environment["CTORCH_PREBUILT"].flatMap { $0.isEmpty ? nil : $0 }

// The kernels are compiled for a named processor level: without one, SIMD fused multiply-adds
// become library calls and the code is 150 times slower. AttentionCPU checks the processor.
#if arch(x86_64)
  let avx2 = ["-Ounchecked", "-Xcc", "-march=x86-64-v3"]
  let avx512 = ["-Ounchecked", "-Xcc", "-march=x86-64-v4", "-Xcc", "-mprefer-vector-width=512"]
#else
  let avx2 = ["-Ounchecked"]
  let avx512 = avx2
#endif

func torchFlags(libraries folders: [String]) -> [String] {
  folders.flatMap { ["-L" + $0, "-Xlinker", "-rpath", "-Xlinker", $0] }
}

let shimTarget: Target
let shimLinking: [LinkerSetting]
if let prebuiltShim {
  let folder = URL(fileURLWithPath: prebuiltShim).deletingLastPathComponent().path
  shimTarget = .systemLibrary(name: "CTorch", path: "Sources/CTorch/include")
  shimLinking = [
    .unsafeFlags(
      ["-Xlinker", "-rpath", "-Xlinker", "$ORIGIN"]
        + torchFlags(libraries: [folder, torch + "/lib"])),
    .linkedLibrary("ctorch"),
  ]
} else {
  shimTarget = .target(
    name: "CTorch",
    cxxSettings: [
      .unsafeFlags([
        "-isystem", torch + "/include",
        "-isystem", torch + "/include/torch/csrc/api/include",
        "-O2",
      ])
    ],
    linkerSettings: [
      .unsafeFlags(torchFlags(libraries: [torch + "/lib"])),
      .linkedLibrary("c10"), .linkedLibrary("torch_cpu"), .linkedLibrary("torch"),
    ])
  shimLinking = []
}

let package = Package(
  name: "swift-tensorized-attention",
  products: [
    .library(name: "Folding", targets: ["Folding"]),
    // Folds, masks, layouts and tensors are part of the operators' interface.
    .library(
      name: "TensorizedAttention",
      targets: ["TensorizedAttention", "Folding", "AttentionCore", "Torch"]),
    .executable(name: "tensattn", targets: ["tensattn"]),
  ],
  dependencies: [
    .package(url: "https://github.com/apple/swift-argument-parser", from: "1.8.2"),
    .package(url: "https://github.com/apple/swift-collections", from: "1.6.0"),
    .package(url: "https://github.com/apple/swift-log", from: "1.16.2"),
    .package(url: "https://github.com/ordo-one/TextTable", from: "0.0.2"),
    .package(url: "https://github.com/swiftlang/swift-docc-plugin", from: "1.5.0"),
  ],
  targets: [
    shimTarget,
    .target(name: "Folding"),
    .target(name: "AttentionCore", dependencies: ["Folding"]),
    .target(
      name: "AttentionKernels", dependencies: ["AttentionCore"],
      swiftSettings: [.unsafeFlags(avx2)]),
    // The same sources through a symbolic link, compiled for AVX-512.
    .target(
      name: "AttentionKernelsAVX512", dependencies: ["AttentionCore"],
      swiftSettings: [.define("AVX512"), .unsafeFlags(avx512)]),
    .target(
      name: "AttentionCPU",
      dependencies: ["AttentionCore", "AttentionKernels", "AttentionKernelsAVX512"]),
    .target(
      name: "AttentionCUDA", dependencies: ["Folding", "AttentionCore"],
      resources: [
        "Prelude", "Tiles", "Cluster", "Exchange", "Forward", "ForwardFused", "Backward",
        "BackwardLong", "BiasGradient", "Reduce", "Decode", "Warpgroup", "WarpgroupWalk",
        "WarpgroupProducers", "WarpgroupSoftmax", "WarpgroupTakers", "ForwardWarpgroup",
        "ClusterTasks", "ForwardCluster",
        "BackwardRows", "BackwardResults", "BackwardScores", "BackwardWarpgroup",
        "BackwardFibers", "WholeFibers", "BackwardWhole", "WindowTiles", "BackwardWindow",
        "BackwardProducts", "BackwardTiles", "BackwardShortWarpgroup", "BackwardFusedWarpgroup",
        "BackwardBulk", "BackwardFusedBulk",
      ].map {
        .embedInCode("Kernels/\($0).cu")
      }),
    .target(name: "Torch", dependencies: ["CTorch"], linkerSettings: shimLinking),
    .target(
      name: "TensorizedAttention",
      dependencies: [
        "Folding", "AttentionCore", "AttentionCPU", "AttentionCUDA", "Torch",
        .product(name: "Logging", package: "swift-log"),
      ]),
    .target(
      name: "NN",
      dependencies: [
        "AttentionCore", "Torch", "TensorizedAttention",
        .product(name: "OrderedCollections", package: "swift-collections"),
      ]),
    .target(name: "Models", dependencies: ["NN"]),
    .target(name: "Text", dependencies: ["Folding"]),
    .target(
      name: "Training",
      dependencies: ["Models", "Text", .product(name: "Logging", package: "swift-log")]),
    .target(
      name: "Evaluation",
      dependencies: [
        "AttentionCPU", "AttentionCUDA", "AttentionCore", "Folding", "Models",
        "TensorizedAttention", "Text", "Torch", "Training",
        .product(name: "TextTable", package: "TextTable"),
      ]),
    .executableTarget(
      name: "tensattn",
      dependencies: [
        "Evaluation",
        .product(name: "ArgumentParser", package: "swift-argument-parser"),
      ]),
    .testTarget(name: "FoldingTests", dependencies: ["Folding"]),
    .testTarget(name: "AttentionCPUTests", dependencies: ["AttentionCPU"]),
    .testTarget(name: "AttentionCUDATests", dependencies: ["AttentionCUDA"]),
    .testTarget(
      name: "TensorizedAttentionTests", dependencies: ["TensorizedAttention", "TestSupport"]),
    .testTarget(name: "TorchTests", dependencies: ["Torch"]),
    .target(name: "TestSupport", dependencies: ["Torch"], path: "Tests/TestSupport"),
    .testTarget(name: "TextTests", dependencies: ["Text", "TestSupport"]),
    .testTarget(name: "NNTests", dependencies: ["NN", "TestSupport"]),
    .testTarget(name: "ModelsTests", dependencies: ["Models", "TestSupport"]),
    .testTarget(
      name: "TrainingTests",
      dependencies: [
        "Training", "TestSupport",
        .product(name: "OrderedCollections", package: "swift-collections"),
      ]),
    .testTarget(name: "tensattnTests", dependencies: ["tensattn", "TestSupport", "Torch"]),
    .testTarget(name: "EvaluationTests", dependencies: ["Evaluation", "TestSupport"]),
  ]
)
