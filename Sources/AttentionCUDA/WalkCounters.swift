import Synchronization

/// A device's counters by which launches deal out their last walks.
struct WalkCounters {
  /// Where they begin, one in every ``bytes``.
  var address: CUDADriver.Address
  /// Which one is the next launch's.
  var next = 0

  /// More than the launches that a driver lets wait.
  static let count = 8192
  /// A sector of L2 each.
  static let bytes = 32
}

extension CUDAKernels {
  /// A counter that is 0 and that no launch under way uses: each launch leaves its own as it was, and the same one comes
  /// again after ``WalkCounters/count`` launches. A launch that is recorded to be replayed, as in a CUDA graph, would share its
  /// counter with later ones: what is to be recorded needs counters of its own.
  ///
  /// - Throws: ``CUDAError``, for one if there is no room for the counters.
  func walkCounter(on device: CUDADriver.Device) throws(CUDAError) -> CUDADriver.Address {
    try walkCounters.withLock { counters throws(CUDAError) in
      var mine: WalkCounters
      if let known = counters[device.ordinal] {
        mine = known
      } else {
        mine = WalkCounters(
          address: try driver.allocate(bytes: WalkCounters.count * WalkCounters.bytes))
        try driver.upload(
          [UInt8](repeating: 0, count: WalkCounters.count * WalkCounters.bytes), to: mine.address)
      }
      let address = mine.address + UInt64(mine.next * WalkCounters.bytes)
      mine.next = (mine.next + 1) % WalkCounters.count
      counters[device.ordinal] = mine
      return address
    }
  }
}
