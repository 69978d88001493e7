import Models
import NN

extension ClassifierConfiguration {
  /// The sizes and settings with which the published code of Shen et al., "Tensorized Self-Attention"
  /// (2019), trains on a set: `configs.py` of each of its projects. Its word vectors are GloVe's with 300
  /// numbers. For semantic roles only the sizes and dropout are from there, not the optimizer.
  ///
  /// - Returns: nil for data that it does not train on.
  public static func published(for source: ClassifierData.Source) -> ClassifierConfiguration? {
    var run = ClassifierConfiguration()
    run.data.source = source
    run.model.embeddingWidth = 300
    run.model.headWidth = 300
    run.model.encoder = .publishedSentence
    run.training.finalShare = 1
    run.training.warmUpSteps = 0
    switch source {
    case .inference:
      run.train(.adadelta, rate: 0.5, batch: 128, keep: 0.65, decay: 5e-5, steps: 600_000)
      run.training.averaging = 0.999
    case .treebank5, .treebank2:
      run.train(.adadelta, rate: 0.5, batch: 128, keep: 0.7, decay: 1e-4, steps: 120_000)
      run.model.encoder.activation = .relu
    case .questions, .fineQuestions:
      run.train(.adadelta, rate: 0.5, batch: 32, keep: 0.5, decay: 5e-5, steps: 99_000)
    case .customerReviews, .opinionPolarity, .subjectivity, .movieReviews, .labeledLines:
      run.train(.adamW, rate: 1e-3, batch: 64, keep: 0.6, decay: 1e-4, steps: 1000)
      run.training.validationInterval = 50
    case .semanticRoles:
      run.trainOnSemanticRoles()
    case .lastOfEach, .precedence, .roles:
      return nil
    }
    return run
  }

  private mutating func train(
    _ optimizer: ClassifierTraining.Rule, rate: Double, batch: Int, keep: Double, decay: Double,
    steps: Int
  ) {
    training.optimizer = optimizer
    training.learningRate = rate
    training.batchSize = batch
    training.weightDecay = decay
    training.steps = steps
    training.validationInterval = 500
    model.dropout = 1 - keep
  }

  /// Ten blocks of eight heads, 200 wide.
  private mutating func trainOnSemanticRoles() {
    train(.adamW, rate: 5e-4, batch: 64, keep: 1, decay: 1e-4, steps: 100_000)
    training.finalShare = 0.1
    training.warmUpSteps = 1000
    model.encoder = EncoderConfiguration()
    model.encoder.blocks = 10
    model.encoder.width = 200
    model.encoder.innerWidth = 800
    model.encoder.heads = 8
    model.encoder.mixerWidth = 200
    model.encoder.activation = .relu
    model.encoder.residualDropout = 0.2
    model.encoder.innerDropout = 0.1
    model.encoder.multiMask.dropout = 0.1
    training.labelSmoothing = 0.1
  }
}
