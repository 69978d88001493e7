// What forward passes with warpgroups do with scores before they weigh values: masks, largest ones, exponentials.

#ifndef EVEN
#define EVEN 0
#endif
#if BOTH
typedef PairedForward Parameters;
#define IS_JOINT (walk.upper != 0)  // the lowest pass is not
#define STAGE_PANEL PANEL           // staged tiles of 64 rows
#else
typedef WalkedForward Parameters;
#define IS_JOINT true
#define STAGE_PANEL 2048
#endif

// What a tile's scores get before the softmax, in units of the dot product: −∞ where a query does not see the
// key, and the diagonal less β, since β is added to the whole row afterwards. `delta` is the distance of
// the lane's first query from its first key.
template <bool MAYBE_DIAGONAL, bool MAYBE_EDGE>
__device__ __forceinline__ void mask(const WalkedPass& p, const Walk<FORWARD>& walk, float (&s)[8][4], int block, int tile,
                                     int delta, const float (&carried)[2], float beta, const float* bias) {
#if BIAS
  float inverse = reciprocal(p.rawScale);
#pragma unroll
  for (int n = 0; n < 8; n++)
#pragma unroll
    for (int e = 0; e < 4; e++) {
      int distance = delta + (e >> 1) * 8 - n * 8 - (e & 1);
#if SLIDING
      if ((u32)distance < (u32)p.size) s[n][e] += __ldg(bias + distance) * inverse;
#else
      int key = tile * 64 + (threadIdx.x & 3) * 2 + n * 8 + (e & 1);
      if (key < p.size && distance + key < p.size)
        s[n][e] += __ldg(bias + (i64)(distance + key) * p.size + key) * inverse;
#endif
    }
#endif
  if (MAYBE_DIAGONAL && tile == block) {
    float diagonal[2] = {beta, beta};
#pragma unroll
    for (int half = 0; half < 2; half++) {
      if (JOINT && IS_JOINT) diagonal[half] = carried[half] - beta;
      // Formed here and not where ℓ is fetched, which would wait for it.
      asm volatile("" : "+f"(diagonal[half]));
      diagonal[half] *= reciprocal(p.rawScale);
    }
#pragma unroll
    for (int n = 0; n < 8; n++)
#pragma unroll
      for (int e = 0; e < 4; e++) {
        int offset = n * 8 + (e & 1) - (e >> 1) * 8;
        if (JOINT && IS_JOINT && mayBeOwn(n, e) && delta == offset) s[n][e] = diagonal[e >> 1];
        if (!JOINT && BETA && mayBeOwn(n, e) && delta == offset) s[n][e] -= diagonal[e >> 1];
        if (CAUSAL && delta < offset) s[n][e] = -INFINITE;
      }
  }
#if WINDOW
  if (MAYBE_EDGE && (block - tile) * 64 + 63 >= p.size) {
    int outside = delta - p.size;
#pragma unroll
    for (int n = 0; n < 8; n++)
#pragma unroll
      for (int e = 0; e < 4; e++)
        if (outside >= n * 8 + (e & 1) - (e >> 1) * 8) s[n][e] = -INFINITE;
  }
#elif !CAUSAL
  if (MAYBE_EDGE && tile * 64 + 64 > walk.keys) {
    int left = walk.keys - tile * 64 - (threadIdx.x & 3) * 2;
#pragma unroll
    for (int n = 0; n < 8; n++)
#pragma unroll
      for (int e = 0; e < 4; e++)
        if (left <= n * 8 + (e & 1)) s[n][e] = -INFINITE;
  }
#endif
}

#if TILES
// Of the first tile of a window that is a whole number of tiles a query sees the keys behind its own place, of the last one
// those up to it: both fit one tile. `first` becomes that.
__device__ __forceinline__ void merge(const WalkedPass& p, float (&first)[8][4], const float (&last)[8][4], int delta,
                                      const float (&carried)[2], float beta) {
  float inverse = reciprocal(p.rawScale);
#pragma unroll
  for (int n = 0; n < 8; n++)
#pragma unroll
    for (int e = 0; e < 4; e++) {
      int offset = n * 8 + (e & 1) - (e >> 1) * 8;
      float own = last[n][e];
      if (JOINT && mayBeOwn(n, e) && delta == offset) own = (carried[e >> 1] - beta) * inverse;
      if (!JOINT && BETA && mayBeOwn(n, e) && delta == offset) own -= beta * inverse;
      first[n][e] = delta >= offset ? own : first[n][e];
    }
}

// Divides the weights of such a tile again: `first` keeps those of its keys behind the row's place.
__device__ __forceinline__ void divideWeights(u32 (&first)[4][4], u32 (&last)[4][4], int delta) {
#pragma unroll
  for (int k = 0; k < 4; k++)
#pragma unroll
    for (int i = 0; i < 4; i++) {
      // A word is two keys: both, the lower one or none of them up to the row's place.
      int hidden = max(16 - 16 * (delta + (i % 2) * 8 - (2 * k + i / 2) * 8), 0);
      u32 seen;
      asm("shr.u32 %0, %1, %2;" : "=r"(seen) : "r"(~0u), "r"(hidden));
      last[k][i] = first[k][i] & seen;
      first[k][i] &= ~seen;
    }
}
#endif

// The largest score of each of a lane's two rows; four chains rather than one, because their latency counts.
__device__ __forceinline__ void largest(float (&best)[2], const float (&s)[8][4]) {
#pragma unroll
  for (int half = 0; half < 2; half++) {
    float part[4];
#pragma unroll
    for (int i = 0; i < 4; i++)
      part[i] = fmaxf(fmaxf(s[i][half * 2], s[i][half * 2 + 1]), fmaxf(s[i + 4][half * 2], s[i + 4][half * 2 + 1]));
    best[half] = fmaxf(best[half], fmaxf(fmaxf(part[0], part[1]), fmaxf(part[2], part[3])));
  }
}

// Scores → exponentials below the rows' references, which are added to the rows' sums.
__device__ __forceinline__ void exponentiate(float (&s)[8][4], const float (&top)[2], float (&sum)[2], float scale) {
#pragma unroll
  for (int half = 0; half < 2; half++) {
    float part[4], shift = top[half] == -INFINITE ? 0.f : top[half] * scale;
#pragma unroll
    for (int n = 0; n < 8; n++)
#pragma unroll
      for (int e = half * 2; e < half * 2 + 2; e++) {
        s[n][e] = exp2Fast(s[n][e] * scale - shift);
        part[n % 4] = n < 4 && e % 2 == 0 ? s[n][e] : part[n % 4] + s[n][e];
      }
    sum[half] += (part[0] + part[1]) + (part[2] + part[3]);
  }
}

template <int N>
struct Index {
  static constexpr int value = N;
};
template <int COUNT, int I = 0, class Body>
__device__ __forceinline__ void each(Body& body) {
  if constexpr (I < COUNT) {
    body(Index<I>());
    each<COUNT, I + 1>(body);
  }
}
