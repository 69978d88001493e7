// What the backward pass of long fibers does with scores and with products of gradients and values.

__device__ __forceinline__ float2 loadPair(u32 address) {
  float2 x;
  asm volatile("ld.shared.v2.f32 {%0,%1}, [%2];" : "=f"(x.x), "=f"(x.y) : "r"(address) : "memory");
  return x;
}

// z of 64 × 64 pairs becomes p, where a lane's D and, 64 numbers on, ℓ' of its columns lie at `columns`.
__device__ __forceinline__ void exponentiate(float (&s)[8][4], u32 columns, float scale) {
#pragma unroll
  for (int n = 0; n < 8; n++) {
    float2 shift = loadPair(columns + 256 + n * 32);
#pragma unroll
    for (int e = 0; e < 4; e++) s[n][e] = exp2Fast(s[n][e] * scale - (e & 1 ? shift.y : shift.x));
  }
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

// s = a · bᵀ of two tiles, given by their descriptors; done when this returns.
__device__ __forceinline__ void multiplyTiles(float (&s)[8][4], u32 a, u32 b) {
  beginProducts();
  startTiles(s, a, b);
  commitProducts();
  awaitProducts<0>();
  pin(s);
}

// What a tile's descriptor gets where its channels are the columns of a product.
constexpr u32 CHANNELS = (PANEL - 16) >> 4 << 16;

// sum += weights · the channels of a tile, given by its descriptor; under way when this returns.
__device__ __forceinline__ void gather(float (&sum)[ND][4], const u32 (&weights)[4][4], u32 tile) {
#pragma unroll
  for (int k = 0; k < 4; k++) add<1>(sum, weights[k], tile + CHANNELS + k * 2048 / 16);
  commitProducts();
}

// Keeps an operand where it is until the products that read it are done.
__device__ __forceinline__ void pin(u32 (&weights)[4][4]) {
#pragma unroll
  for (int i = 0; i < 16; i++) asm volatile("" : "+r"(weights[i / 4][i % 4])::"memory");
}

// d = dp − D of tiles given by their descriptors, and du += pᵀ·du' with `weights`. dp − D comes beside the product with p
// where ptxas finds the registers.
template <bool BESIDE>
__device__ __forceinline__ void weighGradients(float (&d)[8][4], float (&du)[ND][4], u32 (&weights)[4][4], u32 values,
                                               u32 gradients, u32 columns, float scale) {
  beginProducts();
  startTiles(d, values, gradients);
  commitProducts();
  gather(du, weights, gradients);
  awaitProducts<BESIDE ? 1 : 0>();
  subtractDots(d, columns, scale);
  awaitProducts<0>();
  pin(weights);
}

// Rounded p, the operand of du += pᵀ·du', becomes dz, that of dk += dzᵀ·q; `d` is dp − D.
__device__ __forceinline__ void multiplyWeights(u32 (&weights)[4][4], const float (&d)[8][4]) {
#pragma unroll
  for (int n = 0; n < 8; n++)
#pragma unroll
    for (int half = 0; half < 2; half++) {
      u32& w = weights[n / 2][n % 2 * 2 + half];
      float2 x = unpack(w);
      w = pack(x.x * d[n][half * 2], x.y * d[n][half * 2 + 1]);
    }
}

// Keeps what own pairs have: of a lane's two rows, `distance` as for `mask`.
__device__ __forceinline__ void takeOwn(float (&own)[2], const float (&s)[8][4], int distance) {
#pragma unroll
  for (int n = 0; n < 8; n++)
#pragma unroll
    for (int e = 0; e < 4; e++)
      if (mayBeOwn(n, e) && distance == n * 8 + (e & 1) - (e >> 1) * 8) own[e >> 1] = s[n][e];
}

// The same beside weights, which own pairs lose in joint normalization: the carried ℓ has theirs.
__device__ __forceinline__ void takeOwn(float (&own)[2], const float (&d)[8][4], u32 (&weights)[4][4], int distance) {
#pragma unroll
  for (int n = 0; n < 8; n++)
#pragma unroll
    for (int e = 0; e < 4; e++) {
      if (!mayBeOwn(n, e)) continue;
      bool isOwn = distance == n * 8 + (e & 1) - (e >> 1) * 8;
      own[e >> 1] = isOwn ? d[n][e] : own[e >> 1];
      if (JOINT) weights[n / 2][n % 2 * 2 + e / 2] &= isOwn ? (e & 1 ? 0xffffu : 0xffff0000u) : ~0u;
    }
}

// The sum over a warp, in every lane.
__device__ __forceinline__ float warpSum(float x) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(~0u, x, step);
  return x;
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
