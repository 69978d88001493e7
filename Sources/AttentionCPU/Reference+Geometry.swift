import AttentionCore
import Folding

#if canImport(Glibc)
  import Glibc
#elseif canImport(Darwin)
  import Darwin
#endif

// Which tokens meet and where they stand, in the words of the definition and apart from the lines
// that the kernels walk.

extension AttentionPattern {
  /// The tokens that query t sees in the pass of a mode.
  func keys(of t: Int, mode: Mode, length: Int) -> [Int] {
    let (n, s) = (mode.size, mode.stride)
    switch support {
    case .slidingCausal:
      return (0..<min(n, t / s + 1)).map { t - $0 * s }.filter { $0 < length }
    case .block, .blockCausal:
      let own = fold.coordinate(of: t, mode: mode.index)
      let room = own + (length - 1 - t) / s + 1
      let last = support == .block ? min(n, max(room, 0)) : own + 1
      return (0..<last).map { t + ($0 - own) * s }.filter { $0 < length }
    }
  }

  /// The position of a token in the rotary embedding of a mode.
  func position(of t: Int, mode: Mode) -> Int {
    switch rotary.positions {
    case .none: return 0
    case .sequence: return t
    case .mode:
      return support == .slidingCausal
        ? t / mode.stride : fold.coordinate(of: t, mode: mode.index)
    }
  }

  /// The rows of q or k turned to their positions in a mode; `direction` −1 turns back.
  func rotated<Scalar: ReferenceScalar>(
    _ rows: [Scalar], width: Int, mode: Mode, tokens: Range<Int>, direction: Scalar = 1
  ) -> [Scalar] {
    guard rotary.positions != .none else { return rows }
    let scaling =
      rotary.scaling.indices.contains(mode.index - 1) ? rotary.scaling[mode.index - 1] : .none
    let (frequencies, magnitude) = RotaryAngles.frequencies(
      width: width, base: rotary.base, scaling: scaling)
    let half = width / 2
    var result = rows
    for row in 0..<rows.count / max(width, 1) {
      let t = tokens.lowerBound + row % tokens.count
      for i in 0..<half {
        // The angle in f64 whatever the type: in f32 it is off by 0.06 rad at a million.
        let angle = Double(position(of: t, mode: mode)) * frequencies[i]
        let c = Scalar(cos(angle) * magnitude)
        let s = Scalar(sin(angle) * magnitude) * direction
        let (x, y) = (rows[row * width + i], rows[row * width + half + i])
        result[row * width + i] = x * c - y * s
        result[row * width + half + i] = y * c + x * s
      }
    }
    return result
  }
}
