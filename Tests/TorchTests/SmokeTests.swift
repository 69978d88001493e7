import Testing
import Torch

@Test func `an operator is called by name with its schema's defaults`() throws {
  let x = Tensor([1, 2, 3, 4] as [Float], shape: [2, 2])
  let results = try ATen.call(
    "aten::sum.dim_IntList", [.tensor(x), [1]], named: ["keepdim": true])
  guard case .tensor(let sum)? = results.first else {
    Issue.record("no tensor was returned")
    return
  }
  #expect(sum.shape == [2, 1])
  #expect(sum.array() == [3, 7])
}

@Test func `a custom function's backward gives the gradient`() {
  let x = Tensor([1, 2, 3] as [Float])
  x.requiresGrad = true
  let outputs = Autograd.apply([x]) { inputs in
    let result = inputs[0].exp()
    return ([result], [result])
  } backward: { pass in
    [pass.gradients[0].map { $0 * pass.saved[0] }]
  }
  outputs[0].sum().backward()
  #expect(x.grad?.isClose(to: x.exp().detached()) == true)
}
