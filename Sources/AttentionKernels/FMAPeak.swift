/// The rate of fused multiply-adds on registers: what no kernel of this module can exceed.
public enum FMAPeak {
  /// FLOP/s of one core: the best of many stretches of some 50 µs.
  public static func measure(seconds: Double) -> Double {
    let clock = ContinuousClock()
    let rounds = 20_000
    var best = 0.0
    var sink = Lanes.zero
    let end = clock.now + .seconds(seconds)
    repeat {
      let start = clock.now
      sink += multiply(rounds: rounds, by: Lanes(repeating: 0.999_9))
      let elapsed = (clock.now - start) / .nanoseconds(1)
      best = max(best, Double(rounds * 12 * laneCount * 2) / elapsed * 1e9)
    } while clock.now < end
    return sum(sink).isNaN ? 0 : best
  }

  @inline(never)
  private static func multiply(rounds: Int, by x: Lanes) -> Lanes {
    let y = Lanes(repeating: 1e-4)
    var (a, b, c, d) = (y, y + 1, y + 2, y + 3)
    var (e, f, g, h) = (y + 4, y + 5, y + 6, y + 7)
    var (i, j, k, l) = (y + 8, y + 9, y + 10, y + 11)
    for _ in 0..<rounds {
      a = y.addingProduct(a, x)
      b = y.addingProduct(b, x)
      c = y.addingProduct(c, x)
      d = y.addingProduct(d, x)
      e = y.addingProduct(e, x)
      f = y.addingProduct(f, x)
      g = y.addingProduct(g, x)
      h = y.addingProduct(h, x)
      i = y.addingProduct(i, x)
      j = y.addingProduct(j, x)
      k = y.addingProduct(k, x)
      l = y.addingProduct(l, x)
    }
    return a + b + c + d + e + f + g + h + i + j + k + l
  }
}
