#if canImport(Glibc)
  import Glibc
#elseif canImport(Musl)
  import Musl
#else
  import Darwin
#endif

/// A shared library opened at run time, so that building needs no CUDA SDK and running without a GPU
/// loads nothing. It stays open for the life of the process.
package struct DynamicLibrary: Sendable {
  private let handle: UInt
  /// The name under which it was found.
  package let name: String

  /// Opens the first of `names` that loads; nil if none does.
  package init?(firstOf names: [String], global: Bool = false) {
    for name in names {
      if let handle = dlopen(name, RTLD_NOW | (global ? RTLD_GLOBAL : RTLD_LOCAL)) {
        self.handle = UInt(bitPattern: handle)
        self.name = name
        return
      }
    }
    return nil
  }

  /// The loader's last message.
  package static var lastError: String {
    dlerror().map { String(cString: $0) } ?? "no message from the loader"
  }

  /// The function called `symbol`, as the C function type that the caller names.
  ///
  /// - Precondition: `Function` is the symbol's true type.
  package func function<Function>(_ symbol: String, as type: Function.Type = Function.self)
    -> Function?
  {
    guard let address = dlsym(UnsafeMutableRawPointer(bitPattern: handle), symbol) else {
      return nil
    }
    return unsafeBitCast(address, to: type)
  }
}
