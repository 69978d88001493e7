import AttentionCUDA
import Testing

@Suite("Plan memo")
struct PlanMemoTests {
  @Test("plans are formed once, and right after more shapes than it remembers")
  func remembers() {
    let memo = PlanMemo<Int, Int>()
    var formed = 0
    for round in 0..<2 {
      for shape in 0..<3 {
        let plans = memo(shape) {
          formed += 1
          return shape * 10
        }
        #expect(plans == shape * 10, "round \(round)")
      }
    }
    #expect(formed == 3)
    for shape in 0..<3000 { #expect(memo(shape) { shape * 10 } == shape * 10) }
  }
}
