/// Stops the program with a message unless a condition holds: for a caller's mistakes.
///
/// `precondition` keeps its message to itself in optimized builds, where this library is used.
@inlinable
public func require(
  _ condition: @autoclosure () -> Bool, _ message: @autoclosure () -> String,
  file: StaticString = #file, line: UInt = #line
) {
  if !condition() { fatalError(message(), file: file, line: line) }
}
