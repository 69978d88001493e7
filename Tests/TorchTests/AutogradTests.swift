import Foundation
import Synchronization
import Testing
import Torch

@Suite("Autograd")
struct AutogradTests {
  /// A leaf that requires a gradient.
  static func leaf(_ elements: [Double]) -> Tensor {
    let tensor = Tensor(elements)
    tensor.requiresGrad = true
    return tensor
  }

  /// sin(a)·b on the elements' memory: a kernel with a derivative of its own.
  static func sineProduct(
    _ a: Tensor, _ b: Tensor, needed record: (@Sendable ([Bool]) -> Void)? = nil
  ) -> Tensor {
    Autograd.apply([a, b]) { inputs in
      let (x, y) = (inputs[0].array(Double.self), inputs[1].array(Double.self))
      return ([Tensor(zip(x, y).map { sin($0) * $1 }, shape: inputs[0].shape)], inputs)
    } backward: { pass in
      record?(pass.needed)
      guard let gradient = pass.gradients[0] else { return [nil, nil] }
      let (x, y) = (pass.saved[0], pass.saved[1])
      return [gradient * y * x.cos(), gradient * x.sin()]
    }[0]
  }

  @Test func `backward accumulates into leaves`() {
    let x = Self.leaf([1, 2])
    (x * x).sum().backward()
    expectEqual(x.grad ?? x, [2, 4])
    (x * x).sum().backward()
    expectEqual(x.grad ?? x, [4, 8])
    x.grad = nil
    #expect(x.grad == nil)
    (x * 3).backward(gradient: Tensor([1.0, 10]))
    expectEqual(x.grad ?? x, [3, 30])
  }

  @Test func `nothing is recorded without gradients`() {
    let x = Self.leaf([1, 2])
    #expect(x.isLeaf && x.requiresGrad)
    let y = withNoGrad { x * 2 }
    #expect(!y.requiresGrad && y.isLeaf)
    #expect(Autograd.isRecording)
    let z = x * 2
    #expect(z.requiresGrad && !z.isLeaf)
    #expect(!z.detached().requiresGrad)
    let w = withNoGrad { Autograd.withRecording(true) { x * 2 } }
    #expect(w.requiresGrad)
    withNoGrad { x.multiplyInPlace(2) }
    expectEqual(x.detached(), [2, 4])
  }

  @Test func `gradients by chosen tensors leave grad alone`() {
    let (x, y, unused) = (Self.leaf([2]), Self.leaf([3]), Self.leaf([1]))
    let z = x * x * y
    let gradients = Autograd.gradients(of: [z.sum()], by: [x, y, unused])
    expectEqual(gradients[0] ?? x, [12])
    expectEqual(gradients[1] ?? x, [4])
    #expect(gradients[2] == nil)
    #expect(x.grad == nil)
  }

  @Test func `second derivatives of libtorch's operators`() {
    let x = Self.leaf([2])
    let first = Autograd.gradients(of: [(x * x * x).sum()], by: [x], createGraph: true)[0]
    let second = Autograd.gradients(of: [(first ?? x).sum()], by: [x])[0]
    expectEqual(second ?? x, [12])
  }

  @Test func `a custom function's gradients are the analytic ones`() {
    let (a, b) = (Self.leaf([0.5, 1, -2]), Self.leaf([3, -1, 0.25]))
    let y = Self.sineProduct(a * 2, b)
    #expect(y.requiresGrad && !y.isLeaf)
    y.sum().backward()
    let (x, w) = (a.array(Double.self), b.array(Double.self))
    expectEqual(a.grad ?? a, zip(x, w).map { 2 * cos(2 * $0) * $1 })
    expectEqual(b.grad ?? b, x.map { sin(2 * $0) })
  }

  @Test func `a custom function used twice adds its gradients`() {
    let (a, b) = (Self.leaf([0.5, 1]), Self.leaf([3, -1]))
    let y = Self.sineProduct(a, Self.sineProduct(a, b))
    y.sum().backward()
    let (x, w) = (a.array(Double.self), b.array(Double.self))
    expectEqual(a.grad ?? a, zip(x, w).map { 2 * sin($0) * cos($0) * $1 })
    expectEqual(b.grad ?? b, x.map { sin($0) * sin($0) })
  }

  @Test func `a custom function is told which gradients are needed`() {
    let seen = Mutex<[Bool]>([])
    let (a, b) = (Tensor([1.0]), Self.leaf([2]))
    Self.sineProduct(a, b, needed: { needed in seen.withLock { $0 = needed } }).sum().backward()
    #expect(seen.withLock { $0 } == [false, true])
    expectEqual(b.grad ?? b, [sin(1.0)])
    #expect(a.grad == nil)
  }

  @Test func `outputs may be saved, several, and partly unused`() {
    let x = Self.leaf([1, 2])
    let outputs = Autograd.apply([x]) { inputs in
      let root = inputs[0].sqrt()
      return ([root, inputs[0] * 5, Tensor([7])], [root])
    } backward: { pass in
      #expect(pass.gradients[1] == nil && pass.gradients[2] == nil)
      return [pass.gradients[0].map { $0 * 0.5 / pass.saved[0] }]
    }
    #expect(outputs[1].requiresGrad)
    #expect(!outputs[2].requiresGrad, "integers carry no gradient")
    outputs[0].sum().backward()
    expectEqual(x.grad ?? x, [0.5, 0.5 / 2.0.squareRoot()])
  }

  @Test func `a custom function without gradients only computes`() {
    let (a, b) = (Self.leaf([1]), Self.leaf([2]))
    #expect(!withNoGrad { Self.sineProduct(a, b) }.requiresGrad)
    #expect(!Self.sineProduct(a.detached(), b.detached()).requiresGrad)
  }

  @Test func `errors of forward reach the caller`() {
    struct Refusal: Error {}
    #expect(throws: Refusal.self) {
      try Autograd.apply([Self.leaf([1])]) { _ in
        throw Refusal()
      } backward: { _ in
        []
      }
    }
  }

  @Test func `a second pass through a released graph stops with libtorch's sentence`() async {
    let result = await #expect(processExitsWith: .failure, observing: [\.standardErrorContent]) {
      let (a, b) = (AutogradTests.leaf([1]), AutogradTests.leaf([2]))
      let y = AutogradTests.sineProduct(a, b).sum()
      y.backward(retainGraph: true)
      y.backward()
      y.backward()
    }
    let text = String(decoding: result?.standardErrorContent ?? [], as: UTF8.self)
    #expect(text.contains("Trying to backward through the graph a second time"))
  }

  @Test func `an error in a custom backward stops the pass with its sentence`() async {
    let result = await #expect(processExitsWith: .failure, observing: [\.standardErrorContent]) {
      let x = AutogradTests.leaf([1])
      let y = Autograd.apply([x]) {
        ([$0[0] * 2], [])
      } backward: { _ in
        throw TorchError("the kernel broke")
      }
      y[0].sum().backward()
    }
    let text = String(decoding: result?.standardErrorContent ?? [], as: UTF8.self)
    #expect(text.contains("the kernel broke"))
  }

  @Test func `a second derivative through a custom function is an error`() async {
    let result = await #expect(processExitsWith: .failure, observing: [\.standardErrorContent]) {
      let (a, b) = (AutogradTests.leaf([1]), AutogradTests.leaf([2]))
      let y = AutogradTests.sineProduct(a, b).sum()
      let first = Autograd.gradients(of: [y], by: [a], createGraph: true)[0]
      (first ?? a).sum().backward()
    }
    let text = String(decoding: result?.standardErrorContent ?? [], as: UTF8.self)
    #expect(text.contains("differentiable once"))
  }

  @Test func `a saved input that was changed since is noticed`() async {
    let result = await #expect(processExitsWith: .failure, observing: [\.standardErrorContent]) {
      let (a, b) = (AutogradTests.leaf([1]), AutogradTests.leaf([2]))
      let y = AutogradTests.sineProduct(a, b)
      withNoGrad { a.multiplyInPlace(2) }
      y.sum().backward()
    }
    let text = String(decoding: result?.standardErrorContent ?? [], as: UTF8.self)
    #expect(text.contains("modified by an inplace operation"))
  }
}
