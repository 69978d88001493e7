// What the backward pass of long fibers does with scores and with products of gradients and values.

__device__ __forceinline__ float2 loadPair(u32 address) {
  float2 x;
  asm volatile("ld.shared.v2.f32 {%0,%1}, [%2];" : "=f"(x.x), "=f"(x.y) : "r"(address) : "memory");
  return x;
}

// dp of 64 × 64 pairs becomes scale · dp − D, where a lane's D lie at `columns`; beside products that are under way.
__device__ __forceinline__ void subtractDots(float (&d)[8][4], u32 columns, float scale) {
  pin(d);
#pragma unroll
  for (int n = 0; n < 8; n++) {
    float2 dot = loadPair(columns + n * 32);
#pragma unroll
    for (int e = 0; e < 4; e++) d[n][e] = d[n][e] * scale - (e & 1 ? dot.y : dot.x);
  }
  pin(d);
}

// What a lane knows of its two rows: own queries or own keys.
struct Rows {
  float shift[2], dot[2];  // query role: ℓ' − β in base 2 and scale·D
  float carried[2], beta;
};

// Scores that are not seen become −∞; the diagonal has no β, and in joint normalization it is the carried ℓ. `own`
// is the distance of the lane's first row from its first column within two tiles at the same place.
template <int ROLE>
__device__ __forceinline__ void mask(const WalkedPass& p, float (&s)[8][4], int keys, int block, int tile, int own,
                                     const Rows& rows) {
  if (tile == block) {
    // What the score of the diagonal becomes (joint) or loses (β).
    float diagonal[2];
#pragma unroll
    for (int half = 0; half < 2; half++) {
      diagonal[half] = JOINT ? rows.carried[half] : rows.beta;
      // Used here and not where ℓ is fetched, which would wait for it.
      asm volatile("" : "+f"(diagonal[half]));
      if (JOINT) diagonal[half] -= rows.beta;
      diagonal[half] *= reciprocal(p.rawScale);
    }
#pragma unroll
    for (int n = 0; n < 8; n++)
#pragma unroll
      for (int e = 0; e < 4; e++) {
        int offset = n * 8 + (e & 1) - (e >> 1) * 8;
        if (JOINT && mayBeOwn(n, e) && own == offset) s[n][e] = diagonal[e >> 1];
        if (!JOINT && BETA && mayBeOwn(n, e) && own == offset) s[n][e] -= diagonal[e >> 1];
        if (CAUSAL && (ROLE == QUERY ? own < offset : own > offset)) s[n][e] = -INFINITE;
      }
  }
#if WINDOW
  if ((block - tile) * 64 + 63 >= p.size) {
    int outside = (block - tile) * 64 + (ROLE == QUERY ? own : -own) - p.size;
#pragma unroll
    for (int n = 0; n < 8; n++)
#pragma unroll
      for (int e = 0; e < 4; e++) {
        int offset = n * 8 + (e & 1) - (e >> 1) * 8;
        if (ROLE == QUERY ? outside >= offset : outside >= -offset) s[n][e] = -INFINITE;
      }
  }
#elif !CAUSAL
  if (ROLE == QUERY && tile * 64 + 64 > keys) {
    int left = keys - tile * 64 - (threadIdx.x & 3) * 2;
#pragma unroll
    for (int n = 0; n < 8; n++)
#pragma unroll
      for (int e = 0; e < 4; e++)
        if (left <= n * 8 + (e & 1)) s[n][e] = -INFINITE;
  }
#endif
}
