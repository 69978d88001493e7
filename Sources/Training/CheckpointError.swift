/// Why a checkpoint could not be saved or used.
public enum CheckpointError: Error, Equatable, CustomStringConvertible {
  /// There is no complete checkpoint in the folder.
  case missing(folder: String)
  /// A checkpoint's file is missing, cut off or no such file.
  case unreadable(path: String, reason: String)
  /// The tensors of the checkpoint are not those of the model.
  case otherShapes(path: String, differences: [String])
  /// Saving failed; what had been saved before is untouched.
  case notSaved(path: String, reason: String, previous: String?)
  /// The run in the folder was started with other settings.
  case otherConfiguration(folder: String, differences: [String])

  /// The sentence to print.
  public var description: String {
    switch self {
    case .missing(let folder):
      return "Expected a checkpoint in \(folder), found none; train first, or name a run's folder."
    case .unreadable(let path, let reason):
      return "Expected a complete checkpoint at \(path), but found a problem: \(reason) "
        + "Delete the step's folder to fall back to the one before."
    case .otherShapes(let path, let differences):
      let shown = differences.prefix(8).joined(separator: "; ")
      let rest = differences.count > 8 ? "; and \(differences.count - 8) more" : ""
      return "The checkpoint \(path) is of another model: \(shown)\(rest). "
        + "Use the configuration that it was trained with."
    case .notSaved(let path, let reason, let previous):
      let reason = reason.hasSuffix(".") ? reason : reason + "."
      let kept = previous.map { "the checkpoint before, \($0), is complete" } ?? "there is none yet"
      return "The checkpoint \(path) could not be saved: \(reason) As for earlier ones, \(kept). "
        + "Make room and run the same command again to continue."
    case .otherConfiguration(let folder, let differences):
      return "\(folder) holds a run with other settings (\(differences.joined(separator: "; "))). "
        + "Use the same settings to continue it, another folder, or begin anew with --fresh."
    }
  }
}
