import CTorch

/// libtorch's operators, called by name.
///
/// An operator is found by its name and overload as in `native_functions.yaml`: `aten::sum` is one
/// and `aten::sum.dim_IntList` another. The schema fills arguments that are not given from their
/// defaults and takes arguments by position or by name:
///
/// ```swift
/// let total = ATen.tensor("aten::sum.dim_IntList", [.tensor(x), [1]], named: ["keepdim": true])
/// ```
public enum ATen {
  /// Results an operator may have: the fused attention operators return nine.
  private static let capacity = 16

  /// Calls an operator and returns its results in order.
  ///
  /// - Parameters:
  ///   - name: the operator's name with its namespace and, after a dot, its overload.
  ///   - arguments: the leading arguments in the schema's order.
  ///   - named: further arguments by the schema's names.
  /// - Throws: ``TorchError`` with libtorch's sentence.
  public static func call(
    _ name: String, _ arguments: [Value],
    named: KeyValuePairs<String, Value> = [:]
  ) throws -> [Value] {
    let list = ArgumentList(arguments, named: named)
    return try withExtendedLifetime(list) {
      try withUnsafeTemporaryAllocation(of: ct_value.self, capacity: capacity) { results in
        var count = 0
        try check(
          ct_call(
            name, list.values, list.values.count, results.baseAddress, capacity, &count))
        return (0..<count).map { Value(owning: results[$0]) }
      }
    }
  }

  /// Calls an operator and returns the first result, which is a tensor.
  ///
  /// What libtorch refuses stops the program with the operator, its arguments' shapes and
  /// libtorch's sentence.
  @discardableResult
  public static func tensor(
    _ name: String, _ arguments: [Value],
    named: KeyValuePairs<String, Value> = [:]
  ) -> Tensor {
    guard case .tensor(let result)? = values(name, arguments, named: named).first else {
      stop("\(name) returned no tensor")
    }
    return result
  }

  /// Calls an operator and returns all its tensors, those of a list result in its order.
  ///
  /// What libtorch refuses stops the program as in ``tensor(_:_:named:)``.
  public static func tensors(
    _ name: String, _ arguments: [Value],
    named: KeyValuePairs<String, Value> = [:]
  ) -> [Tensor] {
    values(name, arguments, named: named).flatMap { value -> [Tensor] in
      switch value {
      case .tensor(let tensor): [tensor]
      case .tensors(let list): list.compactMap { $0 }
      default: []
      }
    }
  }

  /// Calls an operator for its effect or its results of any kind.
  ///
  /// What libtorch refuses stops the program as in ``tensor(_:_:named:)``.
  @discardableResult
  public static func values(
    _ name: String, _ arguments: [Value],
    named: KeyValuePairs<String, Value> = [:]
  ) -> [Value] {
    do {
      return try call(name, arguments, named: named)
    } catch {
      let all = arguments.map(\.description) + named.map { "\($0.key): \($0.value)" }
      stop("\(name)(\(all.joined(separator: ", "))): \(error)")
    }
  }
}
