import Testing
import Text

@Suite("Batches of labeled examples")
struct LabeledBatchesTests {
  /// Sentences of 1 to 97 tokens; token and label tell the example.
  static let dataset = TokenDataset(
    kind: .classification, labels: ["even", "odd"],
    examples: (0..<1000).map { index in
      LabeledExample(Array(repeating: index + 1, count: 1 + index * 31 % 97), label: index % 2)
    })

  @Test("Sentences are padded at their ends, targets follow")
  func padding() {
    let dataset = TokenDataset(
      kind: .tagging, labels: ["O", "B-X"],
      examples: [
        LabeledExample(sentences: [[7, 8, 9]], targets: [0, 1, 0], marker: 2),
        LabeledExample(sentences: [[5]], targets: [1], marker: 0),
      ])
    let batch = LabeledBatch(dataset, indices: [1, 0])
    #expect(batch.sentences[0].ids == [5, 0, 0, 7, 8, 9])
    #expect(batch.sentences[0].lengths == [1, 3])
    #expect(batch.sentences[0].isToken == [true, false, false, true, true, true])
    #expect(batch.targets == [1, -100, -100, 0, 1, 0])
    #expect(batch.markers == [0, 2])
    #expect(abs(batch.paddingShare - 1.0 / 3) < 1e-15)
  }

  @Test("Both sentences of pairs are padded on their own")
  func pairs() {
    let dataset = TokenDataset(
      kind: .pair, labels: ["a", "b"],
      examples: [LabeledExample([1, 2], [3], label: 1), LabeledExample([4], [5, 6, 7], label: 0)])
    let batch = LabeledBatch(dataset, indices: [0, 1])
    #expect(batch.sentences.map(\.ids) == [[1, 2, 4, 0], [3, 0, 0, 5, 6, 7]])
    #expect(batch.targets == [1, 0])
    #expect(batch.markers == nil)
  }

  @Test("An epoch holds every example once, in an order of its own", arguments: [1, 7, 32, 5000])
  func epochs(batchSize: Int) {
    let batches = LabeledBatches(Self.dataset, batchSize: batchSize, seed: 3)
    let epoch = batches.epoch(0)
    #expect(epoch.count == batches.count)
    #expect(epoch.joined().sorted() == Array(0..<1000))
    #expect(epoch.allSatisfy { $0.count <= batchSize && !$0.isEmpty })
    #expect(
      batches.epoch(0) == LabeledBatches(Self.dataset, batchSize: batchSize, seed: 3).epoch(0))
    if batchSize < 1000 {
      #expect(batches.epoch(1) != epoch)
      #expect(LabeledBatches(Self.dataset, batchSize: batchSize, seed: 4).epoch(0) != epoch)
    }
    #expect(batches.inOrder().joined().sorted() == Array(0..<1000))
  }

  @Test("Sentences of similar lengths share a batch")
  func buckets() {
    let batches = LabeledBatches(Self.dataset, batchSize: 16, seed: 3)
    let shares = batches.epoch(0).map { batches.batch($0).paddingShare }
    #expect(shares.reduce(0, +) / Double(shares.count) < 0.1)
    // Batches of short and of long sentences alternate.
    let lengths = batches.epoch(0).map { batches.batch($0).sentences[0].length }
    #expect(lengths != lengths.sorted() && lengths != lengths.sorted(by: >))
  }

  @Test("Nothing to batch gives no batch")
  func empty() {
    let none = LabeledBatches(Self.dataset.selecting([]), batchSize: 4, seed: 0)
    #expect(none.count == 0 && none.epoch(0).isEmpty && none.inOrder().isEmpty)
  }
}

@Suite("Splits of labeled examples")
struct LabeledDatasetTests {
  /// 70 of label a, 30 of label b.
  static let dataset = WordDataset(
    kind: .classification, labels: ["a", "b"],
    examples: (0..<100).map { LabeledExample(["\($0)"], label: $0 % 10 < 7 ? 0 : 1) })

  @Test("A split is disjoint, complete, and alike in labels")
  func split() {
    let splits = Self.dataset.split(validation: 0.1, test: 0.2, seed: 1)
    #expect(splits.training.labelCounts == [49, 21])
    #expect(splits.validation.labelCounts == [7, 3])
    #expect(splits.test.labelCounts == [14, 6])
    let all = [splits.training, splits.validation, splits.test].flatMap(\.examples)
    #expect(Set(all) == Set(Self.dataset.examples))
    #expect(splits == Self.dataset.split(validation: 0.1, test: 0.2, seed: 1))
    #expect(splits != Self.dataset.split(validation: 0.1, test: 0.2, seed: 2))
  }

  @Test("Cross-validation tests on every example once", arguments: [2, 3, 10, 100])
  func folds(count: Int) {
    let folds = (0..<count).map { Self.dataset.fold($0, of: count, seed: 5) }
    #expect(folds.flatMap(\.test.examples).count == 100)
    #expect(Set(folds.flatMap(\.test.examples)) == Set(Self.dataset.examples))
    for fold in folds {
      #expect((100 / count...(99 + count) / count).contains(fold.test.examples.count))
      #expect((70 / count...70 / count + 1).contains(fold.test.labelCounts[0]))
      let all = [fold.training, fold.validation, fold.test].flatMap(\.examples)
      #expect(all.count == 100 && Set(all) == Set(Self.dataset.examples))
    }
    #expect(folds[1] == Self.dataset.fold(1, of: count, seed: 5))
  }

  @Test("Parts with different labels share the union")
  func union() {
    let part = { (labels: [String], label: Int) in
      WordDataset(
        kind: .classification, labels: labels, examples: [LabeledExample(["x"], label: label)])
    }
    let splits = DatasetSplits(
      training: part(["b", "a"], 1), validation: part(["c"], 0), test: part(["a", "d"], 1))
    #expect(splits.test.labels == ["b", "a", "c", "d"])
    #expect(splits.training.examples[0].targets == [1])
    #expect(splits.validation.examples[0].targets == [2])
    #expect(splits.test.examples[0].targets == [3])
  }

  @Test("Counts, majority, longest, summary")
  func counts() {
    #expect(Self.dataset.labelCounts == [70, 30])
    #expect(Self.dataset.majorityShare == 0.7)
    #expect(Self.dataset.longest == 1)
    #expect(Self.dataset.summary == "100 examples, 2 labels, at most 1 tokens")
    let read = WordDataset(
      kind: .classification, labels: ["a"], examples: [], skipped: ["blank lines": 2])
    #expect(read.summary == "0 examples, 1 labels, at most 0 tokens; left out: 2 blank lines")
    #expect(read.majorityShare == 0)
  }
}
