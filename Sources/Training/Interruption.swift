import Foundation
import Synchronization

/// Ctrl-C as a request: the step at hand is finished and saved before the program ends. A second
/// Ctrl-C ends it at once.
public enum Interruption {
  private static let requested = Atomic<Bool>(false)

  /// Whether SIGINT or SIGTERM has arrived since ``install()``.
  public static var isRequested: Bool { requested.load(ordering: .relaxed) }

  /// Catches SIGINT and SIGTERM from now on.
  public static func install() {
    requested.store(false, ordering: .relaxed)
    var signals = sigset_t()
    sigemptyset(&signals)
    for number in [SIGINT, SIGTERM] {
      sigaddset(&signals, number)
      signal(number) { received in
        // Both calls are safe in a signal handler: a store and a change of disposition.
        Interruption.requested.store(true, ordering: .relaxed)
        signal(received, SIG_DFL)
      }
    }
    // A program that was started from a thread of a pool inherits that both are held back.
    pthread_sigmask(SIG_UNBLOCK, &signals, nil)
  }
}
