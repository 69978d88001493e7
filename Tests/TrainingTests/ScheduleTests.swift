import Testing
import Training

@Suite("Cosine schedule with warm-up")
struct ScheduleTests {
  let schedule = CosineSchedule(peak: 2, final: 0.2, warmUpSteps: 10, steps: 110)

  @Test(
    "Rates at characteristic steps",
    arguments: [(0, 0.2), (4, 1.0), (9, 2.0), (10, 2.0), (60, 1.1), (110, 0.2), (500, 0.2)])
  func rates(step: Int, expected: Double) {
    #expect(abs(schedule.rate(step: step) - expected) < 1e-12)
  }

  @Test("The rate rises to the peak, then never rises again")
  func shape() {
    let rates = (0..<120).map(schedule.rate(step:))
    #expect(zip(rates[..<10], rates[1..<10]).allSatisfy { $0 < $1 })
    #expect(zip(rates[9...], rates[10...]).allSatisfy { $0 >= $1 })
  }

  @Test("Without warm-up the first rate is the peak; with nothing else the rate stays finite")
  func degenerate() {
    #expect(CosineSchedule(peak: 1, final: 0, warmUpSteps: 0, steps: 5).rate(step: 0) == 1)
    #expect(CosineSchedule(peak: 1, final: 0.5, warmUpSteps: 3, steps: 3).rate(step: 3) == 0.5)
    #expect(CosineSchedule(peak: 1, final: 0.5, warmUpSteps: 5, steps: 3).rate(step: 4) == 1)
  }
}
