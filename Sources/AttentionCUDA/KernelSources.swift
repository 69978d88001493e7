/// The CUDA sources, embedded in the binary.
package enum KernelSources {
  /// The source of a kernel file behind the two that all of them share.
  ///
  /// - Precondition: `file` is one of ``files``.
  package static func source(of file: String) -> String {
    let bytes: [UInt8]
    switch file {
    case "Forward": bytes = PackageResources.Forward_cu
    case "ForwardFused":
      bytes =
        PackageResources.Cluster_cu + PackageResources.Exchange_cu
        + PackageResources.ForwardFused_cu
    case "ForwardCluster":
      bytes =
        PackageResources.Cluster_cu + PackageResources.Exchange_cu + PackageResources.Warpgroup_cu
        + PackageResources.ClusterTasks_cu + PackageResources.ForwardCluster_cu
    case "ForwardWarpgroup":
      bytes =
        warpgroup + PackageResources.WarpgroupSoftmax_cu + PackageResources.WarpgroupTakers_cu
        + PackageResources.ForwardWarpgroup_cu
    case "BackwardWarpgroup":
      bytes =
        warpgroup + PackageResources.BackwardResults_cu + PackageResources.BackwardScores_cu
        + PackageResources.BackwardWarpgroup_cu
    case "BackwardWhole":
      bytes =
        warpgroup + PackageResources.BackwardResults_cu + PackageResources.BackwardScores_cu
        + PackageResources.BackwardFibers_cu + PackageResources.WholeFibers_cu
        + PackageResources.BackwardWhole_cu
    case "BackwardWindow":
      bytes =
        warpgroup + PackageResources.BackwardResults_cu + PackageResources.BackwardScores_cu
        + PackageResources.BackwardFibers_cu + PackageResources.WindowTiles_cu
        + PackageResources.BackwardWindow_cu
    case "BackwardRows": bytes = PackageResources.BackwardRows_cu
    case "Backward": bytes = PackageResources.Cluster_cu + PackageResources.Backward_cu
    case "BackwardShortWarpgroup":
      bytes =
        PackageResources.Warpgroup_cu + PackageResources.BackwardProducts_cu
        + PackageResources.BackwardTiles_cu + PackageResources.BackwardShortWarpgroup_cu
    case "BackwardFusedWarpgroup":
      bytes =
        PackageResources.Warpgroup_cu + PackageResources.Cluster_cu
        + PackageResources.BackwardProducts_cu + PackageResources.BackwardTiles_cu
        + PackageResources.BackwardFusedWarpgroup_cu
    case "BackwardFusedBulk":
      bytes =
        PackageResources.Warpgroup_cu + PackageResources.Cluster_cu
        + PackageResources.BackwardProducts_cu + PackageResources.BackwardBulk_cu
        + PackageResources.BackwardFusedBulk_cu
    case "BackwardLong": bytes = PackageResources.BackwardLong_cu
    case "BiasGradient": bytes = PackageResources.BiasGradient_cu
    case "Reduce": bytes = PackageResources.Reduce_cu
    case "Decode": bytes = PackageResources.Decode_cu
    default: preconditionFailure("There is no kernel file \(file); the files are \(files).")
    }
    return String(
      decoding: PackageResources.Prelude_cu + PackageResources.Tiles_cu + bytes, as: UTF8.self)
  }

  /// What the warpgroup kernels share.
  private static var warpgroup: [UInt8] {
    PackageResources.Warpgroup_cu + PackageResources.WarpgroupWalk_cu
      + PackageResources.WarpgroupProducers_cu
  }

  /// The names of the kernel files.
  package static let files = [
    "Forward", "ForwardFused", "ForwardCluster", "ForwardWarpgroup", "Backward",
    "BackwardShortWarpgroup", "BackwardFusedWarpgroup", "BackwardFusedBulk", "BackwardLong",
    "BackwardRows", "BackwardWarpgroup", "BackwardWhole",
    "BackwardWindow", "BiasGradient", "Reduce", "Decode",
  ]
}
