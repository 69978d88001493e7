import AttentionCUDA
import Folding
import Testing

@Suite("Pass shapes")
struct PassShapeTests {
  /// A pass of a fold's top mode, or of its lowest one, over 64 fibers' tokens.
  private func shape(
    _ size: Int, stride: Int = 64, width: Int = 128, support: Support = .blockCausal,
    element: CUDAElement = .bfloat16, valueHeads: Int = 4
  ) -> CUDAPassShape {
    CUDAPassShape(
      element: element, headWidth: width, batch: 2, heads: 4, keyHeads: 2, valueHeads: valueHeads,
      tokens: 64 * 1024,
      mode: Mode(index: stride == 1 ? 2 : 1, size: size, stride: stride, isLowest: stride == 1),
      support: support, isJoint: false, hasBeta: false)
  }

  @Test("u' replaces u where whoever writes a row has read it")
  func worksInPlace() {
    let onHopper = { (shape: CUDAPassShape) in shape.worksInPlace(capability: 90, scale: 1) }
    #expect(onHopper(shape(32)), "a short pass's blocks have whole fibers")
    #expect(onHopper(shape(128)), "one step of queries a walk")
    #expect(onHopper(shape(256, support: .block)), "a fiber that the ring holds")
    #expect(onHopper(shape(600, width: 64)), "narrow tiles, of which the ring holds more")
    #expect(!onHopper(shape(600)), "steps of a streamed fiber are several walks'")
    #expect(!onHopper(shape(128, stride: 1, support: .slidingCausal)), "windows overlap")
    #expect(!onHopper(shape(128, valueHeads: 2)), "u has fewer heads than u'")
    #expect(!onHopper(shape(128, element: .float32)), "blocks of 128 queries share a fiber's keys")
    #expect(!shape(128).worksInPlace(capability: 90, scale: -1), "no warpgroups below scale 0")
    #expect(!shape(128).worksInPlace(capability: 80, scale: 1), "no warpgroups")
    #expect(shape(32, element: .float32).worksInPlace(capability: 80, scale: 1))
  }

  @Test("∂/∂u replaces ∂/∂u' in short passes alone")
  func backwardWorksInPlace() {
    #expect(shape(32).backwardWorksInPlace)
    #expect(shape(64, element: .float32).backwardWorksInPlace)
    #expect(!shape(128).backwardWorksInPlace, "queries and keys have blocks of their own")
    #expect(!shape(32, valueHeads: 2).backwardWorksInPlace, "∂/∂u has fewer heads than ∂/∂u'")
  }
}
