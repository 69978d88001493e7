import AttentionCore

/// A [B, heads, N, D] tensor in device memory whose D channels are contiguous. [B, N, heads, D] is the same
/// type with other strides.
public struct DeviceTensor: Sendable, Hashable {
  /// The address of element (0, 0, 0, 0).
  public var address: CUDADriver.Address
  /// Elements between sequences.
  public var batchStride: Int
  /// Elements between heads.
  public var headStride: Int
  /// Elements between tokens.
  public var tokenStride: Int

  /// Describes a tensor.
  public init(address: CUDADriver.Address, batchStride: Int, headStride: Int, tokenStride: Int) {
    self.address = address
    self.batchStride = batchStride
    self.headStride = headStride
    self.tokenStride = tokenStride
  }

  /// Describes a packed tensor of `heads` × `tokens` × `width` a sequence.
  public init(address: CUDADriver.Address, heads: Int, tokens: Int, width: Int) {
    self.init(
      address: address, batchStride: heads * tokens * width, headStride: tokens * width,
      tokenStride: width)
  }

  /// Whether rows start at multiples of 16 bytes, as the asynchronous copies need.
  public func isAligned(for element: CUDAElement) -> Bool {
    let step = 16 / element.size
    return address % 16 == 0 && batchStride % step == 0 && headStride % step == 0
      && tokenStride % step == 0
  }

  var strides: PassParameters.Strides {
    .init(batch: Int64(batchStride), head: Int64(headStride), token: Int64(tokenStride))
  }
}

/// One forward pass on device memory.
public struct CUDAPass: Sendable {
  /// Everything but the addresses.
  public var shape: CUDAPassShape
  /// q [B, H, N, D].
  public var queries: DeviceTensor
  /// k [B, G, N, D], unrotated.
  public var keys: DeviceTensor
  /// u [B, G or H, N, D].
  public var values: DeviceTensor
  /// u' [B, H, N, D].
  public var output: DeviceTensor
  /// ℓ [B, H, lseRow] f32 of the pass below, for joint normalization.
  public var carriedLSE: CUDADriver.Address = 0
  /// ℓ' [B, H, lseRow] f32; 0 where a forward pass need not write it.
  public var lse: CUDADriver.Address
  /// Tokens a row of ℓ and ℓ' holds.
  public var lseRow: Int
  /// [B] Int32: tokens at or after a sequence's length are padding; 0 means that all are full.
  public var lengths: CUDADriver.Address = 0
  /// β [H].
  public var beta: CUDADriver.Address = 0
  /// The bias [H or 1, n_k, n_k] (block supports) or [H or 1, n_k] (sliding) in f32.
  public var bias: CUDADriver.Address = 0
  /// Elements between the heads of `bias`; 0 if they share one.
  public var biasStride: Int = 0
  /// The rotary angles, if the shape is rotary.
  public var rotary: RotaryAngles?
  /// The factor on dot products.
  public var scale: Float
  /// The first token whose u' is wanted; tokens before it are keys only.
  public var firstQuery: Int = 0

  /// Creates a pass; the optional parts are set afterwards.
  public init(
    shape: CUDAPassShape, queries: DeviceTensor, keys: DeviceTensor, values: DeviceTensor,
    output: DeviceTensor, lse: CUDADriver.Address, lseRow: Int, scale: Float
  ) {
    self.shape = shape
    self.queries = queries
    self.keys = keys
    self.values = values
    self.output = output
    self.lse = lse
    self.lseRow = lseRow
    self.scale = scale
  }
}

/// What the backward pass reads and writes besides the forward pass's own tensors.
public struct CUDAPassGradients: Sendable {
  /// ∂/∂u' [B, H, N, D].
  public var output: DeviceTensor
  /// ∂/∂ℓ' [B, H, lseRow] f32, or 0 if nothing uses ℓ'.
  public var lse: CUDADriver.Address = 0
  /// ∂/∂q [B, H, N, D].
  public var queries: DeviceTensor
  /// ∂/∂k [B, G, N, D].
  public var keys: DeviceTensor
  /// ∂/∂u, shaped as u.
  public var values: DeviceTensor
  /// ∂/∂ℓ [B, H, lseRow] f32, for joint normalization.
  public var carriedLSE: CUDADriver.Address = 0
  /// ∂/∂β [H], if the shape has β.
  public var beta: CUDADriver.Address = 0
  /// A further row of ∂/∂β that is to become zeros, the lowest mode's; 0 for none.
  public var lowestBeta: CUDADriver.Address = 0
  /// ∂/∂bias, shaped as the bias and packed, f32; 0 if nothing wants it.
  public var bias: CUDADriver.Address = 0
  /// Whether ∂/∂q and ∂/∂k are added to what is there (they sum over the passes).
  public var accumulates: Bool
  /// ``CUDAPassShape/workspaceBytes(lseRow:biasHeads:)`` bytes.
  public var workspace: CUDADriver.Address
  /// Whether the workspace begins with ⟨∂/∂u', u'⟩ of every row, [B, H, lseRow] f32, from the pass above.
  public var hasDots = false
  /// Where ⟨∂/∂u, u⟩ of every row may be written for the pass below: the beginning of its workspace,
  /// which is another one; 0 if that pass has no use for them.
  public var dotsBelow: CUDADriver.Address = 0
  /// Whether ∂/∂q may be left as turned as rotary positions have it, because the pass below turns it back.
  public var leavesTurned = false
  /// How the pass above has left ∂/∂q.
  public var turned: CUDATurned?

  /// Creates the gradients of a pass; the optional parts are set afterwards.
  public init(
    output: DeviceTensor, queries: DeviceTensor, keys: DeviceTensor, values: DeviceTensor,
    accumulates: Bool, workspace: CUDADriver.Address
  ) {
    self.output = output
    self.queries = queries
    self.keys = keys
    self.values = values
    self.accumulates = accumulates
    self.workspace = workspace
  }
}
