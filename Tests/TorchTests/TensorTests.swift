import Testing
import Torch

@Suite("Tensors")
struct TensorTests {
  @Test func `a tensor tells its shape, strides, type and place`() {
    let x = counting([2, 3, 4])
    #expect(x.rank == 3)
    #expect(x.count == 24)
    #expect(x.size(-1) == 4)
    #expect(x.strides == [12, 4, 1])
    #expect(x.dtype == .float32)
    #expect(x.device == .cpu)
    #expect(x.byteCount == 96)
    let y = x.transpose(0, 2)
    #expect(y.shape == [4, 3, 2])
    #expect(y.strides == [1, 4, 12])
    #expect(!y.isContiguous)
    #expect(y.contiguous().isContiguous)
    #expect(x[1].storageOffset == 12)
    #expect("\(vector([1, 2]))" == "Tensor([2], float32: 1.0 2.0)")
  }

  @Test(arguments: DType.allCases)
  func `elements survive a conversion to every type and back`(dtype: DType) throws {
    let elements: [Double] = dtype == .bool ? [0, 1, 1] : [0, 1, 100]
    let converted = Tensor(elements, dtype: dtype)
    #expect(converted.dtype == dtype)
    #expect(converted.array(Double.self) == elements)
    #expect(converted.byteCount == 3 * dtype.byteCount)
    #expect(try DType(parsing: "\(dtype)") == dtype)
  }

  @Test func `arrays of every element type go in and out unchanged`() {
    func roundTrip<T: TensorElement & Equatable>(_ elements: [T]) {
      let tensor = Tensor(elements)
      #expect(tensor.dtype == T.dtype)
      #expect(tensor.array(T.self) == elements)
    }
    roundTrip([UInt8.min, 7, .max])
    roundTrip([Int8.min, -7, .max])
    roundTrip([Int16.min, -7, .max])
    roundTrip([Int32.min, -7, .max])
    roundTrip([Int64.min, -7, .max])
    roundTrip([Int.min, -7, .max])
    roundTrip([Float.leastNonzeroMagnitude, -7.5, .greatestFiniteMagnitude, .infinity])
    roundTrip([Double.leastNonzeroMagnitude, -7.5, .greatestFiniteMagnitude, .infinity])
    roundTrip([true, false])
    #if !(os(macOS) && arch(x86_64))
      roundTrip([Float16.leastNonzeroMagnitude, -7.5, .greatestFiniteMagnitude])
    #endif
    roundTrip([Float]())
  }

  @Test func `scalars go in and out`() {
    #expect(Tensor(scalar: 3).item(Int.self) == 3)
    #expect(Tensor(scalar: 2.5, dtype: .float32).item() == 2.5)
    #expect(Tensor(scalar: 1.5).shape == [])
  }

  static let created: [Case] = [
    Case("zeros", [0, 0, 0, 0], shape: [2, 2]) { .zeros([2, 2]) },
    Case("ones", [1, 1, 1], shape: [3, 1]) { .ones([3, 1]) },
    Case("full", [2.5, 2.5]) { .full([2], 2.5) },
    Case("full of integers", [7, 7]) { .full([2], 7, dtype: .int32) },
    Case("arange", [2, 5, 8]) { .arange(2, 11, step: 3) },
    Case("identity", [1, 0, 0, 1], shape: [2, 2]) { .identity(2) },
    Case("zerosLike", [0, 0]) { vector([1, 2]).zerosLike() },
    Case("onesLike", [1, 1]) { vector([1, 2]).onesLike() },
    Case("cloned", [1, 2]) { vector([1, 2]).cloned() },
  ]

  @Test(arguments: created)
  func creation(_ example: Case) {
    example.check()
  }

  @Test func `empty tensors have the shape and strides asked for`() {
    #expect(Tensor.empty([2, 0, 3]).shape == [2, 0, 3])
    #expect(Tensor.empty([2, 3], strides: [1, 2], dtype: .float64).strides == [1, 2])
    #expect(vector([1, 2]).emptyLike().shape == [2])
  }

  @Test func `borrowed memory is shared and its owner lives as long as the tensor`() {
    final class Owner {
      let memory = UnsafeMutablePointer<Float>.allocate(capacity: 6)
      init() { memory.initialize(repeating: 0, count: 6) }
      deinit { memory.deallocate() }
    }
    weak var observed: Owner?
    do {
      let view: Tensor
      do {
        let owner = Owner()
        observed = owner
        let tensor = Tensor.borrowing(
          owner.memory, shape: [2, 3], dtype: .float32, owner: owner)
        owner.memory[4] = 5
        view = tensor[1]
      }
      #expect(observed != nil)
      expectEqual(view, [0, 5, 0])
    }
    #expect(observed == nil)
  }

  @Test func `the data pointer and strides reach every element`() {
    let x = counting([2, 3]).transpose()
    let pointer = x.dataPointer?.assumingMemoryBound(to: Float.self)
    let strides = x.strides
    withExtendedLifetime(x) {
      #expect(pointer?[2 * strides[0] + 1 * strides[1]] == 6)
      pointer?[2 * strides[0]] = -1
    }
    expectEqual(x, [1, 4, 2, 5, -1, 6], shape: [3, 2])
  }

  @Test(arguments: ["gpu", "cuda:", "cuda:-1", "cpu:0", ""])
  func `a text that names no device throws`(text: String) {
    #expect { try Device(parsing: text) } throws: {
      "\($0)" == "'\(text)' is not a device; expected cpu, cuda or cuda:N."
    }
  }

  @Test func `devices are parsed, and a missing one throws what to do`() throws {
    #expect(try Device(parsing: "cpu") == .cpu)
    if Runtime.cudaDeviceCount == 0 {
      #expect { try Device(parsing: "cuda:0") } throws: {
        "\($0)".contains("No CUDA device is available") && "\($0)".contains("LIBTORCH")
      }
    }
  }
}
