import Foundation
import Synchronization
import Testing
import Torch

/// What concerns the whole process runs in a process of its own: tests share theirs.
@Suite("The process")
struct ProcessTests {
  /// A step of a small training: operators, a custom function, its backward, an update in place.
  static func step(_ weight: Tensor) {
    let x = Tensor.randn([64, 64])
    let hidden = Autograd.apply([x.matmul(weight)]) { inputs in
      let result = inputs[0].tanh()
      return ([result], [result])
    } backward: { pass in
      [pass.gradients[0].map { $0 * (1 - pass.saved[0] * pass.saved[0]) }]
    }
    hidden[0].square().mean().backward()
    withNoGrad { if let gradient = weight.grad { weight.addInPlace(gradient, scale: -0.1) } }
    weight.grad = nil
  }

  @Test func `tensors are freed when Swift lets go of them`() async {
    await #expect(processExitsWith: .success) {
      let before = Runtime.liveTensorCount
      do {
        let x = Tensor.ones([4, 4])
        let parts = x.chunk(2) + [x + x, x[0]]
        #expect(Runtime.liveTensorCount == before + 1 + parts.count)
        _ = try? ATen.call("aten::matmul", [.tensor(x), .tensor(Tensor.ones([3, 3]))])
      }
      #expect(Runtime.liveTensorCount == before)
      do {
        let weight = Tensor.randn([64, 64])
        weight.requiresGrad = true
        for _ in 0..<10 { ProcessTests.step(weight) }
        // A graph that is never walked goes with its outputs, closures and saved tensors.
        _ = Autograd.apply([weight]) {
          ([$0[0] * 2], [$0[0]])
        } backward: {
          $0.gradients
        }
      }
      #expect(Runtime.liveTensorCount == before)
    }
  }

  @Test func `a closure and what it captures go with the graph`() async {
    await #expect(processExitsWith: .success) {
      final class Witness: Sendable {
        let count: Mutex<Int>.Holder
        init(_ count: Mutex<Int>.Holder) { self.count = count }
        deinit { count.value.withLock { $0 += 1 } }
      }
      let freed = Mutex<Int>.Holder()
      for walked in [true, false] {
        let x = AutogradTests.leaf([1])
        let witness = Witness(freed)
        let y = Autograd.apply([x]) {
          ([$0[0] * 2], [])
        } backward: { pass in
          withExtendedLifetime(witness) { [pass.gradients[0].map { $0 * 2 }] }
        }
        if walked { y[0].sum().backward() }
      }
      #expect(freed.value.withLock { $0 } == 2)
    }
  }

  @Test func `thousands of steps hold the resident size`() async {
    await #expect(processExitsWith: .success) {
      let weight = Tensor.randn([64, 64])
      weight.requiresGrad = true
      for _ in 0..<500 { ProcessTests.step(weight) }
      let (count, bytes) = (Runtime.liveTensorCount, residentByteCount())
      for _ in 0..<3000 { ProcessTests.step(weight) }
      #expect(Runtime.liveTensorCount == count)
      // One leaked [64, 64] tensor a step would be 49 MB.
      #expect(residentByteCount() - bytes < 4 << 20)
    }
  }

  @Test func `a seed repeats the default generator's numbers`() async {
    await #expect(processExitsWith: .success) {
      manualSeed(7)
      let first = [
        Tensor.rand([8]), Tensor.randn([8]), Tensor.ones([8]).dropout(0.5, training: true),
      ]
      let state = Generator.standard().state()
      let next = Tensor.rand([8])
      manualSeed(7)
      let again = [
        Tensor.rand([8]), Tensor.randn([8]), Tensor.ones([8]).dropout(0.5, training: true),
      ]
      #expect(zip(first, again).allSatisfy { $0.isEqual(to: $1) })
      try Generator.standard().restore(state)
      #expect(Tensor.rand([8]).isEqual(to: next))
      manualSeed(8)
      #expect(!Tensor.rand([8]).isEqual(to: first[0]))
    }
  }

  @Test func `a generator of one's own repeats its numbers and bounds them`() throws {
    func draw(_ seed: UInt64) -> [Tensor] {
      let generator = Generator(seed: seed)
      return [
        .rand([100], generator: generator), .randn([100], generator: generator),
        .randint(3..<7, [100], generator: generator), .randperm(100, generator: generator),
        Tensor.ones([100]).multinomial(5, generator: generator),
      ]
    }
    let (first, again, other) = (draw(1), draw(1), draw(2))
    #expect(zip(first, again).allSatisfy { $0.isEqual(to: $1) })
    #expect(zip(first, other).allSatisfy { !$0.isEqual(to: $1) })
    #expect(Set(first[2].array(Int.self)) == [3, 4, 5, 6])
    #expect(first[3].array(Int.self).sorted() == Array(0..<100))
    let generator = Generator(seed: 1)
    #expect(throws: TorchError.self) { try generator.restore(Tensor.ones([3])) }
  }

  @Test(arguments: [0, 1, 2, 7, 1000])
  func `every index of parallelFor runs once`(count: Int) {
    let seen = Mutex([Int](repeating: 0, count: count))
    Runtime.parallelFor(count) { index in seen.withLock { $0[index] += 1 } }
    #expect(seen.withLock { $0 } == [Int](repeating: 1, count: count))
  }

  @Test func `parallelFor runs inside of itself and on one thread`() async {
    await #expect(processExitsWith: .success) {
      let total = Mutex(0)
      Runtime.parallelFor(8) { i in
        Runtime.parallelFor(8) { j in total.withLock { $0 += i * 8 + j } }
      }
      #expect(total.withLock { $0 } == 63 * 64 / 2)
      Runtime.threadCount = 1
      #expect(Runtime.threadCount == 1)
      let thread = pthread_self()
      Runtime.parallelFor(4) { _ in precondition(pthread_equal(thread, pthread_self()) != 0) }
    }
  }

  @Test func `parallelFor uses several threads`() async {
    await #expect(processExitsWith: .success) {
      Runtime.threadCount = 2
      // Each of two tasks waits for the other: only two threads at once get through.
      let arrived = Mutex(0)
      Runtime.parallelFor(2) { _ in
        arrived.withLock { $0 += 1 }
        while arrived.withLock({ $0 }) < 2 { sched_yield() }
      }
    }
  }

  @Test func `the loaded library is the one that was built against`() throws {
    try Runtime.checkLibrary()
    #expect(Runtime.version.hasPrefix("2."))
  }

  @Test func `a library without CUDA says so`() {
    guard !Runtime.isCUDAAvailable else { return }
    #expect(throws: TorchError.self) { try Runtime.currentCUDAStream(device: 0) }
    #expect(throws: TorchError.self) { try Runtime.memory(of: .cpu) }
    Runtime.synchronize(.cpu)
  }
}

extension Mutex where Value == Int {
  /// A mutex that can be shared.
  final class Holder: Sendable {
    let value = Mutex(0)
  }
}
