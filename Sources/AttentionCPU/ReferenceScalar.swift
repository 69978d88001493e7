#if canImport(Glibc)
  import Glibc
#elseif canImport(Darwin)
  import Darwin
#endif

/// A type in which the reference computes: `Double` to check with, `Float` to see what f32 costs.
public protocol ReferenceScalar: BinaryFloatingPoint, Sendable {
  /// eˣ.
  static func exponential(_ x: Self) -> Self
  /// ln x.
  static func logarithm(_ x: Self) -> Self
}

extension Double: ReferenceScalar {
  /// eˣ.
  public static func exponential(_ x: Double) -> Double { exp(x) }
  /// ln x.
  public static func logarithm(_ x: Double) -> Double { log(x) }
}

extension Float: ReferenceScalar {
  /// eˣ.
  public static func exponential(_ x: Float) -> Float { exp(x) }
  /// ln x.
  public static func logarithm(_ x: Float) -> Float { log(x) }
}
