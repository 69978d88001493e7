import Folding

#if canImport(Glibc)
  import Glibc
#elseif canImport(Darwin)
  import Darwin
#endif

/// The angles of a mode's rotary embedding.
public struct RotaryAngles: Sendable {
  /// The angle by which pair i turns from one token of a line to the next, in radians: D/2 values.
  public let perPlace: [Double]
  /// The factor on cosines and sines; 1 unless YaRN sets it.
  public let magnitude: Double

  /// The angles of the pass of a mode, or nil where nothing is rotated.
  ///
  /// Only distances along the mode matter, so angles are counted in places of the line: a place is
  /// one position of the mode (`Rotary.Positions.mode`), or `s_k` of them
  /// (`Rotary.Positions.sequence`). Callers count places from an origin of their own near the
  /// tokens at hand, so that positions of a million cost no precision.
  ///
  /// - Precondition: D is even.
  public init?(_ rotary: Rotary, mode: Mode, width: Int) {
    guard rotary.positions != .none else { return nil }
    require(width % 2 == 0, "Rotary positions pair channels and need an even D, got \(width).")
    let scaling =
      rotary.scaling.indices.contains(mode.index - 1) ? rotary.scaling[mode.index - 1] : .none
    let step = rotary.positions == .sequence ? Double(mode.stride) : 1
    let (frequencies, magnitude) = RotaryAngles.frequencies(
      width: width, base: rotary.base, scaling: scaling)
    self.perPlace = frequencies.map { $0 * step }
    self.magnitude = magnitude
  }

  /// The frequencies `base^(−2i/d)` under a scaling, and the factor on cosines and sines.
  public static func frequencies(
    width: Int, base: Double, scaling: Rotary.Scaling
  ) -> (frequencies: [Double], magnitude: Double) {
    let d = Double(width)
    func plain(_ base: Double) -> [Double] {
      (0..<width / 2).map { pow(base, -2 * Double($0) / d) }
    }
    switch scaling {
    case .none:
      return (plain(base), 1)
    case .linear(let factor):
      return (plain(base).map { $0 / factor }, 1)
    case .ntk(let factor):
      return (plain(base * pow(factor, d / max(d - 2, 1))), 1)
    case .yarn(let factor, let trainedLength):
      // Channel i turns r = L·f_i / 2π times over the trained length L. Channels of 32 turns and
      // more keep their frequency, those of one turn and less are interpolated.
      func channel(turns: Double) -> Double {
        d * log(Double(trainedLength) / (turns * 2 * Double.pi)) / (2 * log(base))
      }
      let low = max(channel(turns: 32).rounded(.down), 0)
      let high = min(channel(turns: 1).rounded(.up), d - 1)
      let frequencies = plain(base).enumerated().map { i, f in
        let ramp = min(max((Double(i) - low) / max(high - low, 0.001), 0), 1)
        return f / factor * ramp + f * (1 - ramp)
      }
      return (frequencies, factor > 1 ? 0.1 * log(factor) + 1 : 1)
    }
  }
}

/// Cosines and sines of the angles at places 0, 1, …, each row D/2 cosines and then D/2 sines.
public final class RotaryTable: Sendable {
  /// `[places, D]`.
  public let values: [Float]
  /// D.
  public let width: Int

  /// Computes a table in f64 and stores it in f32.
  public init(_ angles: RotaryAngles, places: Int) {
    let half = angles.perPlace.count
    width = 2 * half
    var values = [Float](repeating: 0, count: places * 2 * half)
    for place in 0..<places {
      for i in 0..<half {
        let angle = Double(place) * angles.perPlace[i]
        values[place * 2 * half + i] = Float(cos(angle) * angles.magnitude)
        values[place * 2 * half + half + i] = Float(sin(angle) * angles.magnitude)
      }
    }
    self.values = values
  }
}
