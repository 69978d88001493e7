// The passes of the two lowest modes in one launch (see ForwardFused.cu), with wgmma and warps that only move
// rows.
//
// A cluster owns the n_{m−1}·n_m consecutive tokens of one task after the other. A block has two warpgroups that
// attend, each to a tile of 64 rows of either pass. One more copies: q, k and v of the next task while this
// one's upper pass runs, and q and k in the upper order, which siblings have just read, while the lower pass
// runs. The last one takes results to memory. A tile holds whole fibers: all its rows meet all its keys in one
// product, and a warp keeps what belongs to its own fiber. What the lower pass returns goes to the tile that needs
// it (`st.async`), whose owner says when it has read what was there before. While a block waits for what others send, it
// forms the lower pass's weights of its next task.
//
// With TOP the launch runs a third pass too, whose fibers lie across all blocks of a head. Its tasks come when the
// rows that they read have been written, by all clusters, but as far as may be have not left L2 yet.
//
// Macros: TILES, the tiles of 64 rows of a cluster (an even number); LOWER, UPPER, LOWER_SIZE, UPPER_SIZE,
// SAVE, GROUPED, LOWER_BIAS and UPPER_BIAS as for ForwardFused.cu; LSE (0: nobody reads ℓ' of the upper pass); TOP (0
// without), TOP_SIZE and TOP_BIAS.

// s[64, 64] (+)= a · bᵀ over 16 channels: both are rows of tiles.
#define SCORES(NAME, ADD, KIND)                                                                              \
  __device__ __forceinline__ void NAME(float (&c)[8][4], u32 a, u32 b) {                                     \
    asm volatile(                                                                                            \
        "{ .reg .pred p; .reg .b64 a, b; setp.ne.b32 p, " ADD ", 0;\n"                                       \
        "mov.b64 a, {%32, 0x40000040}; mov.b64 b, {%33, 0x40000040};\n" WGMMA(64)                            \
        "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26," \
        "%27,%28,%29,%30,%31}, a, b, p, 1, 1, 0, 0; }"                                                       \
        : OCTETS_8(KIND)                                                                                     \
        : "r"(a), "r"(b));                                                                                   \
  }
SCORES(startScores, "0", OUT)
SCORES(addScores, "1", INOUT)

// Arrives at another block's barrier. A release at cluster scope would wait for all stores on their way to memory.
__device__ __forceinline__ void arriveAt(u32 remote) {
  asm volatile("mbarrier.arrive.shared::cluster.b64 _, [%0];" ::"r"(remote) : "memory");
}
__device__ __forceinline__ void expectBytes(u32 barrier, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}
__device__ __forceinline__ void groupSync(int group) {
  asm volatile("barrier.sync %0, 128;" ::"r"(group + 1) : "memory");
}

// A tile's descriptor. In a cluster the upper bits of a shared address are the block's rank, not part of it.
__device__ __forceinline__ u32 operand(u32 tile, u32 leading) { return uniform(descriptor(tile & 0x3ffff, leading)); }

// Puts the products of all rows of a tile with all its keys under way.
__device__ __forceinline__ void score(float (&s)[8][4], u32 queries, u32 keys) {
  u32 a = operand(queries, 16), b = operand(keys, 16);
  publish();
  beginProducts();
  startScores(s, a, b);
#pragma unroll
  for (int n = 1; n < D / 16; n++)
    addScores(s, a + (n / 4 * PANEL + n % 4 * 32) / 16, b + (n / 4 * PANEL + n % 4 * 32) / 16);
  commitProducts();
}

// Puts o = weights · u of a tile under way.
__device__ __forceinline__ void weigh(float (&o)[ND][4], const u32 (&weights)[4][4], u32 tile) {
  u32 values = operand(tile, PANEL);
  publish();
  beginProducts();
  start<1>(o, weights[0], values);
#pragma unroll
  for (int n = 1; n < 4; n++) add<1>(o, weights[n], values + n * 2048 / 16);
  commitProducts();
}

// Whether the lower pass of a task begins while the task before waits for rows from other blocks, and the upper one's
// weights are formed beside the lower one's product. With a top pass that was no faster.
#define AHEAD !TOP

template <int N>
struct Index {
  static constexpr int value = N;
};

// Scores of all keys → weights of those of the warp's own fibers, zero for others, and the rows' references and sums.
template <int size, bool full, bool joint, bool hasBeta, bool hasBias>
__device__ __forceinline__ void soften(const Pass& p, float (&s)[8][4], u32 (&weights)[4][4], float (&top)[2],
                                       float (&sum)[2], const int* marks, float beta, const float (&carried)[2],
                                       const float* bias) {
  constexpr int span = SPAN_OF(size), NB = span / 8;
  int warp = uniform(threadIdx.x / 32 & 3), own = warp * 16 / span;
  float z[NB][4];
#pragma unroll
  for (int n = 0; n < NB; n++)
#pragma unroll
    for (int e = 0; e < 4; e++) {
      z[n][e] = s[n][e];
#pragma unroll
      for (int other = 1; other < 64 / span; other++) z[n][e] = own == other ? s[other * NB + n][e] : z[n][e];
    }
  exponentiate<size, joint, hasBeta, hasBias>(p, z, top, sum, warp * 16, own * span, marks, full, beta, carried, bias);
#pragma unroll
  for (int n = 0; n < 4; n++)
#pragma unroll
    for (int i = 0; i < 4; i++) {
      constexpr int steps = span / 16;
      int m = n % steps * 2 + i / 2;
      u32 x = pack(z[m][i % 2 * 2], z[m][i % 2 * 2 + 1]);
      weights[n][i] = own == n / steps ? x : 0;
    }
}

__device__ __forceinline__ void pinProduct(float (&c)[8][4]) { asm volatile("" : OCTETS_8(INOUT)::"memory"); }
__device__ __forceinline__ void pinProduct(float (&c)[16][4]) { asm volatile("" : OCTETS_16(INOUT)::"memory"); }

// Keeps the compiler from forming weights later than here.
__device__ __forceinline__ void pinWeights(u32 (&weights)[4][4]) {
#pragma unroll
  for (int n = 0; n < 4; n++)
    asm volatile("" : "+r"(weights[n][0]), "+r"(weights[n][1]), "+r"(weights[n][2]), "+r"(weights[n][3]));
}

// Rows' sums → their normalization and ℓ'.
__device__ __forceinline__ void normalize(float (&factor)[2], float (&lse)[2], const float (&top)[2], const float (&sum)[2],
                                          const int* marks, bool full) {
#pragma unroll
  for (int half = 0; half < 2; half++) {
    float total = quadSum(sum[half]);
    bool live = (full || marks[half * 8] >= 0) && total > 0.f;
    factor[half] = live ? reciprocal(total) : 0.f;
    lse[half] = live ? (top[half] + log2Fast(total)) * LN2 : -INFINITE;
  }
}

__device__ __forceinline__ void attend(const Chain& both, const Places& places, char* memory, int rank, int group) {
  const Pass& p = both.lower;
  const Pass& up = both.upper;
  int lane = threadIdx.x & 31, warp = uniform(threadIdx.x / 32 & 3), g = lane >> 2, t = lane & 3, first = warp * 16;
  int tile = rank * 2 + group;
  int* lowerMark = reinterpret_cast<int*>(memory + MARKS) + group * 128;
  int* upperMark = lowerMark + 64;
  constexpr int lowerFibers = 64 / LOWER, upperFibers = 64 / UPPER;
  constexpr int sentBytes = D * 2 + (JOINT ? 4 : 0);
  int parity = 0, staging = 0, sentParity = 0, vacantParity = Task(both).isTop ? 0 : 1;
  u32 leaving = places.leaving + (group * 64 + first + g) * 4;
  // Hands the warp's rows and ℓ' to the warps that take them to memory; `write` puts the rows there.
  auto hand = [&](const float(&lse)[2], auto hasLSE, auto write) {
    waitFor(places.taken(group), staging ^ 1);
    write(places.tile(group, 6));
    if (decltype(hasLSE)::value && t == 0)
#pragma unroll
      for (int half = 0; half < 2; half++)
        asm volatile("st.shared.f32 [%0], %1;" ::"r"(leaving + half * 32), "f"(lse[half]) : "memory");
    __syncwarp();
    if (lane == 0) arrive(places.staged(group));
    staging ^= 1;
  };
  auto handRows = [&](const float(&o)[ND][4], const float(&factor)[2], const float(&lse)[2]) {
    hand(lse, Index<1>(), [&](u32 stage) {
#pragma unroll
      for (int n = 0; n < ND; n += 2)
        storeMatrices(stage + stagedAt(first + (lane & 15), n + (lane >> 4)),
                      pack(o[n][0] * factor[0], o[n][1] * factor[0]), pack(o[n][2] * factor[1], o[n][3] * factor[1]),
                      pack(o[n + 1][0] * factor[0], o[n + 1][1] * factor[0]),
                      pack(o[n + 1][2] * factor[1], o[n + 1][3] * factor[1]));
    });
  };
  // Says that u' was read: to those who send the next one, or to this block's copies of a top pass.
  auto leave = [&](bool toTop) {
    __syncwarp();
    if (toTop) {
      if (lane == 0) arrive(places.read(group, 3));
    } else if (lane < BLOCKS_OF_CLUSTER) {
      arriveAt(peer(memory, lane) + places.vacant() - places.tiles);
    }
  };
#if TOP
  int topParity = 0;
  // The top pass of two tiles, whose u the upper pass has left in memory.
  auto runTop = [&](const Task& task, bool toTop, auto isFull) {
    constexpr bool full = decltype(isFull)::value;
    const Pass& last = both.top;
    const float* bias = last.bias ? last.bias + (i64)task.h * last.biasStride : nullptr;
    float beta = BETA ? toFloat(last.beta[task.h]) * LOG2E : 0.f;
    float s[2][8][4], o[2][ND][4], top[2], sum[2], factor[2][2], lse[2][2], carried[2] = {0.f, 0.f};
    u32 weights[2][4][4];
    int tile = task.block * TILES * 2 + rank * 2 + group;
    waitFor(places.landed(group, 0), parity);
    score(s[0], places.tile(group, 0), places.tile(group, 1));
    waitFor(places.landed(group, 2), parity);
    score(s[1], places.tile(group, 3), places.tile(group, 4));
    // Both tiles' weights before u is needed, which may be on its way yet.
    auto weighted = [&](auto index) {
      constexpr int i = decltype(index)::value;
      const int* marks = i ? upperMark : lowerMark;
      awaitProducts<1 - i>();
      pinProduct(s[i]);
      if (lane == 0) arrive(places.read(group, i * 2));
#if JOINT
      // ℓ' of the upper pass is there when its rows are.
      waitFor(places.landed(group, 1 + i * 2), i ? topParity : parity);
      const float* line = last.lseIn + (i64)(task.b * p.heads + task.h) * p.lseN;
#pragma unroll
      for (int half = 0; half < 2; half++) {
        int row = first + g + half * 8, t = full ? task.token<2>(tile + i * TILES, row) : marks[row];
        carried[half] = t >= 0 ? __ldcg(line + t) * LOG2E : 0.f;
      }
#endif
      soften<TOP, full, JOINT, BETA, TOP_BIAS>(last, s[i], weights[i], top, sum, marks, beta, carried, bias);
      normalize(factor[i], lse[i], top, sum, marks + first + g, full);
    };
    weighted(Index<0>());
    weighted(Index<1>());
    waitFor(places.landed(group, 1), parity);
    weigh(o[0], weights[0], places.tile(group, 2));
    waitFor(places.landed(group, 3), topParity);
    weigh(o[1], weights[1], places.tile(group, 5));
    awaitProducts<1>();
    pinProduct(o[0]);
    if (lane == 0) arrive(places.read(group, 1));
    handRows(o[0], factor[0], lse[0]);
    awaitProducts<0>();
    pinProduct(o[1]);
    leave(toTop);
    handRows(o[1], factor[1], lse[1]);
    parity ^= 1, topParity ^= 1;
  };
#endif
  // The lower pass's weights of a task, which may be formed while the task before waits for what other blocks send.
  u32 lowWeights[4][4];
  float lowTop[2], lowSum[2];
  bool isAhead = false;
  auto softenLower = [&](const Task& task, int parity, auto isFull) {
    constexpr bool full = decltype(isFull)::value;
    const float* bias = p.bias ? p.bias + (i64)task.h * p.biasStride : nullptr;
    const float none[2] = {0.f, 0.f};
    float s[8][4];
    waitFor(places.landed(group, 0), parity);
    score(s, places.tile(group, 0), places.tile(group, 1));
    awaitProducts<0>();
    pinProduct(s);
    if (lane == 0) arrive(places.read(group, 0));
    soften<LOWER, full, false, false, LOWER_BIAS>(p, s, lowWeights, lowTop, lowSum, lowerMark, 0.f, none, bias);
    pinWeights(lowWeights);
  };
  auto run = [&](const Task& task, Task& after, bool toTop, auto isFull) {
    constexpr bool full = decltype(isFull)::value;
    const float* bias = up.bias ? up.bias + (i64)task.h * up.biasStride : nullptr;
    float beta = BETA ? toFloat(up.beta[task.h]) * LOG2E : 0.f;
    float s[8][4], o[ND][4], top[2], sum[2], factor[2], lse[2], carried[2] = {0.f, 0.f};
    float lowFactor[2], lowLse[2];
    u32 weights[4][4];

    if (!isAhead) softenLower(task, parity, isFull);
    isAhead = false;
#if AHEAD
    waitFor(places.landed(group, 2), parity);
    score(s, places.tile(group, 3), places.tile(group, 4));
#endif
    waitFor(places.landed(group, 1), parity);
    weigh(o, lowWeights, places.tile(group, 2));
#if !AHEAD
    waitFor(places.landed(group, 2), parity);
    score(s, places.tile(group, 3), places.tile(group, 4));
#endif
    normalize(lowFactor, lowLse, lowTop, lowSum, lowerMark + first + g, full);
#if AHEAD
    after.next(both);
    awaitProducts<1>();
#else
    awaitProducts<0>();
    pinProduct(o);
#endif
    pinProduct(s);
    if (lane == 0) arrive(places.read(group, 2));
    auto softenUpper = [&]() {
      soften<UPPER, full, JOINT, BETA, UPPER_BIAS>(up, s, weights, top, sum, upperMark, beta, carried, bias);
      pinWeights(weights);
    };
    if (!JOINT && AHEAD) softenUpper();
    waitFor(places.vacant(), vacantParity);
    awaitProducts<0>();
    pinProduct(o);
    if (lane == 0) arrive(places.read(group, 1));
#pragma unroll
    for (int half = 0; half < 2; half++) {
      int row = first + g + half * 8, mark = full ? 0 : lowerMark[row];
      // Token (x, y) of the task meets the upper pass in row x of fiber y. A lane's words stand side by side: of every
      // 32 channels, word j of lane t in place 4t + j instead of 4j + t. The product of such rows leaves words
      // 4t … 4t + 3 in lane t, 16 contiguous bytes of its row: no lane has to exchange words with another.
      int x = tile * lowerFibers + row / LOWER, y = row % LOWER;
      int owner = mark == -1 ? tile : y / upperFibers, place = y % upperFibers * UPPER + x;
      u32 there = peer(memory, owner / 2) - places.tiles, sent = there + places.sent(owner % 2);
      u32 target = there + places.tile(owner % 2, 5);
#pragma unroll
      for (int n = 0; n < D / 32; n++) {
        u32 w[4];
#pragma unroll
        for (int i = 0; i < 4; i++)
          w[i] = pack(o[n * 4 + i][half * 2] * lowFactor[half], o[n * 4 + i][half * 2 + 1] * lowFactor[half]);
        if (full || mark != -1) send(target + swizzled(place, n * 4 + t), sent, w);
      }
#if JOINT
      if ((full || mark != -1) && t == 0)
        send(there + places.carried + (owner % 2 * 64 + place) * 4, sent, __float_as_uint(lowLse[half]));
#endif
    }
#if SAVE
    handRows(o, lowFactor, lowLse);
#endif
    if (AHEAD && full && after.exists(both) && after.full) {
      softenLower(after, parity ^ 1, Index<1>());
      isAhead = true;
    }
#if JOINT
    waitFor(places.sent(group), sentParity);
    const float* arrived = reinterpret_cast<const float*>(memory + 14 * TILE) + group * 64 + first + g;
#pragma unroll
    for (int half = 0; half < 2; half++) carried[half] = arrived[half * 8] * LOG2E;
#endif
    if (JOINT || !AHEAD) softenUpper();
    waitFor(places.sent(group), sentParity);
    weigh(o, weights, places.tile(group, 5));
    normalize(factor, lse, top, sum, upperMark + first + g, full);
    awaitProducts<0>();
    pinProduct(o);
    leave(toTop);
    hand(lse, Index<LSE>(), [&](u32 stage) {
#pragma unroll
      for (int half = 0; half < 2; half++)
#pragma unroll
        for (int n = 0; n < D / 32; n++) {
          u32 w[4];
#pragma unroll
          for (int i = 0; i < 4; i++)
            w[i] = pack(o[n * 4 + i][half * 2] * factor[half], o[n * 4 + i][half * 2 + 1] * factor[half]);
          storeShared(stage + stagedAt(first + g + half * 8, n * 4 + t), w);
        }
    });
    parity ^= 1, sentParity ^= 1, vacantParity ^= 1;
  };
#pragma unroll 1
  for (Task task(both), after = task; task.exists(both); task = after) {
    if (!AHEAD) after.next(both);  // otherwise beside a product
    bool toTop = TOP && after.exists(both) && after.isTop;
    int row = threadIdx.x % 128, rows = 64;
    if (!task.full) {
      groupSync(group);
      int tiles = task.isTop ? task.block * TILES * 2 + tile : tile;
      if (row < 64)
        lowerMark[row] = task.isTop ? task.mark<2>(p, tiles, row) : task.mark<0>(p, tile, row);
      else
        upperMark[row - 64] = task.isTop ? task.mark<2>(p, tiles + TILES, row - 64) : task.mark<1>(p, tile, row - 64);
      groupSync(group);
      rows = 0;
      for (int n = 0; n < 64; n += 32) rows += __popc(__ballot_sync(~0u, upperMark[n + lane] != -1));
    }
#if TOP
    if (task.isTop) {
      if (task.full) runTop(task, toTop, Index<1>());
      else runTop(task, toTop, Index<0>());
      continue;
    }
#endif
    if (!task.full) {
      // Zeros for the rows that nobody sends.
      for (int i = row; i < 64 * CHUNKS; i += 128)
        if (upperMark[i / CHUNKS] == -1) {
          const u32 zero[4] = {0, 0, 0, 0};
          storeShared(places.tile(group, 5) + swizzled(i / CHUNKS, i % CHUNKS), zero);
        }
      groupSync(group);
    }
    if (row == 0) expectBytes(places.sent(group), rows * sentBytes);
    if (task.full) run(task, after, toTop, Index<1>());
    else run(task, after, toTop, Index<0>());
  }
}

extern "C" __global__ void __launch_bounds__(512, 1) __cluster_dims__(BLOCKS_OF_CLUSTER, 1, 1)
    forwardCluster(const __grid_constant__ Chain both) {
  followPrevious();
  extern __shared__ __align__(1024) char memory[];
  Places places(shared32(memory));
  int rank = blockIdx.x % BLOCKS_OF_CLUSTER;
  if (threadIdx.x == 0) {
    for (int group = 0; group < 2; group++) {
      for (int which = 0; which < 4; which++) {
        initialize(places.landed(group, which), 128);
        initialize(places.read(group, which), 4);
      }
      initialize(places.sent(group), 1);
      initialize(places.staged(group), 4);
      initialize(places.taken(group), 2);
    }
    initialize(places.vacant(), TILES * 4);
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  }
  __syncthreads();
  clusterArrive();
  clusterWait();
  // Registers go to the warpgroups that hold accumulators: 56 + 40 + 2 · 208 = 4 · 128.
  int group = uniform(threadIdx.x / 128);
  if (group == 0) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 56;");
    fetch(both, places, rank);
  } else if (group == 1) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
    takeAll(both, places, rank);
  } else {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 208;");
    attend(both, places, memory, rank, group - 2);
  }
  // Nobody leaves while others may still send to it.
  clusterArrive();
  clusterWait();
}
