import CTorch

/// Where a tensor's memory is.
public struct Device: Hashable, Sendable, CustomStringConvertible {
  /// The kinds of device, by libtorch's code.
  public enum Kind: Int32, Sendable {
    case cpu = 0
    case cuda = 1
  }

  /// The kind of device.
  public let kind: Kind
  /// Which of the devices of this kind, or −1 for the current one.
  public let index: Int

  /// The processor's memory.
  public static let cpu = Device(kind: .cpu, index: -1)

  /// The GPU of this number.
  public static func cuda(_ index: Int = 0) -> Device {
    Device(kind: .cuda, index: index)
  }

  init(kind: Kind, index: Int) {
    self.kind = kind
    self.index = index
  }

  init(_ device: ct_device) {
    guard let kind = Kind(rawValue: device.type) else {
      stop("A tensor is on a device of libtorch's type \(device.type), which is not supported.")
    }
    self.init(kind: kind, index: kind == .cpu ? -1 : Int(device.index))
  }

  /// The device that `text` names: `cpu`, `cuda` or `cuda:N`.
  ///
  /// - Throws: ``TorchError`` if it names none, or one that this machine does not have.
  public init(parsing text: String) throws {
    let parts = text.split(separator: ":", omittingEmptySubsequences: false)
    switch (parts.first, parts.count) {
    case ("cpu", 1):
      self = .cpu
    case ("cuda", 1):
      self = .cuda()
    case ("cuda", 2):
      guard let index = Int(parts[1]), index >= 0 else { fallthrough }
      self = .cuda(index)
    default:
      throw TorchError("'\(text)' is not a device; expected cpu, cuda or cuda:N.")
    }
    try requireAvailable()
  }

  /// Throws a ``TorchError`` that says what to do if this machine does not have the device.
  public func requireAvailable() throws {
    guard kind == .cuda else { return }
    let count = Runtime.cudaDeviceCount
    if count == 0 {
      throw TorchError(
        "No CUDA device is available: libtorch \(Runtime.version) sees none. "
          + "Use the cpu device, or let LIBTORCH name a CUDA build on a machine with a GPU.")
    }
    if index >= count {
      throw TorchError("There is no device \(self): this machine has \(count) CUDA device(s).")
    }
  }

  /// The name that ``init(parsing:)`` reads.
  public var description: String {
    switch kind {
    case .cpu: "cpu"
    case .cuda: index < 0 ? "cuda" : "cuda:\(index)"
    }
  }

  var raw: ct_device { ct_device(type: kind.rawValue, index: Int32(index)) }
}
