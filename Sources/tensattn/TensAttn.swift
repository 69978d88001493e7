import ArgumentParser

@main
struct TensAttn: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "tensattn",
    abstract: "Tensorized attention: long sequences at a cost of Σ n_k keys a token.",
    subcommands: [
      Attend.self, Check.self, Bench.self, Train.self, Perplexity.self, Generate.self, Plot.self,
      DemoCommand.self, Classify.self, CompareEncoders.self,
    ])
}
