#if canImport(Glibc)
  import Glibc
#elseif canImport(Darwin)
  import Darwin
#endif

/// ln x, once a row.
@inline(__always)
func logarithm(_ x: Float) -> Float { log(x) }
