// What both kinds of short backward passes on a Hopper GPU share (`BackwardTiles.cu`, `BackwardBulk.cu`): products of
// tiles in shared memory, and a tile's probabilities and their gradients.

#define WEIGHTS (2 * PANEL)                     // a consumer's p and dz
#define SETS (D == 128 ? 3 : 5)                 // of four tiles: q, k, u, du'
#define SET (4 * TILE)

#define SHARED_PRODUCT(NAME, BLOCKS, N, ADD, KIND, A, B, TA, TB)                                                  \
  template <int TRANSPOSED_A, int TRANSPOSED_B>                                                                   \
  __device__ __forceinline__ void NAME(float (&c)[BLOCKS][4], u32 a, u32 b) {                                     \
    asm volatile("{ .reg .pred p; .reg .b64 a, b; setp.ne.b32 p, " ADD ", 0; mov.b64 a, {%" A ", 0x40000040};\n"  \
                 "mov.b64 b, {%" B ", 0x40000040};\n" WGMMA(N) LANES_##BLOCKS ", a, b, p, 1, 1, %" TA ", %" TB "; }" \
                 : OCTETS_##BLOCKS(KIND)                                                                          \
                 : "r"(a), "r"(b), "n"(TRANSPOSED_A), "n"(TRANSPOSED_B));                                         \
  }
#define LANES_16                                                                                                \
  "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,"   \
  "%28,%29,%30,%31,%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53," \
  "%54,%55,%56,%57,%58,%59,%60,%61,%62,%63}"
SHARED_PRODUCT(startShared, 8, 64, "0", OUT, "32", "33", "34", "35")
SHARED_PRODUCT(addShared, 8, 64, "1", INOUT, "32", "33", "34", "35")
SHARED_PRODUCT(startShared, 16, 128, "0", OUT, "64", "65", "66", "67")
SHARED_PRODUCT(addShared, 16, 128, "1", INOUT, "64", "65", "66", "67")

// The uniform first word of a tile's descriptor. In a cluster an address has the block's rank above its 18 bits.
__device__ __forceinline__ u32 operand(u32 tile, u32 leading) { return uniform(descriptor(tile & 0x3ffff, leading)); }

// All threads of a warpgroup.
__device__ __forceinline__ void meet(int barrier) { asm volatile("bar.sync %0, 128;" ::"r"(barrier) : "memory"); }

// The set of tiles of an item of work, and how often the ring has been gone round. Items of both sides (a copying
// and a working warpgroup each) take turns. Sets being odd in number, a set changes sides each time round, so that a
// side that waits for the other one's use of a set waits for all of them, one after another: a barrier tells no more
// than whether a phase is even or odd.
struct Ring {
  int set = 0, round = 0;
  __device__ __forceinline__ void next(int steps) {
    set += steps;
    if (set >= SETS) set -= SETS, round++;
  }
};

__device__ __forceinline__ int readShared(u32 address) {
  int x;
  asm volatile("ld.shared.s32 %0, [%1];" : "=r"(x) : "r"(address) : "memory");
  return x;
}
__device__ __forceinline__ void writeShared(u32 address, int x) {
  asm volatile("st.shared.s32 [%0], %1;" ::"r"(address), "r"(x) : "memory");
}

// The columns of a warp's own fiber.
template <int span>
__device__ __forceinline__ void select(float (&own)[span / 8][4], const float (&all)[8][4], int warp) {
#pragma unroll
  for (int n = 0; n < span / 8; n++)
#pragma unroll
    for (int e = 0; e < 4; e++) {
      if constexpr (span == 64) own[n][e] = all[n][e];
      if constexpr (span == 32) own[n][e] = warp & 2 ? all[n + 4][e] : all[n][e];
      if constexpr (span == 16) {
        float low = warp & 1 ? all[n + 2][e] : all[n][e], high = warp & 1 ? all[n + 6][e] : all[n + 4][e];
        own[n][e] = warp & 2 ? high : low;
      }
    }
}

// c (+)= a · tile for the 64 rows of `weights`, or for its 64 columns.
template <int TRANSPOSED>
__device__ __forceinline__ void weigh(float (&c)[ND][4], u32 weights, u32 tile, bool begins) {
  u32 a = operand(weights, 16), b = operand(tile, PANEL);
  constexpr int step = (TRANSPOSED ? 2048 : 32) / 16;
  beginProducts();
  if (begins) startShared<TRANSPOSED, 1>(c, a, b);
  else addShared<TRANSPOSED, 1>(c, a, b);
#pragma unroll
  for (int k = 1; k < 4; k++) addShared<TRANSPOSED, 1>(c, a + k * step, b + k * 2048 / 16);
  commitProducts();
}

// Probabilities p and gradients dz of a warp's sixteen rows against its own fibers, dℓ of the pass below if joint; returns
// the lane's part of dβ. `read` gives the token, whether it is live, and ℓ' of a row; `isKey` says whether a row is a key.
template <int fiber, bool joint, bool hasBeta, bool hasBias, int NB, class Read, class IsKey>
__device__ __forceinline__ float formWeights(const Pass& p, float (&z)[NB][4], float (&dz)[NB][4], u32 tiles, int h, i64 lseRow,
                                             Read read, IsKey isKey) {
  constexpr int span = NB * 8;
  int lane = threadIdx.x & 31, warp = uniform(threadIdx.x / 32 & 3), g = lane >> 2, c = (lane & 3) * 2;
  int first = warp * 16, base = first / span * span, token[2];
  float dot[2] = {0.f, 0.f}, dlse[2], total[2], carried[2], dbeta = 0.f, beta = 0.f;
  {
    float s[8][4], ds[8][4];
    beginProducts();
    startTiles(s, operand(tiles, 16), operand(tiles + TILE, 16));
    commitProducts();
    startTiles(ds, operand(tiles + 3 * TILE, 16), operand(tiles + 2 * TILE, 16));
    commitProducts();
#pragma unroll
    for (int half = 0; half < 2; half++) {
      bool live;
      float lse;
      read(first + g + half * 8, token[half], live, lse);
      total[half] = live ? inverseLog(lse) : INFINITE;
      carried[half] = joint && live ? p.lseIn[lseRow + token[half]] * LOG2E : 0.f;
      dlse[half] = live && p.dlseOut ? __ldcg(p.dlseOut + lseRow + token[half]) : 0.f;
    }
    if constexpr (hasBeta) beta = toFloat(p.beta[h]) * LOG2E;
    const float* bias = p.bias ? p.bias + (i64)h * p.biasStride : nullptr;
    awaitProducts<1>();
    pin(s);
    select<span>(z, s, warp);
#pragma unroll
    for (int n = 0; n < NB; n++)
#pragma unroll
      for (int e = 0; e < 4; e++) {
        int query = first + g + (e >> 1) * 8, key = base + n * 8 + c + (e & 1);
        float x = logit<joint, hasBeta, hasBias>(p, z[n][e], query - key, key % fiber, beta, carried[e >> 1], bias);
        z[n][e] = (fiber >= 16 || query / fiber == key / fiber) && isKey(key) ? exp2Fast(x - total[e >> 1]) : 0.f;
      }
    awaitProducts<0>();
    pin(ds);
    select<span>(dz, ds, warp);
  }
#pragma unroll
  for (int n = 0; n < NB; n++)
#pragma unroll
    for (int e = 0; e < 4; e++) dot[e >> 1] += z[n][e] * dz[n][e];
  dot[0] = quadSum(dot[0]) - dlse[0];
  dot[1] = quadSum(dot[1]) - dlse[1];
#pragma unroll
  for (int n = 0; n < NB; n++)
#pragma unroll
    for (int e = 0; e < 4; e++) {
      bool diagonal = first + g + (e >> 1) * 8 == base + n * 8 + c + (e & 1);
      float x = z[n][e] * (dz[n][e] - dot[e >> 1]);
      if (hasBeta && !diagonal) dbeta += x;
      if (joint && diagonal) {
        if (token[e >> 1] >= 0) p.dlseIn[lseRow + token[e >> 1]] = x;
        x = 0.f;
      }
      dz[n][e] = x * p.rawScale;
    }
  return dbeta;
}

// Puts a warp's p and dz where products take them as operands.
template <int NB>
__device__ __forceinline__ void placeWeights(u32 weights, const float (&z)[NB][4], const float (&dz)[NB][4]) {
  constexpr int span = NB * 8;
  int lane = threadIdx.x & 31, first = uniform(threadIdx.x / 32 & 3) * 16, base = first / span * span;
#pragma unroll
  for (int n = 0; n < NB; n += 2) {
    u32 place = weights + swizzled(first + (lane & 15), base / 8 + n + (lane >> 4));
    storeMatrices(place, pack(z[n][0], z[n][1]), pack(z[n][2], z[n][3]), pack(z[n + 1][0], z[n + 1][1]),
                  pack(z[n + 1][2], z[n + 1][3]));
    storeMatrices(place + PANEL, pack(dz[n][0], dz[n][1]), pack(dz[n][2], dz[n][3]),
                  pack(dz[n + 1][0], dz[n + 1][1]), pack(dz[n + 1][2], dz[n + 1][3]));
  }
}

// The parts of dβ of a tile: a warp's sum to `scratch`, and the sum of four from there.
__device__ __forceinline__ void placeSum(u32 scratch, float x) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(~0u, x, step);
  if (threadIdx.x % 32 == 0) writeShared(scratch + threadIdx.x / 32 % 4 * 4, __float_as_int(x));
}
__device__ __forceinline__ float sumOfWarps(u32 scratch) {
  float sum = 0.f;
#pragma unroll
  for (int w = 0; w < 4; w++) sum += __int_as_float(readShared(scratch + w * 4));
  return sum;
}

// The tile with this number: neighbors in a head's fibers first.
struct Tile {
  int place, group, b;
  __device__ __forceinline__ Tile(int tile, int tiles, int groups)
      : place(tile % tiles), group(tile / tiles % groups), b(tile / tiles / groups) {}
};

// What a counter in device memory answers to blocks that ask it for work, in shared memory: where step s has its answer,
// above eight bits that tell how often the place has been used. PLACES: more steps than those who take answers are apart.
template <int PLACES>
struct Answers {
  u32 words;
  __device__ __forceinline__ void prepare() const {
    if (threadIdx.x < PLACES) writeShared(words + threadIdx.x * 4, 0);
  }
  __device__ __forceinline__ u32 place(int step) const { return words + step % PLACES * 4; }
  static __device__ __forceinline__ u32 uses(int step) { return step / PLACES + 1 & 255; }
  static __device__ __forceinline__ u32 word(int step, int answer) { return answer << 8 | uses(step); }
  __device__ __forceinline__ int take(int step) const {
    u32 word;
    // A weak load would be taken out of the loop.
    do asm volatile("ld.relaxed.cluster.shared::cta.u32 %0, [%1];" : "=r"(word) : "r"(place(step)) : "memory");
    while ((word & 255) != uses(step));
    return uniform(word >> 8);
  }
};
