// The producers of the warpgroup kernels: one warpgroup copies tiles to shared memory as far ahead as there is room,
// another one turns them in place and hands them to the consumers.

#define ITEMS (STAGES < 5 ? 8 : 16)  // copies that may be under way; more than there are tiles and own blocks
#define PAIRS (D / 16)          // chunks of the lower half of a row's channels
#define ROUND (32 / PAIRS * 4)  // rows that a warpgroup copies or turns at once
#define ROUNDS (64 / ROUND)
#define FAR(tile) (D == 128 ? (tile) + PANEL : (tile) ^ 64)  // where the upper half's chunk lies

// Copies rows first … first + 63 of a fiber to a tile; `tile` and `line` are the lane's own place in it.
__device__ __forceinline__ void copyRows(u32 tile, const T* line, i64 step, int row, int first, int begin, int end) {
  u32 low = tile, high = FAR(tile);
  const T* source = line + (first + row) * step;
  if (first >= begin && first + 64 <= end) {
#pragma unroll
    for (int n = 0; n < ROUNDS; n++) {
      asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(low + n * ROUND * 128), "l"(source) : "memory");
      asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(high + n * ROUND * 128), "l"(source + D / 2)
                   : "memory");
      source += ROUND * step;
    }
  } else {
#pragma unroll
    for (int n = 0; n < ROUNDS; n++) {
      int j = first + row + n * ROUND;
      int bytes = j >= begin && j < end ? 16 : 0;
      const T* from = bytes ? source : line;
      asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(low + n * ROUND * 128), "l"(from), "r"(bytes)
                   : "memory");
      asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(high + n * ROUND * 128), "l"(from + D / 2),
                   "r"(bytes)
                   : "memory");
      source += ROUND * step;
    }
  }
}

// The same by tensor memory access, from one thread.
template <class Box>
__device__ __forceinline__ void loadBox(u32 tile, const Map& map, u32 barrier, const Box& at, u64 policy = 0) {
#pragma unroll
  for (int n = 0; n < D; n += 64)
#if BOTH
    asm volatile(
        "cp.async.bulk.tensor.5d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1, {%2, %3, %4, "
        "%5, %6}], [%7], %8;" ::"r"(tile + n / 64 * PANEL),
        "l"(&map), "r"(n), "r"(at.position), "r"(at.fiber), "r"(at.h), "r"(at.b), "r"(barrier), "l"(policy)
        : "memory");
#else
    asm volatile(
        "cp.async.bulk.tensor.5d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, %4, %5, %6}], "
        "[%7];" ::"r"(tile + n / 64 * PANEL),
        "l"(&map), "r"(n), "r"(at.position), "r"(at.fiber), "r"(at.h), "r"(at.b), "r"(barrier)
        : "memory");
#endif
}

#ifndef PACKED
#define PACKED 0
#endif
#if ROTARY
#if DTYPE == 0
#define PAIR "bf16x2"
#else
#define PAIR "f16x2"
#endif
// Products and sums of pairs in their own type: one instruction for two of them, each rounded.
__device__ __forceinline__ u32 multiply(u32 a, u32 b) {
  u32 y;
  asm("mul.rn." PAIR " %0, %1, %2;" : "=r"(y) : "r"(a), "r"(b));
  return y;
}
__device__ __forceinline__ u32 multiplyAdd(u32 a, u32 b, u32 c) {
  u32 y;
  asm("fma.rn." PAIR " %0, %1, %2, %3;" : "=r"(y) : "r"(a), "r"(b), "r"(c));
  return y;
}

// Eight turns of a lane: channels 8c … 8c + 7 of one row.
struct Turns {
  float4 w[4];  // cos, sin, cos, sin
  // The turn of a row of the table, or the one back.
  __device__ __forceinline__ void load(const float2* row, bool back) {
#pragma unroll
    for (int i = 0; i < 4; i++) {
      w[i] = __ldg(reinterpret_cast<const float4*>(row) + i);
      if (back) w[i].y = -w[i].y, w[i].w = -w[i].w;
    }
  }
  // The turns of a row that has been copied to shared memory.
  __device__ __forceinline__ void loadShared(u32 row) {
#pragma unroll
    for (int i = 0; i < 4; i++)
      asm volatile("ld.shared.v4.f32 {%0,%1,%2,%3}, [%4];"
                   : "=f"(w[i].x), "=f"(w[i].y), "=f"(w[i].z), "=f"(w[i].w)
                   : "r"(row + i * 16)
                   : "memory");
  }
  __device__ __forceinline__ void advance(const Turns& by) {
#pragma unroll
    for (int i = 0; i < 4; i++) {
      float4 a = w[i], d = by.w[i];
      w[i] = make_float4(a.x * d.x - a.y * d.y, a.y * d.x + a.x * d.y, a.z * d.z - a.w * d.w, a.w * d.z + a.z * d.w);
    }
  }
  __device__ __forceinline__ void rotate(u32 tile, uint4 low, uint4 high) const {
    u32 x[4] = {low.x, low.y, low.z, low.w}, y[4] = {high.x, high.y, high.z, high.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
#if PACKED
      // Queries and keys of a row share the two words that are packed here.
      u32 a = x[i], b = y[i], cosines = pack(w[i].x, w[i].z), sines = pack(w[i].y, w[i].w);
      x[i] = multiplyAdd(a, cosines, multiply(b, sines) ^ 0x80008000);
      y[i] = multiplyAdd(b, cosines, multiply(a, sines));
#else
      float2 a = unpack(x[i]), b = unpack(y[i]);
      x[i] = pack(a.x * w[i].x - b.x * w[i].y, a.y * w[i].z - b.y * w[i].w);
      y[i] = pack(b.x * w[i].x + a.x * w[i].y, b.y * w[i].z + a.y * w[i].w);
#endif
    }
    storeShared(tile, x);
    storeShared(FAR(tile), y);
  }
};
#endif

// Where the barriers lie: copies that have landed; tiles of keys and of queries that are ready or free. Then,
// backward, D and ℓ' of 64 queries a tile; forward, a dealer's.
struct Gates {
  u32 landed, full, empty, queryFull, queryEmpty, notes, sums, dealer;
  __device__ __forceinline__ Gates(u32 place)
      : landed(place), full(place + ITEMS * 8), empty(full + STAGES * 8), queryFull(empty + STAGES * 8),
        queryEmpty(queryFull + 24), notes(queryEmpty + 24), sums(notes + ITEMS * 4), dealer(place + 448) {}
#if BOTH
  // A consumer's rows of results wait to be taken to memory; they were; their ℓ'.
  __device__ __forceinline__ u32 staged(int which) const { return landed + 512 + which * 16; }
  __device__ __forceinline__ u32 taken(int which) const { return staged(which) + 8; }
  __device__ __forceinline__ u32 leaving(int which) const { return landed + 576 + which * 256; }
#endif

  // Sets them up, for a number of buffers of own blocks.
  __device__ __forceinline__ void open(int buffers) const {
    if (threadIdx.x == 0) {
      for (int i = 0; i < ITEMS; i++) initialize(landed + i * 8, 129);
      for (int i = 0; i < STAGES; i++) {
        initialize(full + i * 8, BOTH ? 1 : 4);
        initialize(empty + i * 8, 8);
      }
      for (int i = 0; i < buffers; i++) {
        initialize(queryFull + i * 8, BOTH ? 1 : 4);
        initialize(queryEmpty + i * 8, 4);
      }
#if BOTH
      for (int i = 0; i < 4; i++) {
        initialize(staged(i), 4);
        initialize(taken(i), 1);
      }
#endif
    }
    __syncthreads();
  }
};

// What a copy holds: keys and values, queries (and their buffer), and the slot of the keys. Where turns do not follow
// from the last copy's, the low bits are the distance in tiles from the walk's first queries.
#define QUERIES (1u << 31)
#define KEYS (1u << 30)
#define BUFFER(what) ((what) >> 28 & 3)
#define SLOT_OF(what) ((what) >> 24 & 15)
#define LAST (1u << 23)
#define FRESH (1u << 22)
#define AHEAD (1u << 20)  // a tile of keys in place of own blocks

#if FOLLOWS
// Waits until the launch before has written a head's rows, and until what was written before that launch can be seen.
__device__ __forceinline__ void awaitHead(const WalkedForward& p, int head) {
  u32 seen;
  while (true) {
    asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(seen) : "l"(p.finished + head) : "memory");
    if (seen >= (u32)p.arrivals) return;
    __nanosleep(100);
  }
}
#endif

// Fetches tiles in the order in which they are needed, as far ahead as the ring allows.
template <int ROLE, class P>
__device__ __forceinline__ void fetch(const P& all, u32 memory, const Gates& gates) {
  constexpr int OWN = ROLE == FORWARD ? TILE : SLOT;
  int lane = threadIdx.x & 31, warp = uniform(threadIdx.x / 32 & 3);
  int row = warp * (32 / PAIRS) + lane / PAIRS, chunk = lane % PAIRS;
  u32 place = swizzled(row, chunk), queries = memory + STAGES * SLOT + place;
  int item = 0;
  u32 given = 7;  // parities of the buffers of own blocks
  int held = 0;   // the next one; forward, each consumer has one
  auto note = [&](u32 what) {
    u32 landed = gates.landed + item * 8;
    asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(landed) : "memory");
    if (threadIdx.x % 128 == 0) {
      asm volatile("st.shared.u32 [%0], %1;" ::"r"(gates.notes + item * 4), "r"(what) : "memory");
      arrive(landed);
    }
    item = (item + 1) % ITEMS;
  };
  Walk<ROLE> walk;
  Place slot(0);
  walk.begin(all, gates.dealer, warp == 0);
  u64 once = 0, again = 0;
#if BOTH
  u64 keep = keepPolicy();
  int ready = -1;  // the last unit whose lower pass is known to be done
  once = dropPolicy();
#elif FOLLOWS
  int ready = -1;  // the last head whose rows are known to be there
#endif
  while (walk.next(all)) {
    const auto& p = passOf(all, walk.upper);
#if BOTH
    again = walk.upper ? once : keep;
    if (walk.upper && walk.unit != ready) {
      ready = walk.unit;
      if (lane == 0) {
        u32 arrivals = walk.arrivals(all), seen;
        do asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(seen) : "l"(all.finished + ready) : "memory");
        while (seen < arrivals);
        // Before copies by tensor memory access.
        asm volatile("fence.proxy.async;" ::: "memory");
      }
      __syncwarp();
    }
#elif FOLLOWS
    if (walk.b * p.heads + walk.h != ready) {
      ready = walk.b * p.heads + walk.h;
      if (lane == 0) {
        awaitHead(p, ready);
        // Before copies by tensor memory access.
        asm volatile("fence.proxy.async;" ::: "memory");
      }
      __syncwarp();
    }
#endif
    // Where a row's chunk is found, formed for every copy: the registers have no room for eight lines and steps.
    // Keys are shared by ratioK query heads and values by ratioU.
    auto lineOf = [&](const T* base, i64 batch, i64 head, i64 token, int ratio) {
      int h = walk.h;
      asm volatile("" : "+r"(h));
      return base + walk.b * batch + (ratio > 1 ? h / ratio : h) * head + walk.origin * token + chunk * 8;
    };
    auto copy = [&](u32 target, bool asQuery, int first, int begin) {
      auto box = walk.box(p, first);
      if ((ROLE != FORWARD || first >= begin) && first + 64 <= walk.keys && box.position + 64 <= p.rows) {
        if (threadIdx.x % 128 == 0) {
          u32 landed = gates.landed + item * 8;
          asm volatile("mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [%0], %1;" ::"r"(landed),
                       "r"(ROLE == FORWARD && asQuery ? TILE : SLOT)
                       : "memory");
          loadBox(target - place, asQuery ? p.qMap : p.kMap, landed, box.of(asQuery ? 1 : p.ratioK), again);
          if constexpr (ROLE != FORWARD)
            loadBox(target - place + TILE, asQuery ? p.doutMap : p.uMap, landed, box.of(asQuery ? 1 : p.ratioU));
          else if (!asQuery)
            loadBox(target - place + TILE, p.uMap, landed, box.of(p.ratioU), once);
        }
        return;
      }
      if (asQuery) {
        copyRows(target, lineOf(p.q, p.qB, p.qH, p.qN, 1), p.qN * p.stride, row, first, begin, walk.keys);
        if (ROLE != FORWARD)
          copyRows(target + TILE, lineOf(p.dout, p.doB, p.doH, p.doN, 1), p.doN * p.stride, row, first, 0, walk.keys);
      } else {
        copyRows(target, lineOf(p.k, p.kB, p.kH, p.kN, p.ratioK), p.kN * p.stride, row, first, 0, walk.keys);
        copyRows(target + TILE, lineOf(p.u, p.uB, p.uH, p.uN, p.ratioU), p.uN * p.stride, row, first, 0, walk.keys);
      }
    };
    // Half of the threads copy D of 64 queries, the others ℓ'.
    auto copySums = [&](int place, int first) {
      int h = walk.h, j = first + threadIdx.x % 64, bytes = j < walk.keys ? 4 : 0;
      asm volatile("" : "+r"(h));
      const float* sums = p.dot + (i64)((warp / 2 * p.batch + walk.b) * p.heads + h) * p.lseN + walk.origin;
      asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(gates.sums + place * 512 +
                                                                        threadIdx.x % 128 * 4),
                   "l"(sums + (bytes ? (i64)j * p.stride : 0)), "r"(bytes)
                   : "memory");
    };
    // Blocks of queries come with the keys of their own tile where both come in the same order; else the first
    // two come before all keys and the others behind.
    int blocks = walk.live - walk.first, tiles = walk.high - walk.low + 1;
    int ahead = CAUSAL && walk.low == walk.first ? 0 : min(blocks, 2);
    int items = blocks <= 0 ? 0 : tiles + (CAUSAL ? ahead : blocks);
    int late = -1;         // backward: an own block that comes after the next one's tile
    bool resumes = false;  // after such a one
#pragma unroll 1
    for (int n = 0; n < items || late >= 0; n++) {
      int tile = n - ahead;
      bool hasKeys = tile >= 0 && tile < tiles;
      int block = hasKeys ? walk.low + tile : walk.first + (n < ahead ? n : n - tiles);
      u32 what = n == 0 ? FRESH : tile == 0 ? FRESH | (walk.first - walk.low) : tile == tiles ? FRESH | ahead : 0;
      bool hasOwn = !hasKeys || (CAUSAL && block >= walk.first + ahead);
      if (Walk<ROLE>::PAIRED) {
        if (late >= 0) {
          block = late, what = FRESH | (late - walk.first);
          hasKeys = false, hasOwn = resumes = true;
          late = -1, n--;
        } else if (!hasKeys) {
          block = walk.own(n);
          what = FRESH | (block - walk.first);
        } else if (ahead == 0) {
          if (resumes) what = FRESH | AHEAD | tile;
          resumes = false;
          if (walk.isSwapped(tile)) {
            hasOwn = tile & 1;
            if (hasOwn) late = block - 1;
          }
        }
      }
      if (hasKeys) {
        waitFor(gates.empty + slot.slot * 8, slot.round ^ 1);
        u32 target = memory + slot.slot * SLOT + place;
        int first = walk.position(block);
        copy(target, ROLE == KEY, first, 0);
        if (ROLE == KEY) copySums(slot.slot, first);
        what |= KEYS | slot.slot << 24;
        slot.next();
      }
      if (hasOwn) {
        int buffer = ROLE == FORWARD ? (block - walk.first ^ walk.turn) & 1 : held;
        waitFor(gates.queryEmpty + buffer * 8, given >> buffer & 1);
        int first = walk.position(block);
        copy(queries + buffer * OWN, ROLE != KEY, first, walk.firstRow);
        if (ROLE == QUERY) copySums(buffer, first);
        what |= QUERIES | buffer << 28;
        given ^= 1u << buffer;
        held = held == 2 ? 0 : held + 1;
      }
      note(what);
    }
  }
  note(LAST);
}

// Turns what has landed and hands it on to the consumers.
template <int ROLE>
__device__ __forceinline__ void turn(const WalkedPass& p, u32 memory, const Gates& gates) {
  // Mirrored, rows go from a tile's last to its first, so that turns advance there, too.
  constexpr int OWN = ROLE == FORWARD ? TILE : SLOT, LAST_ROWS = ROLE == KEY ? 64 - ROUND : 0;
  constexpr u32 ROW_STEP = ROLE == KEY ? 0u - ROUND * 128u : ROUND * 128u;
  int lane = threadIdx.x & 31, warp = uniform(threadIdx.x / 32 & 3);
  int row = warp * (32 / PAIRS) + lane / PAIRS, chunk = lane % PAIRS;
  u32 place = swizzled(row, chunk), queries = memory + STAGES * SLOT + place;
#if ROTARY
  // The lane's turns go from row to row by a fixed step, which costs less than fetching them: a walk has at most
  // 8192 positions, whose 512 steps add up to an error of 2⁻¹⁵. The walk's first queries are place 0.
  Turns here, jump;
  const float2* table = p.rotary + chunk * 8;
  jump.load(table + ROUND * (D / 2), ROLE == KEY);
  here.load(table + (LAST_ROWS + row) * (D / 2), false);
#endif
  for (int n = 0;; n++) {
    waitFor(gates.landed + n % ITEMS * 8, n / ITEMS & 1);
    u32 what;
    asm volatile("ld.shared.u32 %0, [%1];" : "=r"(what) : "r"(gates.notes + n % ITEMS * 4) : "memory");
    what = uniform(what);
    if (what & LAST) return;
#if ROTARY
    if (what & FRESH) {
      int distance = what & (AHEAD - 1);
      // Tiles of keys lie before the walk's first queries, the own blocks behind them.
      bool before = (what & KEYS) != 0 && !(what & AHEAD);
      if (ROLE == KEY) before = !before && distance > 0;
      else before = before && distance > 0;
      here.load(table + (i64)(before ? distance * 64 - LAST_ROWS - row : distance * 64 + LAST_ROWS + row) * (D / 2),
                before);
    } else {
      here.advance(jump);
    }
    u32 keyTile = memory + SLOT_OF(what) * SLOT + place + LAST_ROWS * 128;
    u32 queryTile = queries + BUFFER(what) * OWN + LAST_ROWS * 128;
    if constexpr (ROLE == FORWARD) {
      // A row's chunks are read while those of the row before are turned.
      bool both = (what & KEYS) && (what & QUERIES);
      if (!(what & KEYS)) keyTile = queryTile;
      uint4 k[2] = {loadShared(keyTile), loadShared(FAR(keyTile))}, q[2];
      if (both) {
        q[0] = loadShared(queryTile), q[1] = loadShared(FAR(queryTile));
#pragma unroll
        for (int r = 0; r < ROUNDS; r++) {
          uint4 a = k[0], b = k[1], c = q[0], d = q[1];
          u32 keyRow = keyTile + r * ROW_STEP, queryRow = queryTile + r * ROW_STEP;
          if (r + 1 < ROUNDS) {
            k[0] = loadShared(keyRow + ROW_STEP), k[1] = loadShared(FAR(keyRow + ROW_STEP));
            q[0] = loadShared(queryRow + ROW_STEP), q[1] = loadShared(FAR(queryRow + ROW_STEP));
          }
          if (r > 0) here.advance(jump);
          here.rotate(keyRow, a, b);
          here.rotate(queryRow, c, d);
        }
      } else {
#pragma unroll
        for (int r = 0; r < ROUNDS; r++) {
          uint4 a = k[0], b = k[1];
          u32 keyRow = keyTile + r * ROW_STEP;
          if (r + 1 < ROUNDS) k[0] = loadShared(keyRow + ROW_STEP), k[1] = loadShared(FAR(keyRow + ROW_STEP));
          if (r > 0) here.advance(jump);
          here.rotate(keyRow, a, b);
        }
      }
    } else if ((what & KEYS) && (what & QUERIES)) {
#pragma unroll 2
      for (int r = 0; r < ROUNDS; r++) {
        uint4 k0 = loadShared(keyTile), k1 = loadShared(FAR(keyTile));
        uint4 q0 = loadShared(queryTile), q1 = loadShared(FAR(queryTile));
        if (r > 0) here.advance(jump);
        here.rotate(keyTile, k0, k1);
        here.rotate(queryTile, q0, q1);
        keyTile += ROW_STEP;
        queryTile += ROW_STEP;
      }
    } else {
      if (what & QUERIES) keyTile = queryTile;
#pragma unroll 2
      for (int r = 0; r < ROUNDS; r++) {
        uint4 x = loadShared(keyTile), y = loadShared(FAR(keyTile));
        if (r > 0) here.advance(jump);
        here.rotate(keyTile, x, y);
        keyTile += ROW_STEP;
      }
    }
#endif
    publish();
    __syncwarp();
    if (lane == 0) {
      if (what & KEYS) arrive(gates.full + SLOT_OF(what) * 8);
      if (what & QUERIES) arrive(gates.queryFull + BUFFER(what) * 8);
    }
  }
}
