// What every kernel shares: element types, parameters, asynchronous copies (here) and the matrix products on
// tiles, rotations, row stores and the logit of a pass (Tiles.cu, which follows this file in every source).
//
// A tile is a row-major block of token rows in shared memory, `LD` elements apart. Sixteen rows belong to
// one warp. Both products run on the tensor cores (mma.sync) with f32 accumulators in the C layout of
// m16n8: lane 4g + t holds columns 2t, 2t+1 of rows g and g + 8. f32 operands are split into two tf32
// parts and multiplied three times (hi·hi + hi·lo + lo·hi), which keeps about 21 bits.
//
// Macros set by the host: DTYPE (0 bf16, 1 f16, 2 f32), D (head width, a multiple of 8), ROTARY, JOINT,
// BETA, BIAS, CAUSAL, SLIDING (0 or 1 each), WARPS, and the tile shape of the kernel in question.

#if DTYPE == 2
typedef float T;
#define DP D
#define LD (DP + 4)
#define VEC 4
#else
typedef unsigned short T;
#define DP ((D + 15) / 16 * 16)
#define LD (DP + 8)
#define VEC 8
#endif
#define ND (DP / 8)
#define THREADS (WARPS * 32)
#define LOG2E 1.4426950408889634f
#define LN2 0.6931471805599453f
#define INFINITE __int_as_float(0x7f800000)

typedef unsigned int u32;
typedef long long i64;
typedef unsigned long long u64;

// An element that is no number until it is converted: the bits of a half type would pass for one.
struct Element {
  T bits;
};

// A pass over one mode. Strides are in elements; channels are contiguous. Must match `PassParameters`.
struct Pass {
  const T* q;
  const T* k;
  const T* u;
  T* out;
  const float* lseIn;
  float* lseOut;         // or null, where nobody reads ℓ' and the pass is a forward one
  const int* lengths;
  const Element* beta;
  const float* bias;
  const float2* rotary;  // [row][D/2] (cos, sin) of the position relative to a tile's first key
  const T* dout;         // backward: ∂/∂u'
  const float* dlseOut;  // backward: ∂/∂ℓ' or null
  T* dq;
  T* dk;
  T* du;
  float* dlseIn;
  float* dot;        // [B,H,N] D(t), written by the query kernel and read by the key kernel
  float* dbeta;      // [H, B·tiles] partial sums
  i64 qB, qH, qN, kB, kH, kN, uB, uH, uN, oB, oH, oN;
  i64 doB, doH, doN, dqB, dqH, dqN, dkB, dkH, dkN, duB, duH, duN;
  i64 lseN;          // tokens a row of ℓ holds
  int heads, ratioK, ratioU, tokens, size, stride, fibers, tilesPerFiber, firstQuery, biasStride;
  int accumulate, batch, firstFiber, firstPosition;
  float scale;       // times log2(e): logits live in the base-2 domain
  float rawScale;
};
static_assert(sizeof(Pass) == 408, "Swift's PassParameters has this size");

// First in every kernel, before memory is touched: the blocks of a launch may be placed while the launch
// before it ends, and wait here until what that one wrote can be read. Then the next launch's may be placed.
__device__ __forceinline__ void followPrevious() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

__device__ __forceinline__ float toFloat(T x) {
#if DTYPE == 0
  return __uint_as_float((u32)x << 16);
#elif DTYPE == 1
  float y;
  asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x));
  return y;
#else
  return x;
#endif
}

__device__ __forceinline__ float toFloat(Element x) { return toFloat(x.bits); }

__device__ __forceinline__ u32 pack(float low, float high) {
  u32 y;
#if DTYPE == 0
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(high), "f"(low));
#else
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(high), "f"(low));
#endif
  return y;
}

__device__ __forceinline__ float2 unpack(u32 x) {
  return make_float2(toFloat((T)(x & 0xffff)), toFloat((T)(x >> 16)));
}

__device__ __forceinline__ float exp2Fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

__device__ __forceinline__ u32 shared32(const void* p) { return (u32)__cvta_generic_to_shared(p); }

__device__ __forceinline__ void copy16(void* destination, const void* source, bool valid) {
  int bytes = valid ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared32(destination)), "l"(source),
               "r"(bytes)
               : "memory");
}
// Without the zero fill, which costs three idle instructions a copy.
__device__ __forceinline__ void copy16(void* destination, const void* source) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared32(destination)), "l"(source) : "memory");
}
__device__ __forceinline__ void commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int N>
__device__ __forceinline__ void await() {
  asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

// Copies ROWS token rows into a tile; a row whose token is negative becomes zeros. `full` says that there
// is none. Tokens are read before the first copy: a read of shared memory between copies stalls them.
template <int ROWS>
__device__ __forceinline__ void loadTile(T* tile, const T* base, i64 rowStride, const int* tokens, bool full) {
  constexpr int chunks = D / VEC, rounds = ROWS * chunks / THREADS;
  int rowBytes = (int)(rowStride * sizeof(T));
  const char* bytes = reinterpret_cast<const char*>(base);
  if (full && ROWS * chunks % THREADS == 0) {
    int t[rounds];
#pragma unroll
    for (int n = 0; n < rounds; n++) t[n] = tokens[(threadIdx.x + n * THREADS) / chunks];
#pragma unroll
    for (int n = 0; n < rounds; n++) {
      int i = threadIdx.x + n * THREADS, row = i / chunks, chunk = i % chunks;
      copy16(tile + row * LD + chunk * VEC, bytes + chunk * 16 + (i64)t[n] * rowBytes);
    }
    return;
  }
#pragma unroll 1
  for (int i = threadIdx.x; i < ROWS * chunks; i += THREADS) {
    int row = i / chunks, chunk = i % chunks;
    int t = tokens[row];
    copy16(tile + row * LD + chunk * VEC, bytes + chunk * 16 + (i64)max(t, 0) * rowBytes, t >= 0);
  }
}

// Asks L2 for token rows that will be added to at the end.
__device__ __forceinline__ void prefetchRows(const T* base, i64 rowStride, const int* tokens, int rows) {
  constexpr int lines = (D * (int)sizeof(T) + 127) / 128;
  for (int i = threadIdx.x; i < rows * lines; i += THREADS) {
    int t = tokens[i / lines];
    if (t >= 0)
      asm volatile("prefetch.global.L2 [%0];" ::"l"(reinterpret_cast<const char*>(base + t * rowStride) +
                                                     i % lines * 128));
  }
}

// Clears the channels that pad the head width to a multiple of the tensor cores' depth.
__device__ __forceinline__ void clearPadding(T* tile, int rows) {
#if DTYPE != 2 && D % 16 != 0
  for (int i = threadIdx.x; i < rows * (DP - D); i += THREADS)
    tile[i / (DP - D) * LD + D + i % (DP - D)] = 0;
#endif
}
