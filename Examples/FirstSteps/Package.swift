// swift-tools-version: 6.2
import PackageDescription

let package = Package(
  name: "FirstSteps",
  dependencies: [.package(name: "swift-tensorized-attention", path: "../..")],
  targets: [
    .executableTarget(
      name: "FirstSteps",
      dependencies: [
        .product(name: "TensorizedAttention", package: "swift-tensorized-attention")
      ])
  ]
)
