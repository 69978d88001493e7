// The gradient of a mode bias: dz summed over everything that shares an entry of the bias.
//
//     block supports   dbias(i, j) = Σ dz(t, t')  over sequences and fibers, t at place i, t' at place j
//     sliding          dbias(d)    = Σ dz(t, t')  over sequences and t, with t' lying d places before t
//
// and over the query heads if they share one bias. dz is formed as in Backward.cu, from q, k, u, du' and ℓ'.
//
// A block owns ROWS × ROWS (query, key) places and a fixed share of the fibers. It walks that share in order and
// adds dz in registers, so only its sum leaves the chip and no sum is left to atomics. Fibers of up to ROWS
// positions are packed as in Backward.cu, and D(t) = Σ p·dp − dℓ' is formed here; longer ones take D from
// backwardLongQuery. A long sliding fiber has ROWS queries and the ROWS keys `apart` tiles before them: entry
// (r, c) of each such pair lies ROWS·apart + r − c places apart, so the pairs add up before their diagonals do.
// The diagonals below and above the main one are two parts of the sum, whose parts reduceBias (Reduce.cu) adds.
#define ROWS (WARPS * 16)
#ifdef SHORT
#define SPAN (FIBER < 16 ? 16 : FIBER)  // key rows that a warp meets
#define HALVES 1
#else
#define FIBER ROWS
#define SPAN ROWS
#define HALVES (1 + SLIDING)
#endif
#define PACKED (ROWS / FIBER)
#define MLD (SPAN + 1)

// Must match `BiasParameters`.
struct BiasGradient {
  Pass pass;
  float* parts;    // [heads of the bias][splits × halves][extent²] or, sliding, […][extent]
  int shared;      // whether the query heads share the bias
  int splits;      // blocks that share an owner's fibers
  int tiles;       // tiles along an axis of the bias
  int extent;      // places along an axis that the parts hold
};
static_assert(sizeof(BiasGradient) == 432, "Swift's BiasParameters has this size");

// Writes the sum over the packed fibers of the places (i, j): matrix holds ROWS × SPAN sums.
__device__ __forceinline__ void storePlaces(const float* matrix, float* part, int extent, int i0, int j0) {
  for (int place = threadIdx.x; place < FIBER * FIBER; place += THREADS) {
    int i = place / FIBER, j = place % FIBER;
    if (i0 + i >= extent || j0 + j >= extent) continue;
    float sum = 0.f;
    for (int fiber = 0; fiber < PACKED * FIBER; fiber += FIBER) sum += matrix[(fiber + i) * MLD + (fiber + j) % SPAN];
    part[(i64)(i0 + i) * extent + j0 + j] = sum;
  }
}

// Writes the sums of the diagonals: place i of `lower` is `i` below the main one, of `upper` FIBER − i above it.
__device__ __forceinline__ void storeDistances(const float* matrix, float* lower, int count, float* upper) {
  for (int i = threadIdx.x; i < FIBER; i += THREADS) {
    if (i < count) {
      float sum = 0.f;
      for (int fiber = 0; fiber < PACKED * FIBER; fiber += FIBER)
        for (int r = fiber + i; r < fiber + FIBER; r++) sum += matrix[r * MLD + (r - i) % SPAN];
      lower[i] = sum;
    }
    if (upper) {
      float sum = 0.f;
      for (int r = 0; r < i; r++) sum += matrix[r * MLD + r + FIBER - i];
      upper[i] = sum;
    }
  }
}

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
    biasGradient(const __grid_constant__ BiasGradient parameters) {
  followPrevious();
  const Pass& p = parameters.pass;
  extern __shared__ __align__(16) char memory[];
  T* q = reinterpret_cast<T*>(memory);
  T* k = q + ROWS * LD;
  T* u = k + ROWS * LD;
  T* dout = u + ROWS * LD;
  int* queryToken = reinterpret_cast<int*>(dout + ROWS * LD);
  int* keyToken = queryToken + ROWS;

  int split = blockIdx.x, windows = 1, q0 = 0, k0 = 0;
  bool empty = false;
#if SLIDING
  int apart = 0;
#endif
#ifndef SHORT
#if SLIDING
  apart = blockIdx.x % (parameters.tiles + 1), split = blockIdx.x / (parameters.tiles + 1);
  windows = max(p.tilesPerFiber - apart, 0);
  empty = apart * ROWS - (ROWS - 1) >= p.size;
#else
  int owners = parameters.tiles * parameters.tiles, owner = blockIdx.x % owners;
  split = blockIdx.x / owners;
  q0 = owner / parameters.tiles * ROWS, k0 = owner % parameters.tiles * ROWS;
  empty = CAUSAL && k0 > q0;
#endif
#endif
  int groups = (p.fibers + PACKED - 1) / PACKED;
  i64 items = empty ? 0 : (i64)p.batch * (parameters.shared ? p.heads : 1) * windows * groups;
  i64 begin = items * split / parameters.splits, end = items * (split + 1) / parameters.splits;

  constexpr int NB = SPAN / 8;
  int lane = threadIdx.x & 31, g = lane >> 2, c = (lane & 3) * 2;
  int first = threadIdx.x / 32 * 16, span = first / SPAN * SPAN;
  float sums[NB][4];
  clear(sums);
  clearPadding(q, 4 * ROWS);
  for (i64 item = begin; item < end; item++) {
    int group = (int)(item % groups);
    i64 rest = item / groups;
#if !defined(SHORT) && SLIDING
    k0 = (int)(rest % windows) * ROWS;
    q0 = k0 + apart * ROWS;
    rest /= windows;
#endif
    int h = parameters.shared ? (int)(rest % p.heads) : blockIdx.y;
    int b = (int)(parameters.shared ? rest / p.heads : rest);
    int limit = p.lengths ? min(p.lengths[b], p.tokens) : p.tokens;
    __syncthreads();
    bool live = true;
    for (int row = threadIdx.x; row < ROWS; row += THREADS) {
      int fiber = group * PACKED + row / FIBER, place = row % FIBER;
      int origin = fiber < p.fibers ? fiberOrigin(p, fiber) : 0;
      int length = fiber < p.fibers ? fiberLength(p, origin, limit) : 0;
      queryToken[row] = q0 + place < length ? origin + (q0 + place) * p.stride : -1;
      keyToken[row] = k0 + place < length ? origin + (k0 + place) * p.stride : -1;
      live = live && queryToken[row] >= 0 && keyToken[row] >= 0;
    }
    bool full = __syncthreads_and(live);
    loadTile<ROWS>(q, p.q + b * p.qB + h * p.qH, p.qN, queryToken, full);
    loadTile<ROWS>(k, p.k + b * p.kB + h / p.ratioK * p.kH, p.kN, keyToken, full);
    commit();
    loadTile<ROWS>(u, p.u + b * p.uB + h / p.ratioU * p.uH, p.uN, keyToken, full);
    loadTile<ROWS>(dout, p.dout + b * p.doB + h * p.doH, p.doN, queryToken, full);
    commit();
    i64 lseRow = (i64)(b * p.heads + h) * p.lseN;
    float carried[2], total[2], dot[2], beta = 0.f;
#pragma unroll
    for (int half = 0; half < 2; half++) {
      int t = queryToken[first + g + half * 8];
      total[half] = t >= 0 ? inverseLog(p.lseOut[lseRow + t]) : INFINITE;
      carried[half] = JOINT && t >= 0 ? p.lseIn[lseRow + t] * LOG2E : 0.f;
#ifdef SHORT
      dot[half] = t >= 0 && p.dlseOut ? -p.dlseOut[lseRow + t] : 0.f;
#else
      dot[half] = t >= 0 ? p.dot[lseRow + t] : 0.f;
#endif
    }
#if BETA
    beta = toFloat(p.beta[h]) * LOG2E;
#endif
    const float* bias = p.bias + (i64)h * p.biasStride;
    await<1>();
    __syncthreads();
#if ROTARY
    int origin = min(q0, k0);
    rotateTile(q, ROWS, p.rotary, [&](int row) { return q0 - origin + row % FIBER; });
    rotateTile(k, ROWS, p.rotary, [&](int row) { return k0 - origin + row % FIBER; });
    __syncthreads();
#endif
    float z[NB][4], dp[NB][4];
    clear(z);
    clear(dp);
    multiplyByTransposed<NB>(z, q + first * LD, k + span * LD);
    await<0>();
    __syncthreads();
    multiplyByTransposed<NB>(dp, dout + first * LD, u + span * LD);
#ifdef SHORT
    float full0 = 0.f, full1 = 0.f;
#endif
#pragma unroll
    for (int n = 0; n < NB; n++)
#pragma unroll
      for (int e = 0; e < 4; e++) {
        int row = first + g + (e >> 1) * 8, column = span + n * 8 + c + (e & 1);
        int query = q0 + row % FIBER, key = k0 + column % FIBER;
        float x = logit(p, z[n][e], query - key, key, beta, carried[e >> 1], bias);
        bool seen = (full || keyToken[column] >= 0) && (FIBER >= 16 || row / FIBER == column / FIBER);
        z[n][e] = seen ? exp2Fast(x - total[e >> 1]) : 0.f;
#ifdef SHORT
        (e < 2 ? full0 : full1) += z[n][e] * dp[n][e];
#endif
      }
#ifdef SHORT
    dot[0] += quadSum(full0);
    dot[1] += quadSum(full1);
#endif
#pragma unroll
    for (int n = 0; n < NB; n++)
#pragma unroll
      for (int e = 0; e < 4; e++) {
        // The joint diagonal is ℓ, which no bias enters.
        bool carries = JOINT && q0 + first + g + (e >> 1) * 8 == k0 + span + n * 8 + c + (e & 1);
        if (!carries) sums[n][e] += z[n][e] * (dp[n][e] - dot[e >> 1]);
      }
  }

  __syncthreads();
  float* matrix = reinterpret_cast<float*>(memory);
#pragma unroll
  for (int n = 0; n < NB; n++)
#pragma unroll
    for (int e = 0; e < 4; e++) matrix[(first + g + (e >> 1) * 8) * MLD + n * 8 + c + (e & 1)] = sums[n][e];
  __syncthreads();
  i64 extent = parameters.extent;
  i64 part = ((i64)blockIdx.y * parameters.splits + split) * HALVES;
#if SLIDING
  float* lower = parameters.parts + part * extent + apart * ROWS;
  storeDistances(matrix, lower, (int)extent - apart * ROWS, apart > 0 ? lower + extent - ROWS : nullptr);
#else
  storePlaces(matrix, parameters.parts + part * extent * extent, (int)extent, q0, k0);
#endif
}
