// Vectors of the width that this module is compiled for. The folder is compiled twice: for AVX2, and
// through the link AttentionKernelsAVX512 for AVX-512.
#if AVX512
  typealias Lanes = SIMD16<Float>
  typealias IntLanes = SIMD16<Int32>
  typealias UnsignedLanes = SIMD16<UInt32>
#else
  typealias Lanes = SIMD8<Float>
  typealias IntLanes = SIMD8<Int32>
  typealias UnsignedLanes = SIMD8<UInt32>
#endif

/// V, the number of floats in a vector.
let laneCount = Lanes.scalarCount

@_transparent
func load(_ pointer: UnsafePointer<Float>) -> Lanes {
  UnsafeRawPointer(pointer).loadUnaligned(as: Lanes.self)
}

@_transparent
func load(_ pointer: UnsafeMutablePointer<Float>) -> Lanes {
  UnsafeRawPointer(pointer).loadUnaligned(as: Lanes.self)
}

@_transparent
func store(_ value: Lanes, _ pointer: UnsafeMutablePointer<Float>) {
  UnsafeMutableRawPointer(pointer).storeBytes(of: value, as: Lanes.self)
}

/// The larger of each pair of lanes. The standard library's pointwiseMax goes lane by lane.
@_transparent
func larger(_ a: Lanes, _ b: Lanes) -> Lanes {
  a.replacing(with: b, where: a .< b)
}

/// 0, 1, …, V − 1.
@_transparent
func laneIndices() -> IntLanes {
  #if AVX512
    IntLanes(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)
  #else
    IntLanes(0, 1, 2, 3, 4, 5, 6, 7)
  #endif
}

/// The sum of the lanes, by halves.
@_transparent
func sum(_ v: Lanes) -> Float {
  #if AVX512
    let eight = v.lowHalf + v.highHalf
  #else
    let eight = v
  #endif
  let four = eight.lowHalf + eight.highHalf
  let two = four.lowHalf + four.highHalf
  return two[0] + two[1]
}

/// The largest lane, by halves.
@_transparent
func largest(_ v: Lanes) -> Float {
  #if AVX512
    let low = v.lowHalf
    let high = v.highHalf
    let eight = low.replacing(with: high, where: low .< high)
  #else
    let eight = v
  #endif
  let low4 = eight.lowHalf
  let high4 = eight.highHalf
  let four = low4.replacing(with: high4, where: low4 .< high4)
  let low2 = four.lowHalf
  let high2 = four.highHalf
  let two = low2.replacing(with: high2, where: low2 .< high2)
  return two[0] < two[1] ? two[1] : two[0]
}

/// 2^x for x ≤ 127, lane by lane; 0 below −126.
///
/// x = n + f with |f| ≤ ½: adding 1.5·2²³ leaves n in the low bits of the sum, from where a shift
/// brings it into the exponent. 2^f is a minimax polynomial of degree 6 with relative error 2·10⁻⁹.
@_transparent
func exp2(_ x: Lanes) -> Lanes {
  let rounder = Lanes(repeating: 12_582_912)
  let lowest = Lanes(repeating: -126)
  let clamped = x.replacing(with: lowest, where: x .< lowest)
  let shifted = clamped + rounder
  let f = clamped - (shifted - rounder)
  var p = Lanes(repeating: 1.534_584_8e-4)
  p = Lanes(repeating: 1.339_993_1e-3).addingProduct(p, f)
  p = Lanes(repeating: 9.618_489e-3).addingProduct(p, f)
  p = Lanes(repeating: 5.550_328_8e-2).addingProduct(p, f)
  p = Lanes(repeating: 0.240_226_47).addingProduct(p, f)
  p = Lanes(repeating: 0.693_147_2).addingProduct(p, f)
  p = Lanes(repeating: 1).addingProduct(p, f)
  let exponent = unsafeBitCast(shifted, to: IntLanes.self) &<< IntLanes(repeating: 23)
  let result = unsafeBitCast(unsafeBitCast(p, to: IntLanes.self) &+ exponent, to: Lanes.self)
  return result.replacing(with: Lanes.zero, where: x .< lowest)
}

/// (a0 b0 a1 b1 …) and its second half: one step of a transposition.
@_transparent
func interleave(_ a: Lanes, _ b: Lanes) -> (low: Lanes, high: Lanes) {
  #if AVX512
    (
      Lanes(
        a[0], b[0], a[1], b[1], a[2], b[2], a[3], b[3],
        a[4], b[4], a[5], b[5], a[6], b[6], a[7], b[7]),
      Lanes(
        a[8], b[8], a[9], b[9], a[10], b[10], a[11], b[11],
        a[12], b[12], a[13], b[13], a[14], b[14], a[15], b[15])
    )
  #else
    (
      Lanes(a[0], b[0], a[1], b[1], a[2], b[2], a[3], b[3]),
      Lanes(a[4], b[4], a[5], b[5], a[6], b[6], a[7], b[7])
    )
  #endif
}

/// log2(e): logits are kept in units of log 2, so that exp2 serves.
let log2e: Float = 1.442_695_04
/// ln 2.
let ln2: Float = 0.693_147_18
