import OrderedCollections
import Torch

/// A layer or a model: a class whose weights and inner layers are declared with ``Weight``,
/// ``Child`` and ``Children``, each with its key in a checkpoint:
///
/// ```swift
/// public final class Linear: Module {
///   @Weight("weight") public var weight: Tensor
/// }
/// ```
///
/// A parameter's name is the path of keys to it, as in `model.layers.3.mlp.up_proj.weight`.
public protocol Module: AnyObject {}

/// A trainable tensor and how it is optimized.
public struct Parameter {
  /// The tensor; its elements change in place, the tensor itself stays the same.
  public let tensor: Tensor
  /// Whether weight decay pulls it to zero.
  public let decays: Bool

  /// Names a tensor as trainable.
  public init(tensor: Tensor, decays: Bool) {
    self.tensor = tensor
    self.decays = decays
  }
}

extension Module {
  /// All parameters by name, in the order of declaration.
  ///
  /// Names are found by reflection, once: keep the result rather than asking in a loop.
  public func parameters() -> OrderedDictionary<String, Parameter> {
    var found: OrderedDictionary<String, Parameter> = [:]
    collectParameters(below: "", into: &found)
    return found
  }

  /// The number of scalars in all parameters.
  public var parameterCount: Int { parameters().values.map(\.tensor.count).reduce(0, +) }

  fileprivate func collectParameters(
    below path: String, into found: inout OrderedDictionary<String, Parameter>
  ) {
    for case let declaration as any ModuleDeclaration in Mirror(reflecting: self).children.lazy
      .map(\.value)
    {
      declaration.collect(below: path, into: &found)
    }
  }
}

/// What a property wrapper adds to its module's parameters.
private protocol ModuleDeclaration {
  func collect(below path: String, into found: inout OrderedDictionary<String, Parameter>)
}

/// Declares a trainable tensor of a ``Module``; the initializer sets it through
/// `_name.wrappedValue`.
@propertyWrapper
public struct Weight: ModuleDeclaration {
  private var tensor: Tensor?
  private let key: String
  private let decays: Bool

  /// Declares a tensor under a key; `decays` says whether weight decay applies to it.
  public init(_ key: String, decays: Bool = true) {
    self.key = key
    self.decays = decays
  }

  /// The tensor. Setting it makes it collect gradients.
  public var wrappedValue: Tensor {
    get { declared(tensor, key) }
    set {
      newValue.requiresGrad = true
      tensor = newValue
    }
  }

  fileprivate func collect(
    below path: String, into found: inout OrderedDictionary<String, Parameter>
  ) {
    found[path + key] = Parameter(tensor: wrappedValue, decays: decays)
  }
}

/// Declares a trainable tensor that some instances of a ``Module`` do without.
@propertyWrapper
public struct OptionalWeight: ModuleDeclaration {
  private var tensor: Tensor?
  private let key: String
  private let decays: Bool

  /// Declares a tensor under a key; `decays` says whether weight decay applies to it.
  public init(_ key: String, decays: Bool = true) {
    self.key = key
    self.decays = decays
  }

  /// The tensor, if there is one. Setting it makes it collect gradients.
  public var wrappedValue: Tensor? {
    get { tensor }
    set {
      newValue?.requiresGrad = true
      tensor = newValue
    }
  }

  fileprivate func collect(
    below path: String, into found: inout OrderedDictionary<String, Parameter>
  ) {
    guard let tensor else { return }
    found[path + key] = Parameter(tensor: tensor, decays: decays)
  }
}

/// Declares an inner layer of a ``Module``; the initializer sets it through `_name.wrappedValue`.
@propertyWrapper
public struct Child<Inner: Module>: ModuleDeclaration {
  private var inner: Inner?
  private let key: String

  /// Declares a layer under a key.
  public init(_ key: String) { self.key = key }

  /// The layer.
  public var wrappedValue: Inner {
    get { declared(inner, key) }
    set { inner = newValue }
  }

  fileprivate func collect(
    below path: String, into found: inout OrderedDictionary<String, Parameter>
  ) {
    wrappedValue.collectParameters(below: path + key + ".", into: &found)
  }
}

/// Declares an inner layer that some instances of a ``Module`` do without.
@propertyWrapper
public struct OptionalChild<Inner: Module>: ModuleDeclaration {
  /// The layer, if there is one.
  public var wrappedValue: Inner?
  private let key: String

  /// Declares a layer under a key.
  public init(_ key: String) { self.key = key }

  fileprivate func collect(
    below path: String, into found: inout OrderedDictionary<String, Parameter>
  ) {
    wrappedValue?.collectParameters(below: path + key + ".", into: &found)
  }
}

/// Declares an inner layer of a ``Module`` of which no more is known than that it is a
/// ``SequenceLayer``; the initializer sets it through `_name.wrappedValue`.
@propertyWrapper
public struct ChildSequenceLayer: ModuleDeclaration {
  private var inner: (any SequenceLayer)?
  private let key: String

  /// Declares a layer under a key.
  public init(_ key: String) { self.key = key }

  /// The layer.
  public var wrappedValue: any SequenceLayer {
    get { declared(inner, key) }
    set { inner = newValue }
  }

  fileprivate func collect(
    below path: String, into found: inout OrderedDictionary<String, Parameter>
  ) {
    wrappedValue.collectParameters(below: path + key + ".", into: &found)
  }
}

/// Declares a list of inner layers of a ``Module``, whose keys are numbered from 0.
@propertyWrapper
public struct Children<Inner: Module>: ModuleDeclaration {
  /// The layers.
  public var wrappedValue: [Inner] = []
  private let key: String

  /// Declares layers under a key.
  public init(_ key: String) { self.key = key }

  fileprivate func collect(
    below path: String, into found: inout OrderedDictionary<String, Parameter>
  ) {
    for (index, inner) in wrappedValue.enumerated() {
      inner.collectParameters(below: "\(path)\(key).\(index).", into: &found)
    }
  }
}

/// What was declared, which the module's initializer must have set.
private func declared<Value>(_ value: Value?, _ key: String) -> Value {
  guard let value else { preconditionFailure("\"\(key)\" is declared and was never set.") }
  return value
}
