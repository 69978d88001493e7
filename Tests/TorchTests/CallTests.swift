import Testing
import Torch

@Suite("Operators by name")
struct CallTests {
  @Test func `arguments that are not given take the schema's defaults`() throws {
    let results = try ATen.call("aten::softplus", [.tensor(vector([0, 1]))])
    guard case .tensor(let result)? = results.first else {
      Issue.record("no tensor was returned")
      return
    }
    expectEqual(result, [0.6931471806, 1.3132616875])
  }

  @Test func `arguments are given by name in any order`() throws {
    let x = counting([2, 3])
    let sum = ATen.tensor(
      "aten::sum.dim_IntList", [.tensor(x)],
      named: ["dtype": .dtype(.float64), "keepdim": true, "dim": [1]])
    #expect(sum.dtype == .float64)
    expectEqual(sum, [6, 15], shape: [2, 1])
  }

  @Test func `a number becomes the list or the real number that the schema asks for`() {
    expectEqual(
      ATen.tensor("aten::max_pool1d", [.tensor(counting([1, 4])), 2]), [2, 4], shape: [1, 2])
    expectEqual(ATen.tensor("aten::dropout", [.tensor(vector([1, 2])), 0, true]), [1, 2])
  }

  @Test func `results may be several tensors, lists and plain values`() throws {
    let x = counting([2, 3])
    #expect(ATen.tensors("aten::max.dim", [.tensor(x), 1]).count == 2)
    #expect(ATen.tensors("aten::unbind.int", [.tensor(x), 1]).map(\.shape) == [[2], [2], [2]])
    let item = try ATen.call("aten::item", [.tensor(Tensor(scalar: 3))])
    guard case .int(3)? = item.first else {
      Issue.record("aten::item returned \(item)")
      return
    }
    let same = try ATen.call("aten::equal", [.tensor(x), .tensor(x)])
    guard case .bool(true)? = same.first else {
      Issue.record("aten::equal returned \(same)")
      return
    }
  }

  @Test func `lists of tensors may have holes`() {
    let x = counting([2, 3])
    let picked = ATen.tensor(
      "aten::index.Tensor", [.tensor(x), .tensors([nil, Tensor([2, 0])])])
    expectEqual(picked, [3, 1, 6, 4], shape: [2, 2])
  }

  struct WrongCall: Sendable, CustomTestStringConvertible {
    let name: String
    let arguments: @Sendable () -> [Value]
    let sentence: String
    var testDescription: String { "\(name)(\(arguments()))" }
  }

  @Test(arguments: [
    WrongCall(name: "aten::no_such_operator", arguments: { [] }, sentence: "no_such_operator"),
    WrongCall(name: "aten::add.NoOverload", arguments: { [] }, sentence: "NoOverload"),
    WrongCall(name: "aten::exp", arguments: { [] }, sentence: "no value for 'self'"),
    WrongCall(name: "aten::exp", arguments: { ["text"] }, sentence: "is not of type Tensor"),
    WrongCall(name: "aten::exp", arguments: { [nil, 1] }, sentence: "too many arguments"),
  ])
  func `a wrong call throws what is wrong`(call: WrongCall) {
    #expect {
      try ATen.call(call.name, call.arguments())
    } throws: { error in
      (error as? TorchError)?.message.contains(call.sentence) == true
    }
  }

  @Test func `names that no argument has, or that are given twice, throw`() {
    let x = Value.tensor(vector([1]))
    #expect { try ATen.call("aten::exp", [x], named: ["dims": 1]) } throws: {
      "\($0)".contains("no argument is called 'dims'")
    }
    #expect { try ATen.call("aten::exp", [x], named: ["self": x]) } throws: {
      "\($0)".contains("two values for 'self'")
    }
  }

  @Test func `libtorch's own errors come without a backtrace`() {
    let arguments: [Value] = [.tensor(counting([2, 3])), .tensor(counting([2, 3]))]
    #expect { try ATen.call("aten::matmul", arguments) } throws: { error in
      let text = "\(error)"
      return text.contains("mat1 and mat2 shapes cannot be multiplied (2x3 and 2x3)")
        && !text.contains("frame #") && !text.contains("Exception raised")
    }
  }

  @Test func `a wrapper's mistake stops the program and shows operator and shapes`() async {
    let result = await #expect(
      processExitsWith: .failure, observing: [\.standardErrorContent]
    ) {
      _ = Tensor.ones([2, 3]).matmul(Tensor.ones([2, 3]))
    }
    let text = String(decoding: result?.standardErrorContent ?? [], as: UTF8.self)
    #expect(text.contains("aten::matmul(float32[2, 3], float32[2, 3]): mat1 and mat2 shapes"))
  }
}
