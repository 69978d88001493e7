import Evaluation
import Foundation
import TestSupport
import Testing
import Text

private let hasPython = FileManager.default.fileExists(atPath: ".venv/bin/python")

@Suite("Figures", .enabled(if: hasPython, "needs the environment that `make setup` makes"))
struct PlotterTests {
  private let metrics = """
    {"step":1,"loss":3.5}
    {"step":2,"loss":3.0}
    {"step":2,"validation_loss":3.1}

    """
  private let report = """
    {"name": "a", "attention": "full", "parameters": 1, "tokens": 128,
     "lengths": [{"context": 64, "loss": 2, "perplexity": 7.4, "ms_per_token": 0.1},
                 {"context": 128, "loss": 1.9, "perplexity": 6.7, "ms_per_token": 0.2}],
     "positions": [{"from": 0, "to": 64, "loss": 2}, {"from": 64, "to": 128, "loss": 1.8}]}
    """
  private let bench = """
    [{"n": 1024, "fold": "32x32", "support": "block-causal", "normalization": "joint",
      "forward_ms": 1, "composed_forward_ms": 4, "window_forward_ms": 2, "full_forward_ms": null},
     {"n": 4096, "fold": "64x64", "support": "block-causal", "normalization": "joint",
      "forward_ms": 5, "composed_forward_ms": 21, "window_forward_ms": 8, "full_forward_ms": 168}]
    """

  private let cudaBench = """
    [{"n": 32768, "heads": 32, "fold": "32x32x32", "support": "block-causal",
      "normalization": "per-mode", "floor_ms": 0.25, "forward_ms": 0.8, "cudnn_forward_ms": 14,
      "flash_forward_ms": 25, "window_forward_ms": 2.5, "floor_backward_ms": 0.75,
      "forward_backward_ms": 2.7, "cudnn_forward_backward_ms": 56},
     {"n": 1048576, "heads": 8, "fold": "128x128x64", "support": "block-causal",
      "normalization": "per-mode", "floor_ms": 2, "forward_ms": 8.1, "cudnn_forward_ms": null,
      "floor_backward_ms": null, "forward_backward_ms": null}]
    """

  @Test("Metrics, reports and bench rows give their figures, as PNG files")
  func figures() throws {
    let folder = try TemporaryFolder()
    try folder.write("metrics.jsonl", metrics)
    try folder.write("report.json", report)
    try folder.write("bench.json", bench)
    try folder.write("cuda.json", cudaBench)
    let inputs = ["metrics.jsonl", "report.json", "bench.json", "cuda.json"].map {
      (label: "a", path: folder.path($0))
    }
    let figures = try Plotter().draw(inputs, into: folder.path("figures"))
    let names = [
      "loss-curve", "loss-by-length", "time-by-length", "loss-by-position", "bench",
      "bench-cuda-forward", "bench-cuda-forward-backward",
    ]
    #expect(figures == names.map { folder.path("figures/\($0).png") })
    for figure in figures {
      let data = try Data(contentsOf: URL(fileURLWithPath: figure))
      #expect(data.starts(with: [0x89, 0x50, 0x4E, 0x47]), "\(figure) is no PNG file")
    }
  }

  @Test("Confusion matrices give a figure each, also inside a report")
  func confusion() throws {
    let folder = try TemporaryFolder()
    var matrix = ConfusionMatrix(labels: ["yes", "no"])
    matrix.add(actual: [0, 0, 1], predicted: [0, 1, 1])
    try JSONFile.write(matrix, to: folder.path("one.json"))
    try JSONFile.write(["confusion": matrix], to: folder.path("two.json"))
    let one = (label: "MTSA 2", path: folder.path("one.json"))
    #expect(try Plotter().draw([one], into: folder.path) == [folder.path("confusion.png")])
    let two = (label: "", path: folder.path("two.json"))
    #expect(
      try Plotter().draw([one, two], into: folder.path)
        == ["confusion-MTSA-2.png", "confusion-two.png"].map(folder.path))
  }

  @Test("A confusion matrix that is not square is refused")
  func unevenConfusion() throws {
    let folder = try TemporaryFolder()
    try folder.write("one.json", #"{"labels": ["a", "b"], "counts": [[1, 2], [3]]}"#)
    #expect {
      try Plotter().draw([(label: "x", path: folder.path("one.json"))], into: folder.path)
    } throws: { error in
      "\(error)".contains("2 labels of x, found rows of [2, 1]")
    }
  }

  @Test("A file that holds none of them is named", arguments: ["{}", "no JSON", "[1"])
  func foreign(content: String) throws {
    let folder = try TemporaryFolder()
    try folder.write("other.json", content)
    #expect {
      try Plotter().draw([(label: "a", path: folder.path("other.json"))], into: folder.path)
    } throws: { error in
      "\(error)".contains("other.json")
    }
  }
}
