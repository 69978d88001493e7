import ArgumentParser
import Foundation
import Models
import NN
import Torch

/// Options of every command that computes.
struct ComputeOptions: ParsableArguments {
  @Option(help: "Threads to use; by default all cores.")
  var threads: Int?

  func validate() throws {
    if let threads, !(1...4096).contains(threads) {
      throw ValidationError("--threads must be 1 to 4096, not \(threads).")
    }
  }

  /// Checks the library and sets the threads.
  func apply() throws {
    Runtime.useHugePages()
    try Runtime.checkLibrary()
    if let threads { Runtime.threadCount = threads }
  }
}

/// Where a model computes, and in which element type.
struct DeviceOptions: ParsableArguments {
  @Option(help: "Where to compute: cpu, cuda or cuda:N.")
  var device = "cpu"

  @Option(
    help: """
      The element type between the weights, float32 or bfloat16 (for GPUs); by default float32 in training, \
      afterwards as in training, and float32 on a processor.
      """)
  var precision: Precision?

  /// The device, which this machine has.
  func resolved() throws -> Device {
    let device = try Device(parsing: device)
    if device == .cpu, precision == .bfloat16 {
      note("bfloat16 is much slower than float32 on a processor; --device cuda is where it pays.")
    }
    return device
  }
}

extension Precision: ExpressibleByArgument {}

/// Exit status of a program that Ctrl-C ended, as shells count it.
let interruptedStatus = ExitCode(130)

/// Prints a sentence on the standard error, so that results alone are on the standard output.
func note(_ text: String) {
  FileHandle.standardError.write(Data((text + "\n").utf8))
}

/// Reads `512,1024,2048`.
func parseCounts(_ text: String) throws -> [Int] {
  try text.split(separator: ",", omittingEmptySubsequences: false).map {
    guard let count = Int($0), count >= 1 else {
      throw ValidationError("expected numbers of at least 1, such as 512,1024, found \(text)")
    }
    return count
  }
}

/// The help of options that take a stack of attention kinds.
let attentionHelp: ArgumentHelp = """
  Attention of the layers: full, window:SIZE, \
  tensorized:FOLD[,sliding-causal|block-causal][,joint|per-mode][,low-to-high|high-to-low]\
  [,positions:none|mode|sequence][,beta:NUMBER|none], or several that repeat from the first \
  layer to the last, such as 3*window:128+full.
  """
