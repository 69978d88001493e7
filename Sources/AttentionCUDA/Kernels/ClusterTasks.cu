// What the blocks of ForwardCluster.cu share out: a cluster's tasks, the places of their rows in shared memory, and the
// warps that copy rows there and take results to memory.

#define BLOCKS_OF_CLUSTER (TILES / 2)
#define SPAN_OF(fiber) (fiber < 16 ? 16 : fiber)  // keys that a warp meets
#define TASK_TOKENS (LOWER_SIZE * UPPER_SIZE)
#define CHUNKS (D / 8)
#define ROUND (128 / CHUNKS)  // rows that a warpgroup copies at once

#define FIBER_OF(pass) (pass == 0 ? LOWER : pass == 1 ? UPPER : TOP + !TOP)
#if TOP
// Tasks of the top pass, each two tiles of every warpgroup that attends: 64 / TOP fibers a tile.
#define TOP_TASKS ((TASK_TOKENS * TOP + TILES * 128 - 1) / (TILES * 128))
#endif

#ifndef TELLS
#define TELLS 0  // 1: says when a head's rows have been written, to a launch that begins before this one has ended
#endif

// What a launch works on: the passes of the two lowest modes, and of the third one where the fold ends with it.
struct Chain {
  Pass lower, upper;
#if TOP
  Pass top;
  u32* finished;  // [B·H] counts the blocks that have taken rows of the upper pass to memory
  int lag, delay; // a head's top pass comes `delay` heads later, behind `lag` tasks of that one
  int keptFrom;   // the first of a head's blocks that L2 should keep until the top pass has read them
#elif TELLS
  u32* finished;  // [B·H] counts the tasks of a head whose rows blocks have taken to memory
#endif
};

// A cluster's share of the work, one task after the other: the tokens of one block of both modes of one head. With a
// top pass, its tasks for a head come among those of a later head, when what they read is there and still in L2.
struct Task {
  int b, h, block, origin, limit, perHead;
  bool full;  // every row of the cluster is a token: rows need no marks and keys no check
#if TOP
  int row, nextRow, place, lag, heads;
  bool isTop, stays;
  __device__ __forceinline__ Task(const Chain& c) {
    const Pass& p = c.lower;
    perHead = (p.tokens + TASK_TOKENS - 1) / TASK_TOKENS;
    lag = min(c.lag, perHead), heads = p.heads, nextRow = 0;
    place = blockIdx.x / BLOCKS_OF_CLUSTER;
    settle(c);
  }
  __device__ __forceinline__ void next(const Chain& c) {
    place += gridDim.x / BLOCKS_OF_CLUSTER;
    settle(c);
  }
  // A round of places: `lag` tasks of a head, then its others and those of the top pass of the head `delay` before. Where
  // L2 keeps whole heads they take turns: loads of one come from memory, of the other from L2. Otherwise those of
  // the top pass come first, before L2 loses what it kept.
  __device__ __forceinline__ void settle(const Chain& c) {
    const Pass& p = c.lower;
    int rows = p.batch * heads, mixed = min(TOP_TASKS, perHead - lag) * 2, behind;
    bool inTurns = c.keptFrom == 0;
    while (true) {
      while (place >= perHead + TOP_TASKS) place -= perHead + TOP_TASKS, nextRow++;
      behind = place - lag;
      isTop = behind >= 0 && (!inTurns ? behind < TOP_TASKS : behind < mixed ? behind % 2 == 0 : mixed < TOP_TASKS * 2);
      row = isTop ? nextRow - c.delay : nextRow;
      if (nextRow >= rows + c.delay || (row >= 0 && row < rows)) break;
      place += gridDim.x / BLOCKS_OF_CLUSTER;
    }
    int half = !inTurns ? (isTop ? behind : behind - TOP_TASKS) : behind < mixed ? behind / 2 : behind - mixed / 2;
    block = behind < 0 ? place : isTop ? half : lag + half;
    stays = block >= c.keptFrom;
    b = row / heads, h = row - b * heads;
    origin = isTop ? 0 : block * TASK_TOKENS;
    limit = p.lengths && b < p.batch ? min(p.lengths[b], p.tokens) : p.tokens;
    full = TASK_TOKENS == TILES * 64 &&
           (isTop ? TOP == TOP_SIZE && TOP_SIZE * TASK_TOKENS <= limit : origin + TASK_TOKENS <= limit);
  }
#else
  int blockStep, headStep, batchStep;
  static constexpr bool isTop = false;
  __device__ __forceinline__ Task(const Chain& c) {
    const Pass& p = c.lower;
    perHead = (p.tokens + TASK_TOKENS - 1) / TASK_TOKENS;
    int index = blockIdx.x / BLOCKS_OF_CLUSTER, step = gridDim.x / BLOCKS_OF_CLUSTER;
    int row = index / perHead, rowStep = step / perHead;
    block = index - row * perHead, blockStep = step - rowStep * perHead;
    b = row / p.heads, batchStep = rowStep / p.heads;
    h = row - b * p.heads, headStep = rowStep - batchStep * p.heads;
    settle(p);
  }
  __device__ __forceinline__ void next(const Chain& c) {
    const Pass& p = c.lower;
    block += blockStep, h += headStep, b += batchStep;
    if (block >= perHead) block -= perHead, h++;
    if (h >= p.heads) h -= p.heads, b++;
    settle(p);
  }
  __device__ __forceinline__ void settle(const Pass& p) {
    origin = block * TASK_TOKENS;
    limit = p.lengths && b < p.batch ? min(p.lengths[b], p.tokens) : p.tokens;
    full = TASK_TOKENS == TILES * 64 && origin + TASK_TOKENS <= limit;
  }
#endif
  __device__ __forceinline__ bool exists(const Chain& c) const { return b < c.lower.batch; }
  // The token of a tile's row in a pass (0 lower, 1 upper, 2 top), or −1 where a packed fiber has none.
  template <int pass>
  __device__ __forceinline__ int token(int tile, int row) const {
    constexpr int size = FIBER_OF(pass);
    int along = tile * (64 / size) + row / size, across = row % size;
    if constexpr (pass == 0) return along < UPPER_SIZE && across < LOWER_SIZE ? origin + along * LOWER_SIZE + across : -1;
    if constexpr (pass == 1) return across < UPPER_SIZE && along < LOWER_SIZE ? origin + across * LOWER_SIZE + along : -1;
#if TOP
    return across < TOP_SIZE && along < TASK_TOKENS ? across * TASK_TOKENS + along : -1;
#else
    return -1;
#endif
  }
  // The same with −1 beyond the last token, and −2 − t for padding.
  template <int pass>
  __device__ __forceinline__ int mark(const Pass& p, int tile, int row) const {
    int t = token<pass>(tile, row);
    return t < p.tokens ? t < limit ? t : -2 - t : -1;
  }
  // How many tokens row `next` of a full tile lies behind its first row, where rows of a tile begin with a fiber.
  template <int pass>
  static __device__ __forceinline__ constexpr int ahead(int next) {
    return pass == 0 ? next : next % FIBER_OF(pass) * (pass == 1 ? LOWER_SIZE : TASK_TOKENS) + next / FIBER_OF(pass);
  }
};

// Where things lie in shared memory: for each of the two tiles q, k, v of the lower pass, q, k, u' of the upper
// one and rows on their way to memory; then ℓ' of rows that come and that go, marks and barriers.
struct Places {
  u32 tiles, carried, leaving, gates;
  __device__ __forceinline__ Places(u32 memory)
      : tiles(memory), carried(memory + 14 * TILE), leaving(carried + 512), gates(carried + 2048) {}
  __device__ __forceinline__ u32 tile(int group, int which) const { return tiles + (group * 7 + which) * TILE; }
  __device__ __forceinline__ u32 gate(int group, int which) const { return gates + (group * 12 + which) * 8; }
  // Barriers: which of the copies (0 q and k, 1 v, 2 q and k of the upper pass; 3 u of a top pass in the place of
  // u') has landed, or was read.
  __device__ __forceinline__ u32 landed(int group, int which) const { return gate(group, which); }
  __device__ __forceinline__ u32 read(int group, int which) const { return gate(group, 4 + which); }
  // u' has come; all owners of a cluster have read theirs.
  __device__ __forceinline__ u32 sent(int group) const { return gate(group, 8); }
  __device__ __forceinline__ u32 vacant() const { return gate(0, 9); }
  // Rows wait to be taken to memory; they were.
  __device__ __forceinline__ u32 staged(int group) const { return gate(group, 10); }
  __device__ __forceinline__ u32 taken(int group) const { return gate(group, 11); }
};
#define MARKS (14 * TILE + 1024)

// Where chunk `chunk` of a row on its way to memory lies: neither a warp that writes its accumulators nor one that
// reads rows meets a bank twice.
__device__ __forceinline__ u32 stagedAt(int row, int chunk) {
  int turn = (row & 1) << 2 | (row & 2) | (row >> 2 & 1);
  return chunk / 8 * PANEL + row * 128 + (((chunk ^ turn) & 7) << 4);
}

// Copies a tile's rows; `place` is the lane's own chunk of its first row there.
template <int pass>
__device__ __forceinline__ void copyTile(u32 place, const T* base, i64 step, const Pass& p, const Task& task, int tile,
                                         u64 policy = 0) {
  int row = threadIdx.x % 128 / CHUNKS;
  if (task.full) {
    const T* source = base + task.token<pass>(tile, row) * step;
#pragma unroll
    for (int n = 0; n < 64 / ROUND; n++)
#if TOP
      asm volatile("cp.async.cg.shared.global.L2::cache_hint [%0], [%1], 16, %2;" ::"r"(place + n * ROUND * 128),
                   "l"(source + Task::ahead<pass>(n * ROUND) * step), "l"(policy)
                   : "memory");
#else
      asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(place + n * ROUND * 128),
                   "l"(source + Task::ahead<pass>(n * ROUND) * step)
                   : "memory");
#endif
  } else {
#pragma unroll 1
    for (int n = 0; n < 64 / ROUND; n++) {
      int t = task.mark<pass>(p, tile, row + n * ROUND), bytes = t >= 0 ? 16 : 0;
      asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(place + n * ROUND * 128),
                   "l"(base + max(t, 0) * step), "r"(bytes)
                   : "memory");
    }
  }
}

__device__ __forceinline__ void fetch(const Chain& both, const Places& places, int rank) {
  const Pass& p = both.lower;
  int row = threadIdx.x % 128 / CHUNKS, chunk = threadIdx.x % CHUNKS;
  u32 place = swizzled(row, chunk);
#if TOP
  u64 once = dropPolicy(), soon = usualPolicy(), keep = keepPolicy();
#else
  u64 once = 0;
#endif
  int parity = 1;
#if TOP
  int topParity = Task(both).isTop;
#endif
  auto landed = [&](int group, int which) {
    asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(places.landed(group, which)) : "memory");
  };
#pragma unroll 1
  for (Task task(both); task.exists(both); task.next(both)) {
    const T* q = p.q + task.b * p.qB + task.h * p.qH + chunk * 8;
    const T* k = p.k + task.b * p.kB + (GROUPED ? task.h / p.ratioK : task.h) * p.kH + chunk * 8;
    const T* v = p.u + task.b * p.uB + (GROUPED ? task.h / p.ratioU : task.h) * p.uH + chunk * 8;
#if TOP
    if (task.isTop) {
      const Pass& top = both.top;
      const T* u = top.u + task.b * top.uB + task.h * top.uH + chunk * 8;
      int tile = task.block * TILES * 2 + rank * 2;
#pragma unroll 1
      for (int group = 0; group < 4; group++) {
        int which = group / 2 * 2;
        waitFor(places.read(group % 2, which), parity);
        u32 target = places.tile(group % 2, group / 2 * 3) + place;
        copyTile<2>(target, q, p.qN, p, task, tile + group % 2 + group / 2 * TILES, once);
        copyTile<2>(target + TILE, k, p.kN, p, task, tile + group % 2 + group / 2 * TILES, once);
        landed(group % 2, which);
      }
      // What follows reads what other clusters have written.
      u32 arrivals = task.perHead * BLOCKS_OF_CLUSTER, seen;
      do asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(seen) : "l"(both.finished + task.row) : "memory");
      while (seen < arrivals);
#pragma unroll 1
      for (int group = 0; group < 4; group++) {
        int which = 1 + group / 2 * 2;
        waitFor(places.read(group % 2, which), group / 2 ? topParity : parity);
        copyTile<2>(places.tile(group % 2, 2 + group / 2 * 3) + place, u, top.uN, p, task,
                    tile + group % 2 + group / 2 * TILES, once);
        landed(group % 2, which);
      }
      parity ^= 1, topParity ^= 1;
      continue;
    }
    u64 first = task.stays ? keep : soon, again = task.stays ? keep : once;
#else
    u64 first = once, again = once;
#endif
#pragma unroll 1
    for (int group = 0; group < 2; group++) {
      waitFor(places.read(group, 0), parity);
      copyTile<0>(places.tile(group, 0) + place, q, p.qN, p, task, rank * 2 + group, first);
      copyTile<0>(places.tile(group, 1) + place, k, p.kN, p, task, rank * 2 + group, first);
      landed(group, 0);
    }
#pragma unroll 1
    for (int group = 0; group < 2; group++) {
      waitFor(places.read(group, 1), parity);
      copyTile<0>(places.tile(group, 2) + place, v, p.uN, p, task, rank * 2 + group, once);
      landed(group, 1);
    }
#pragma unroll 1
    for (int group = 0; group < 2; group++) {
      waitFor(places.read(group, 2), parity);
      copyTile<1>(places.tile(group, 3) + place, q, p.qN, p, task, rank * 2 + group, again);
      copyTile<1>(places.tile(group, 4) + place, k, p.kN, p, task, rank * 2 + group, again);
      landed(group, 2);
    }
    parity ^= 1;
  }
}

// Stores 16 bytes of a row of a pass.
__device__ __forceinline__ void storeRowPart(T* place, uint4 x, u64 policy) {
#if TOP
  asm volatile("st.global.L2::cache_hint.v4.u32 [%0], {%1,%2,%3,%4}, %5;" ::"l"(place), "r"(x.x), "r"(x.y), "r"(x.z),
               "r"(x.w), "l"(policy)
               : "memory");
#else
  storeGlobal(place, x);
#endif
}

// Takes ℓ' of a tile's rows to memory. Where fibers lie across tokens, a position's rows of all fibers of a tile are
// neighboring tokens, and go in one store.
template <int pass>
__device__ __forceinline__ void takeLSE(const Pass& p, const Task& task, const Places& places, int tile, int group,
                                        int lane) {
  constexpr int size = FIBER_OF(pass), fibers = 64 / size;
  if (!p.lseOut) return;
  float* line = p.lseOut + (i64)(task.b * p.heads + task.h) * p.lseN;
  auto left = [&](int row) {
    float lse;
    asm volatile("ld.shared.f32 %0, [%1];" : "=f"(lse) : "r"(places.leaving + (group * 64 + row) * 4) : "memory");
    return lse;
  };
  if constexpr (pass > 0 && (fibers == 2 || fibers == 4)) {
    if (task.full && (reinterpret_cast<u64>(line) & (fibers * 4 - 1)) == 0) {
      if (lane >= size) return;
      float x[fibers];
#pragma unroll
      for (int i = 0; i < fibers; i++) x[i] = left(lane + i * size);
      float* place = line + task.token<pass>(tile, lane);
      if constexpr (fibers == 2)
        asm volatile("st.global.v2.f32 [%0], {%1, %2};" ::"l"(place), "f"(x[0]), "f"(x[1]) : "memory");
      else
        asm volatile("st.global.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(place), "f"(x[0]), "f"(x[1]),
                     "f"(x[fibers - 2]), "f"(x[fibers - 1])
                     : "memory");
      return;
    }
  }
  int mark = task.full ? task.token<pass>(tile, lane) : task.mark<pass>(p, tile, lane);
  int token = mark < -1 ? -2 - mark : mark;
  float lse = left(lane);
  if (token >= 0) line[token] = lse;
}

// Takes a tile's rows to memory.
template <int pass>
__device__ __forceinline__ void take(const Pass& p, const Task& task, const Places& places, int tile, int group,
                                     int& staging) {
  constexpr int round = 64 / CHUNKS;
  int lane = threadIdx.x % 64, row = lane / CHUNKS, chunk = lane % CHUNKS;
  T* base = p.out + task.b * p.oB + task.h * p.oH + chunk * 8;
  u32 stage = places.tile(group, 6);
#if TOP
  // What is saved has to reach memory anyway: not kept by force, u″ is still there when the top pass comes.
  u64 policy = pass == 1 && task.stays ? (SAVE ? usualPolicy() : keepPolicy()) : dropPolicy();
#else
  u64 policy = 0;
#endif
  waitFor(places.staged(group), staging);
  if constexpr (pass != 1 || LSE) takeLSE<pass>(p, task, places, tile, group, lane);
#pragma unroll
  for (int n = 0; n < CHUNKS; n += 4) {
    uint4 x[4];
#pragma unroll
    for (int i = 0; i < 4; i++) x[i] = loadShared(stage + stagedAt(row + (n + i) * round, chunk));
    // Once the last row is in registers, as its store wants it: an arrival may overtake loads.
    auto freeStage = [&]() {
      if (n + 4 < CHUNKS) return;
      __syncwarp();
      if (lane % 32 == 0) arrive(places.taken(group));
    };
    if (task.full) {
      T* place = base + task.token<pass>(tile, row) * p.oN;
#pragma unroll
      for (int i = 3; i >= 0; i--) {
        storeRowPart(place + Task::ahead<pass>((n + i) * round) * p.oN, x[i], policy);
        if (i == 3) freeStage();
      }
    } else {
#pragma unroll
      for (int i = 0; i < 4; i++) {
        int other = task.mark<pass>(p, tile, row + (n + i) * round), at = other < -1 ? -2 - other : other;
        if (at >= 0) storeGlobal(base + at * p.oN, x[i]);
      }
      freeStage();
    }
  }
  staging ^= 1;
}

__device__ __forceinline__ void takeAll(const Chain& both, const Places& places, int rank) {
  int group = uniform(threadIdx.x / 64 & 1), staging = 0, done = 0;
#pragma unroll 1
  for (Task task(both); task.exists(both); task.next(both)) {
#if TOP
    if (task.isTop) {
      int tile = task.block * TILES * 2 + rank * 2 + group;
      take<2>(both.top, task, places, tile, group, staging);
      take<2>(both.top, task, places, tile + TILES, group, staging);
      continue;
    }
#endif
#if SAVE
    take<0>(both.lower, task, places, rank * 2 + group, group, staging);
#endif
    take<1>(both.upper, task, places, rank * 2 + group, group, staging);
#if TOP
    asm volatile("barrier.sync 3, 128;" ::: "memory");
    if (threadIdx.x % 128 == 0) {
      asm volatile("red.release.gpu.global.add.u32 [%0], 1;" ::"l"(both.finished + task.row) : "memory");
    }
#elif TELLS
    // Once a head, as a release waits for all stores on their way.
    done++;
    Task after = task;
    after.next(both);
    if (after.h == task.h && after.b == task.b) continue;
    asm volatile("barrier.sync 3, 128;" ::: "memory");
    if (threadIdx.x % 128 == 0)
      asm volatile("red.release.gpu.global.add.u32 [%0], %1;" ::"l"(both.finished + task.b * both.lower.heads + task.h),
                   "r"(done)
                   : "memory");
    done = 0;
#endif
  }
}
