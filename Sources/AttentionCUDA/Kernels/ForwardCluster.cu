// The passes of the two lowest modes in one launch (see ForwardFused.cu), with wgmma and warps that only copy.
//
// A cluster owns the n_{m−1}·n_m consecutive tokens of one task after the other. A block has two warpgroups that
// attend, each to a tile of 64 rows of either pass, and one that copies: q, k and v of the next task while this
// one's upper pass runs, and q and k in the upper order, which siblings have just read, while the lower pass
// runs. A tile holds whole fibers: all its rows meet all its keys in one product, and a warp keeps what belongs
// to its own fiber. What the lower pass returns goes to the tile that needs it (`st.async`), whose owners say
// when they have read what was there before.
//
// Macros: TILES, the tiles of 64 rows of a cluster (an even number); LOWER, UPPER, LOWER_SIZE, UPPER_SIZE,
// SAVE, GROUPED, LOWER_BIAS and UPPER_BIAS as for ForwardFused.cu.

#define BLOCKS_OF_CLUSTER (TILES / 2)
#define SPAN_OF(fiber) (fiber < 16 ? 16 : fiber)  // keys that a warp meets
#define TASK_TOKENS (LOWER_SIZE * UPPER_SIZE)
#define CHUNKS (D / 8)
#define ROUND (128 / CHUNKS)  // rows that a warpgroup copies at once

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

// A cluster's share of the work: the tokens of one block of both modes of one head.
struct Task {
  int b, h, origin, limit;
  bool full;  // every row of the cluster is a token: rows need no marks and keys no check
  __device__ __forceinline__ Task(const Pass& p, int index) {
    int perHead = (p.tokens + TASK_TOKENS - 1) / TASK_TOKENS, row = index / perHead;
    b = row / p.heads, h = row % p.heads;
    origin = (index - row * perHead) * TASK_TOKENS;
    limit = p.lengths ? min(p.lengths[b], p.tokens) : p.tokens;
    full = TASK_TOKENS == TILES * 64 && origin + TASK_TOKENS <= limit;
  }
  static __device__ __forceinline__ int count(const Pass& p) {
    return (p.tokens + TASK_TOKENS - 1) / TASK_TOKENS * p.heads * p.batch;
  }
  // The token of a tile's row, or −1 where a packed fiber has none.
  template <bool upper>
  __device__ __forceinline__ int token(int tile, int row) const {
    constexpr int size = upper ? UPPER : LOWER;
    int along = tile * (64 / size) + row / size, across = row % size;
    int x = upper ? across : along, y = upper ? along : across;
    return x < UPPER_SIZE && y < LOWER_SIZE ? origin + x * LOWER_SIZE + y : -1;
  }
  // The same with −1 beyond the last token, and −2 − t for padding.
  template <bool upper>
  __device__ __forceinline__ int mark(const Pass& p, int tile, int row) const {
    int t = token<upper>(tile, row);
    return t < p.tokens ? t < limit ? t : -2 - t : -1;
  }
};

// Where things lie in shared memory: for each of the two tiles q, k, v of the lower pass, q, k, u' of the upper one; then ℓ',
// marks and barriers.
struct Places {
  u32 tiles, carried, marks, gates;
  __device__ __forceinline__ Places(u32 memory)
      : tiles(memory), carried(memory + 12 * TILE), marks(carried + 512), gates(marks + 1024) {}
  __device__ __forceinline__ u32 tile(int group, int which) const { return tiles + (group * 6 + which) * TILE; }
  // Barriers: which of the copies (0 q and k, 1 v, 2 q and k of the upper pass) has landed, or was read.
  __device__ __forceinline__ u32 landed(int group, int which) const { return gates + (group * 8 + which) * 8; }
  __device__ __forceinline__ u32 read(int group, int which) const { return gates + (group * 8 + 3 + which) * 8; }
  __device__ __forceinline__ u32 sent(int group) const { return gates + (group * 8 + 6) * 8; }
  __device__ __forceinline__ u32 vacant() const { return gates + 7 * 8; }
};
#define CLUSTER_MEMORY (12 * TILE + 512 + 1024 + 128)

// Copies a tile's rows; `place` is the lane's own chunk of its first row there.
template <bool upper>
__device__ __forceinline__ void copyTile(u32 place, const T* base, i64 step, const Pass& p, const Task& task, int tile) {
  int row = threadIdx.x % 128 / CHUNKS;
  if (task.full) {
    const T* source = base + task.token<upper>(tile, row) * step;
#pragma unroll
    for (int n = 0; n < 64 / ROUND; n++) {
      constexpr int size = upper ? UPPER : LOWER;
      int next = n * ROUND;
      asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(place + next * 128),
                   "l"(source + (upper ? next % size * LOWER_SIZE + next / size : next) * step)
                   : "memory");
    }
  } else {
#pragma unroll 1
    for (int n = 0; n < 64 / ROUND; n++) {
      int t = task.mark<upper>(p, tile, row + n * ROUND), bytes = t >= 0 ? 16 : 0;
      asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(place + n * ROUND * 128),
                   "l"(base + max(t, 0) * step), "r"(bytes)
                   : "memory");
    }
  }
}

__device__ __forceinline__ void fetch(const Fused& both, const Places& places, int rank) {
  const Pass& p = both.lower;
  int row = threadIdx.x % 128 / CHUNKS, chunk = threadIdx.x % CHUNKS;
  u32 place = swizzled(row, chunk);
  int tasks = Task::count(p), parity = 1;
  auto landed = [&](int group, int which) {
    asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(places.landed(group, which)) : "memory");
  };
#pragma unroll 1
  for (int index = blockIdx.x / BLOCKS_OF_CLUSTER; index < tasks; index += gridDim.x / BLOCKS_OF_CLUSTER) {
    Task task(p, index);
    const T* q = p.q + task.b * p.qB + task.h * p.qH + chunk * 8;
    const T* k = p.k + task.b * p.kB + (GROUPED ? task.h / p.ratioK : task.h) * p.kH + chunk * 8;
    const T* v = p.u + task.b * p.uB + (GROUPED ? task.h / p.ratioU : task.h) * p.uH + chunk * 8;
#pragma unroll 1
    for (int group = 0; group < 2; group++) {
      waitFor(places.read(group, 0), parity);
      copyTile<false>(places.tile(group, 0) + place, q, p.qN, p, task, rank * 2 + group);
      copyTile<false>(places.tile(group, 1) + place, k, p.kN, p, task, rank * 2 + group);
      landed(group, 0);
    }
#pragma unroll 1
    for (int group = 0; group < 2; group++) {
      waitFor(places.read(group, 1), parity);
      copyTile<false>(places.tile(group, 2) + place, v, p.uN, p, task, rank * 2 + group);
      landed(group, 1);
    }
#pragma unroll 1
    for (int group = 0; group < 2; group++) {
      waitFor(places.read(group, 2), parity);
      copyTile<true>(places.tile(group, 3) + place, q, p.qN, p, task, rank * 2 + group);
      copyTile<true>(places.tile(group, 4) + place, k, p.kN, p, task, rank * 2 + group);
      landed(group, 2);
    }
    parity ^= 1;
  }
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

// Scores of all keys → weights of those of the warp's own fibers, zero for others, and the rows' references and sums.
template <int size, bool joint, bool hasBeta, bool hasBias>
__device__ __forceinline__ void soften(const Pass& p, float (&s)[8][4], u32 (&weights)[4][4], float (&top)[2],
                                       float (&sum)[2], const int* marks, bool full, float beta,
                                       const float (&carried)[2], const float* bias) {
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
  if (full)
    exponentiate<size, joint, hasBeta, hasBias>(p, z, top, sum, warp * 16, own * span, marks, true, beta, carried, bias);
  else
    exponentiate<size, joint, hasBeta, hasBias>(p, z, top, sum, warp * 16, own * span, marks, false, beta, carried, bias);
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

__device__ __forceinline__ void attend(const Fused& both, const Places& places, char* memory, int rank, int group) {
  const Pass& p = both.lower;
  const Pass& up = both.upper;
  int lane = threadIdx.x & 31, warp = uniform(threadIdx.x / 32 & 3), g = lane >> 2, first = warp * 16;
  int tile = rank * 2 + group;
  int* lowerMark = reinterpret_cast<int*>(memory + 12 * TILE + 512) + group * 128;
  int* upperMark = lowerMark + 64;
  const float* arrived = reinterpret_cast<const float*>(memory + 12 * TILE) + group * 64;
  constexpr int lowerFibers = 64 / LOWER, upperFibers = 64 / UPPER;
  constexpr int sentBytes = D * 2 + (JOINT ? 4 : 0);
  int tasks = Task::count(p), parity = 0;
#pragma unroll 1
  for (int index = blockIdx.x / BLOCKS_OF_CLUSTER; index < tasks; index += gridDim.x / BLOCKS_OF_CLUSTER) {
    Task task(p, index);
    int rows = 64;
    if (!task.full) {
      groupSync(group);
      int row = threadIdx.x % 128;
      if (row < 64) lowerMark[row] = task.mark<false>(p, tile, row);
      else upperMark[row - 64] = task.mark<true>(p, tile, row - 64);
      groupSync(group);
      rows = 0;
      for (int n = 0; n < 64; n += 32) rows += __popc(__ballot_sync(~0u, upperMark[n + lane] != -1));
      // Zeros for the rows that nobody sends.
      for (int i = threadIdx.x % 128; i < 64 * CHUNKS; i += 128)
        if (upperMark[i / CHUNKS] == -1) {
          const u32 zero[4] = {0, 0, 0, 0};
          storeShared(places.tile(group, 5) + swizzled(i / CHUNKS, i % CHUNKS), zero);
        }
      groupSync(group);
    }
    if (threadIdx.x % 128 == 0) expectBytes(places.sent(group), rows * sentBytes);
    i64 lseRow = (i64)(task.b * p.heads + task.h) * p.lseN;
    const float* lowerBias = p.bias ? p.bias + (i64)task.h * p.biasStride : nullptr;
    const float* upperBias = up.bias ? up.bias + (i64)task.h * up.biasStride : nullptr;
    float beta = BETA ? up.beta[task.h] * LOG2E : 0.f;
    float s[8][4], o[ND][4], top[2], sum[2], carried[2] = {0.f, 0.f};
    u32 weights[4][4];

    waitFor(places.landed(group, 0), parity);
    score(s, places.tile(group, 0), places.tile(group, 1));
    awaitProducts<0>();
    pinProduct(s);
    if (lane == 0) arrive(places.read(group, 0));
    soften<LOWER, false, false, LOWER_BIAS>(p, s, weights, top, sum, lowerMark, task.full, 0.f, carried, lowerBias);
    waitFor(places.landed(group, 1), parity);
    weigh(o, weights, places.tile(group, 2));
    waitFor(places.landed(group, 2), parity);
    score(s, places.tile(group, 3), places.tile(group, 4));
    float factor[2], lse[2];
#pragma unroll
    for (int half = 0; half < 2; half++) {
      int row = first + g + half * 8;
      float total = quadSum(sum[half]);
      bool live = (task.full || lowerMark[row] >= 0) && total > 0.f;
      factor[half] = live ? reciprocal(total) : 0.f;
      lse[half] = live ? (top[half] + log2Fast(total)) * LN2 : -INFINITE;
    }
    awaitProducts<1>();
    pinProduct(o);
    if (lane == 0) arrive(places.read(group, 1));
    waitFor(places.vacant(), parity ^ 1);
#pragma unroll
    for (int half = 0; half < 2; half++) {
      int row = first + g + half * 8, t = lane & 3;
      int mark = task.full ? task.token<false>(tile, row) : lowerMark[row], token = mark < -1 ? -2 - mark : mark;
      // Token (x, y) of the task meets the upper pass in row x of fiber y.
      int x = tile * lowerFibers + row / LOWER, y = row % LOWER;
      int owner = mark == -1 ? tile : y / upperFibers, place = y % upperFibers * UPPER + x;
      u32 there = peer(memory, owner / 2), sent = there + places.sent(owner % 2) - places.tiles;
      u32 target = there + places.tile(owner % 2, 5) - places.tiles;
#pragma unroll
      for (int n = 0; n < D / 32; n++) {
        u32 w[4];
#pragma unroll
        for (int i = 0; i < 4; i++)
          w[i] = pack(o[n * 4 + i][half * 2] * factor[half], o[n * 4 + i][half * 2 + 1] * factor[half]);
        if (mark != -1) send(target + swizzled(place, n * 4 + t), sent, w);
      }
#if JOINT
      if (mark != -1 && t == 0)
        send(there + places.carried - places.tiles + (owner % 2 * 64 + place) * 4, sent, __float_as_uint(lse[half]));
#endif
#if SAVE
      storeRow(p.out + task.b * p.oB + task.h * p.oH + (token < 0 ? 0 : token) * p.oN, o, half, factor[half],
               token >= 0, false);
      if (token >= 0 && t == 0) p.lseOut[lseRow + token] = lse[half];
#endif
    }
    awaitProducts<0>();
    pinProduct(s);
    if (lane == 0) arrive(places.read(group, 2));
#if JOINT
    waitFor(places.sent(group), parity);
#pragma unroll
    for (int half = 0; half < 2; half++) carried[half] = arrived[first + g + half * 8] * LOG2E;
#endif
    soften<UPPER, JOINT, BETA, UPPER_BIAS>(up, s, weights, top, sum, upperMark, task.full, beta, carried, upperBias);
    waitFor(places.sent(group), parity);
    weigh(o, weights, places.tile(group, 5));
#pragma unroll
    for (int half = 0; half < 2; half++) {
      int row = first + g + half * 8;
      float total = quadSum(sum[half]);
      bool live = (task.full || upperMark[row] >= 0) && total > 0.f;
      factor[half] = live ? reciprocal(total) : 0.f;
      lse[half] = live ? (top[half] + log2Fast(total)) * LN2 : -INFINITE;
    }
    awaitProducts<0>();
    pinProduct(o);
    __syncwarp();
    if (lane < BLOCKS_OF_CLUSTER) arriveAt(peer(memory, lane) + places.vacant() - places.tiles);
#pragma unroll
    for (int half = 0; half < 2; half++) {
      int row = first + g + half * 8;
      int mark = task.full ? task.token<true>(tile, row) : upperMark[row], token = mark < -1 ? -2 - mark : mark;
      storeSent(up.out + task.b * up.oB + task.h * up.oH + (token < 0 ? 0 : token) * up.oN, o, half, factor[half],
                token >= 0);
      if (token >= 0 && (lane & 3) == 0) up.lseOut[lseRow + token] = lse[half];
    }
    parity ^= 1;
  }
}

extern "C" __global__ void __launch_bounds__(384, 1) __cluster_dims__(BLOCKS_OF_CLUSTER, 1, 1)
    forwardCluster(const __grid_constant__ Fused both) {
  extern __shared__ __align__(1024) char memory[];
  Places places(shared32(memory));
  int rank = blockIdx.x % BLOCKS_OF_CLUSTER;
  if (threadIdx.x == 0) {
    for (int group = 0; group < 2; group++) {
      for (int which = 0; which < 3; which++) {
        initialize(places.landed(group, which), 128);
        initialize(places.read(group, which), 4);
      }
      initialize(places.sent(group), 1);
    }
    initialize(places.vacant(), TILES * 4);
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  }
  __syncthreads();
  clusterArrive();
  clusterWait();
  // Registers go to the warpgroups that hold accumulators: 40 + 2 · 232 = 3 · 168.
  int group = uniform(threadIdx.x / 128);
  if (group == 0) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
    fetch(both, places, rank);
  } else {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
    attend(both, places, memory, rank, group - 1);
  }
  // Nobody leaves while others may still send to it.
  clusterArrive();
  clusterWait();
}
