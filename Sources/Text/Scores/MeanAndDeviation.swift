import Folding
import Foundation

/// The mean of repeated measurements, such as one for each seed, and their standard deviation.
public struct MeanAndDeviation: Sendable, Hashable, Codable, CustomStringConvertible {
  /// The number n of measurements.
  public let count: Int
  /// The mean.
  public let mean: Double
  /// √(Σ (x − mean)² / (n − 1)); nil for a single measurement, which has no spread.
  public let deviation: Double?

  /// The mean and deviation of measurements, at least one.
  public init(_ values: [Double]) {
    require(!values.isEmpty, "A mean needs at least one value.")
    let mean = values.reduce(0, +) / Double(values.count)
    count = values.count
    self.mean = mean
    deviation =
      values.count < 2
      ? nil
      : (values.map { ($0 - mean) * ($0 - mean) }.reduce(0, +) / Double(values.count - 1))
        .squareRoot()
  }

  /// `0.9131 ± 0.0042`, or `0.9131` for a single measurement.
  public var description: String { text(digits: 4) }

  /// Mean ± deviation.
  ///
  /// - Parameters:
  ///   - scale: what both are multiplied with, such as 100 for percent.
  ///   - digits: the digits after the point.
  public func text(scale: Double = 1, digits: Int) -> String {
    let number = { (value: Double) in String(format: "%.\(digits)f", value * scale) }
    return number(mean) + (deviation.map { " ± " + number($0) } ?? "")
  }
}
