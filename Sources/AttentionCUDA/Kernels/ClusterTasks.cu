// What the blocks of ForwardCluster.cu share out: a cluster's tasks, the places of their rows in shared memory, and the
// warps that copy rows there and take results to memory.

#define BLOCKS_OF_CLUSTER (TILES / 2)
#define SPAN_OF(fiber) (fiber < 16 ? 16 : fiber)  // keys that a warp meets
#define TASK_TOKENS (LOWER_SIZE * UPPER_SIZE)
#define CHUNKS (D / 8)
#define ROUND (128 / CHUNKS)  // rows that a warpgroup copies at once

// A cluster's share of the work, one task after the other: the tokens of one block of both modes of one head.
struct Task {
  int b, h, block, origin, limit, perHead, blockStep, headStep, batchStep;
  bool full;  // every row of the cluster is a token: rows need no marks and keys no check
  __device__ __forceinline__ Task(const Pass& p) {
    perHead = (p.tokens + TASK_TOKENS - 1) / TASK_TOKENS;
    int index = blockIdx.x / BLOCKS_OF_CLUSTER, step = gridDim.x / BLOCKS_OF_CLUSTER;
    int row = index / perHead, rowStep = step / perHead;
    block = index - row * perHead, blockStep = step - rowStep * perHead;
    b = row / p.heads, batchStep = rowStep / p.heads;
    h = row - b * p.heads, headStep = rowStep - batchStep * p.heads;
    find(p);
  }
  __device__ __forceinline__ void next(const Pass& p) {
    block += blockStep, h += headStep, b += batchStep;
    if (block >= perHead) block -= perHead, h++;
    if (h >= p.heads) h -= p.heads, b++;
    find(p);
  }
  __device__ __forceinline__ void find(const Pass& p) {
    origin = block * TASK_TOKENS;
    limit = p.lengths && b < p.batch ? min(p.lengths[b], p.tokens) : p.tokens;
    full = TASK_TOKENS == TILES * 64 && origin + TASK_TOKENS <= limit;
  }
  __device__ __forceinline__ bool exists(const Pass& p) const { return b < p.batch; }
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

// Where things lie in shared memory: for each of the two tiles q, k, v of the lower pass, q, k, u' of the upper
// one and rows on their way to memory; then ℓ' of rows that come and that go, marks and barriers.
struct Places {
  u32 tiles, carried, leaving, gates;
  __device__ __forceinline__ Places(u32 memory)
      : tiles(memory), carried(memory + 14 * TILE), leaving(carried + 512), gates(carried + 2048) {}
  __device__ __forceinline__ u32 tile(int group, int which) const { return tiles + (group * 7 + which) * TILE; }
  __device__ __forceinline__ u32 gate(int group, int which) const { return gates + (group * 10 + which) * 8; }
  // Barriers: which of the copies (0 q and k, 1 v, 2 q and k of the upper pass) has landed, or was read.
  __device__ __forceinline__ u32 landed(int group, int which) const { return gate(group, which); }
  __device__ __forceinline__ u32 read(int group, int which) const { return gate(group, 3 + which); }
  // u' has come; all owners of a cluster have read theirs.
  __device__ __forceinline__ u32 sent(int group) const { return gate(group, 6); }
  __device__ __forceinline__ u32 vacant() const { return gate(0, 7); }
  // Rows wait to be taken to memory; they were.
  __device__ __forceinline__ u32 staged(int group) const { return gate(group, 8); }
  __device__ __forceinline__ u32 taken(int group) const { return gate(group, 9); }
};
#define MARKS (14 * TILE + 1024)

// Where chunk `chunk` of a row on its way to memory lies: neither a warp that writes its accumulators nor one that
// reads rows meets a bank twice.
__device__ __forceinline__ u32 stagedAt(int row, int chunk) {
  int turn = (row & 1) << 2 | (row & 2) | (row >> 2 & 1);
  return chunk / 8 * PANEL + row * 128 + (((chunk ^ turn) & 7) << 4);
}

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
  int parity = 1;
  auto landed = [&](int group, int which) {
    asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(places.landed(group, which)) : "memory");
  };
#pragma unroll 1
  for (Task task(p); task.exists(p); task.next(p)) {
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

// Takes a tile's rows to memory.
template <bool upper>
__device__ __forceinline__ void take(const Pass& p, const Task& task, const Places& places, int tile, int group,
                                     int& staging) {
  constexpr int size = upper ? UPPER : LOWER, round = 64 / CHUNKS;
  int lane = threadIdx.x % 64, row = lane / CHUNKS, chunk = lane % CHUNKS;
  int mark = task.full ? task.token<upper>(tile, lane) : task.mark<upper>(p, tile, lane);
  int token = mark < -1 ? -2 - mark : mark;
  T* base = p.out + task.b * p.oB + task.h * p.oH + chunk * 8;
  u32 stage = places.tile(group, 6);
  waitFor(places.staged(group), staging);
  float lse;
  asm volatile("ld.shared.f32 %0, [%1];" : "=f"(lse) : "r"(places.leaving + (group * 64 + lane) * 4) : "memory");
  if (token >= 0) p.lseOut[(i64)(task.b * p.heads + task.h) * p.lseN + token] = lse;
#pragma unroll
  for (int n = 0; n < CHUNKS; n += 4) {
    uint4 x[4];
#pragma unroll
    for (int i = 0; i < 4; i++) x[i] = loadShared(stage + stagedAt(row + (n + i) * round, chunk));
    if (n + 4 == CHUNKS) {
      __syncwarp();
      if (lane % 32 == 0) arrive(places.taken(group));
    }
    if (task.full) {
      T* place = base + task.token<upper>(tile, row) * p.oN;
#pragma unroll
      for (int i = 0; i < 4; i++) {
        int next = (n + i) * round;
        storeGlobal(place + (upper ? next % size * LOWER_SIZE + next / size : next) * p.oN, x[i]);
      }
    } else {
#pragma unroll
      for (int i = 0; i < 4; i++) {
        int other = task.mark<upper>(p, tile, row + (n + i) * round), at = other < -1 ? -2 - other : other;
        if (at >= 0) storeGlobal(base + at * p.oN, x[i]);
      }
    }
  }
  staging ^= 1;
}

__device__ __forceinline__ void takeAll(const Fused& both, const Places& places, int rank) {
  int group = uniform(threadIdx.x / 64 & 1), staging = 0;
#pragma unroll 1
  for (Task task(both.lower); task.exists(both.lower); task.next(both.lower)) {
#if SAVE
    take<false>(both.lower, task, places, rank * 2 + group, group, staging);
#endif
    take<true>(both.upper, task, places, rank * 2 + group, group, staging);
  }
}
