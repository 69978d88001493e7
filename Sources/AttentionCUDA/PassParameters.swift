/// The kernels' `struct Pass`, field by field: pointers, then 64-bit strides, then 32-bit integers, then
/// floats, so that Swift's layout and C's agree without padding.
package struct PassParameters {
  var q: UInt64 = 0
  var k: UInt64 = 0
  var u: UInt64 = 0
  var out: UInt64 = 0
  var lseIn: UInt64 = 0
  var lseOut: UInt64 = 0
  var lengths: UInt64 = 0
  var beta: UInt64 = 0
  var bias: UInt64 = 0
  var rotary: UInt64 = 0
  var dout: UInt64 = 0
  var dlseOut: UInt64 = 0
  var dq: UInt64 = 0
  var dk: UInt64 = 0
  var du: UInt64 = 0
  var dlseIn: UInt64 = 0
  var dot: UInt64 = 0
  var dbeta: UInt64 = 0
  var qStrides = Strides()
  var kStrides = Strides()
  var uStrides = Strides()
  var oStrides = Strides()
  var doStrides = Strides()
  var dqStrides = Strides()
  var dkStrides = Strides()
  var duStrides = Strides()
  var lseRow: Int64 = 0
  var heads: Int32 = 0
  var ratioK: Int32 = 0
  var ratioU: Int32 = 0
  var tokens: Int32 = 0
  var size: Int32 = 0
  var stride: Int32 = 0
  var fibers: Int32 = 0
  var tilesPerFiber: Int32 = 0
  var firstQuery: Int32 = 0
  var biasStride: Int32 = 0
  var accumulate: Int32 = 0
  var batch: Int32 = 0
  var firstFiber: Int32 = 0
  var firstPosition: Int32 = 0
  var scale: Float = 0
  var rawScale: Float = 0

  /// Elements between neighbors of a [B, heads, N, D] tensor.
  struct Strides {
    var batch: Int64 = 0
    var head: Int64 = 0
    var token: Int64 = 0
  }
}

/// The kernels' `struct Fused`.
package struct FusedParameters {
  var lower: PassParameters
  var upper: PassParameters
}

/// The kernels' `struct DecodePass`.
package struct DecodePassParameters {
  var u: UInt64 = 0
  var next: UInt64 = 0
  var beta: UInt64 = 0
  var bias: UInt64 = 0
  var rotary: UInt64 = 0
  var uStrides = PassParameters.Strides()
  var nextStrides = PassParameters.Strides()
  var size: Int32 = 0
  var stride: Int32 = 0
  var ratioU: Int32 = 0
  var biasStride: Int32 = 0
  var scale: Float = 1
  var padding: Float = 0
}

/// The kernels' `struct Decode` before its passes.
struct DecodeParameters {
  var q: UInt64 = 0
  var k: UInt64 = 0
  var out: UInt64 = 0
  var lse: UInt64 = 0
  var positions: UInt64 = 0
  var qBatch: Int64 = 0
  var qHead: Int64 = 0
  var kStrides = PassParameters.Strides()
  var oBatch: Int64 = 0
  var oHead: Int64 = 0
  var heads: Int32 = 0
  var ratioK: Int32 = 0
  var passes: Int32 = 0
  var position: Int32 = 0
  var scale: Float = 0
  var padding: Float = 0
}
