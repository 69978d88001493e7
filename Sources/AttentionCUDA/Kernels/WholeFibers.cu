// Whole fibers in shared memory, for BackwardWhole.cu: who holds what, and what is copied there and back.

#define RING STAGES  // tiles of q and du'
#define OWN 2   // tiles of keys, one a consumer

// The fibers of a block, neighboring ones side by side.
struct Fibers : Fiber {
  int cursor;
  __device__ __forceinline__ Fibers() : cursor(blockIdx.x) {}
  __device__ __forceinline__ bool next(const WalkedBackward& p) {
    if (cursor >= p.walks) return false;
    find(p, cursor, divide(cursor, p.byFibers));
    cursor += gridDim.x;
    return true;
  }
};

// Where things lie in shared memory. Barriers: `landed`, copied; `full`, with D; `empty`, no longer needed; `ready`, to be
// sent; `free`, sent.
struct Places {
  u32 queries, keys, values;
  u32 weights, results;  // dz of 64 queries and 128 keys, then dk of the first consumer; dq, then dk of the second one
  u32 sums, jump;        // D and ℓ' of the ring's tiles; the turns from one row that a thread turns to its next
  u32 landed, full, empty, keysFull, keysEmpty, valuesFull, valuesEmpty, valuesReady;
  u32 weightsFull, weightsFree, weightsReady, weightsSent, resultsReady, resultsFree;
  __device__ __forceinline__ Places(u32 memory)
      : queries(memory), keys(memory + RING * SLOT), values(keys + OWN * TILE), weights(values + OWN * TILE),
        results(weights + TILE), sums(results + TILE) {
    jump = sums + RING * 512, landed = jump + (ROTARY ? D * 4 : 0), full = landed + RING * 8, empty = full + RING * 8;
    keysFull = empty + RING * 8, keysEmpty = keysFull + 16, valuesFull = keysEmpty + 16;
    valuesEmpty = valuesFull + 16, valuesReady = valuesEmpty + 16;
    weightsFull = valuesReady + 16, weightsFree = weightsFull + 8, weightsReady = weightsFree + 8;
    weightsSent = weightsReady + 8, resultsReady = weightsSent + 8, resultsFree = resultsReady + 8;
  }
  __device__ __forceinline__ void open() const {
    if (threadIdx.x == 0) {
      for (int i = 0; i < RING; i++) {
        initialize(landed + i * 8, 33);
        initialize(full + i * 8, 4);
        initialize(empty + i * 8, 8);
      }
      for (int i = 0; i < OWN; i++) {
        initialize(keysFull + i * 8, 1);
        initialize(keysEmpty + i * 8, i == 0 ? 8 : 4);  // both consumers read the first one's keys
        initialize(valuesFull + i * 8, 1);
        initialize(valuesEmpty + i * 8, 1);
        initialize(valuesReady + i * 8, 4);
      }
      initialize(weightsFull, 8);
      initialize(weightsFree, 4);
      initialize(weightsReady, 4);
      initialize(weightsSent, 1);
      initialize(resultsReady, 4);
      initialize(resultsFree, 1);
    }
    __syncthreads();
  }
};

// Has 64 rows brought to L2.
__device__ __forceinline__ void prefetchRows(const T* line, i64 step) {
  constexpr int PARTS = D / 64;
#pragma unroll
  for (int n = 0; n < 2 * PARTS; n++) {
    int part = threadIdx.x % 32 + n * 32;
    asm volatile("prefetch.global.L2 [%0];" ::"l"(line + part / PARTS * step + part % PARTS * 64));
  }
}

// One warp: tiles of queries, ℓ', and D where it is known.
__device__ __forceinline__ void fetchQueries(const WalkedBackward& p, const Places& at) {
  int lane = threadIdx.x & 31;
  Fibers walk;
  Place slot(0);
  while (walk.next(p)) {
    for (int tile = 0; tile < p.tilesPerFiber; tile++, slot.next()) {
      waitFor(at.empty + slot.slot * 8, slot.round ^ 1);
      u32 landed = at.landed + slot.slot * 8, target = at.queries + slot.slot * SLOT;
      if (lane == 0) {
        expectMore(landed, SLOT);
        auto box = walk.box(p, tile);
        loadBox(target, p.qMap, landed, box);
        loadBox(target + TILE, p.doutMap, landed, box);
      }
      i64 token = walk.origin + (i64)tile * 64 * p.stride;
      const float* sums = p.dot + (i64)(walk.b * p.heads + walk.h) * p.lseN + token;
      if (p.out) prefetchRows(p.out + walk.b * p.oB + walk.h * p.oH + token * p.oN, p.oN * p.stride);
#pragma unroll
      for (int n = 0; n < 4; n++) {
        if (n < 2 && p.out) continue;
        copyNumber(at.sums + slot.slot * 512 + n * 128 + lane * 4,
                   sums + (n / 2 ? (i64)p.batch * p.heads * p.lseN : 0) + (i64)(n % 2 * 32 + lane) * p.stride);
      }
      arriveWithCopies(landed, lane);
    }
  }
}

// Brings a tile to L2.
__device__ __forceinline__ void prefetchBox(const Map& map, const Fiber::Box& at) {
#pragma unroll
  for (int n = 0; n < D; n += 64)
    asm volatile("cp.async.bulk.prefetch.tensor.5d.L2.global [%0, {%1, %2, %3, %4, %5}];" ::"l"(&map), "r"(n),
                 "r"(at.position), "r"(at.fiber), "r"(at.h), "r"(at.b)
                 : "memory");
}

// One thread: keys and values.
__device__ __forceinline__ void fetchKeys(const WalkedBackward& p, const Places& at) {
  if (threadIdx.x % 32 != 0) return;
  Fibers walk;
  int parity = 1;
  while (walk.next(p))
    for (int first = 0; first < p.tilesPerFiber; first += OWN, parity ^= 1) {
      // There is no room yet.
#pragma unroll 1
      for (int i = 0; i < OWN; i++) {
        prefetchBox(p.kMap, walk.box(p, first + i));
        prefetchBox(p.uMap, walk.box(p, first + i));
      }
#pragma unroll 1
      for (int i = 0; i < OWN; i++) {
        waitFor(at.keysEmpty + i * 8, parity);
        u32 landed = at.keysFull + i * 8;
        expect(landed, TILE);
        loadBox(at.keys + i * TILE, p.kMap, landed, walk.box(p, first + i));
      }
#pragma unroll 1
      for (int i = 0; i < OWN; i++) {
        waitFor(at.valuesEmpty + i * 8, parity);
        expect(at.valuesFull + i * 8, TILE);
        loadBox(at.values + i * TILE, p.uMap, at.valuesFull + i * 8, walk.box(p, first + i));
      }
    }
}

// One warp: dq, and dk of the second consumer.
__device__ __forceinline__ void sendQueries(const WalkedBackward& p, const Places& at) {
  Fibers walk;
  int parity = 0;
  while (walk.next(p))
    for (int first = 0; first < p.tilesPerFiber; first += OWN)
      for (int tile = first; tile <= p.tilesPerFiber; tile++, parity ^= 1) {
        waitFor(at.resultsReady, parity);
        // What the keys before these have sent to the same place has been written: two tiles ago at least.
        asm volatile("cp.async.bulk.wait_group 1;" ::: "memory");
        if (tile < p.tilesPerFiber) sendTile(at.results, p.dqMap, walk.box(p, tile), p.accumulate || first > 0);
        else sendTile(at.results, p.dkMap, walk.box(p, first + 1), p.accumulate);
        awaitSent();
        if (threadIdx.x % 32 == 0) arrive(at.resultsFree);
      }
}

// One warp: du, and dk of the first consumer.
__device__ __forceinline__ void sendKeys(const WalkedBackward& p, const Places& at) {
  Fibers walk;
  int parity = 0;
  auto send = [&](u32 ready, u32 tile, const Map& map, int key, bool add, u32 free) {
    waitFor(ready, parity);
    sendTile(tile, map, walk.box(p, key), add);
    awaitSent();
    if (threadIdx.x % 32 == 0) arrive(free);
  };
  while (walk.next(p))
    for (int key = 0; key < p.tilesPerFiber; key += OWN, parity ^= 1) {
      send(at.valuesReady, at.values, p.duMap, key, false, at.valuesEmpty);
      send(at.weightsReady, at.weights, p.dkMap, key, p.accumulate, at.weightsSent);
      send(at.valuesReady + 8, at.values + TILE, p.duMap, key + 1, false, at.valuesEmpty + 8);
    }
}

// Forms scale·D of a warp's rows of a tile of queries from its du' and rows of u'.
__device__ __forceinline__ void formDots(const WalkedBackward& p, const Fiber& walk, int query, u32 douts, u32 sums) {
  int lane = threadIdx.x & 31, warp = threadIdx.x / 32 & 3;
  int row = warp * (32 / PAIRS) + lane / PAIRS, chunk = lane % PAIRS;
  i64 token = walk.origin + (i64)(query * 64 + row) * p.stride, step = (i64)ROUND * p.stride;
  const T* line = p.out + walk.b * p.oB + walk.h * p.oH + token * p.oN + chunk * 8;
  u32 place = douts + swizzled(row, chunk);
#pragma unroll 1
  for (int first = 0; first < ROUNDS; first += 2) {
    uint4 x[2][2];
#pragma unroll
    for (int r = 0; r < 2; r++) {
      const T* from = line + (first + r) * step * p.oN;
      x[r][0] = __ldg(reinterpret_cast<const uint4*>(from));
      x[r][1] = __ldg(reinterpret_cast<const uint4*>(from + D / 2));
    }
#pragma unroll
    for (int i = 0; i < 2; i++) {
      int r = first + i;
      float sum = 0.f;
#pragma unroll
      for (int half = 0; half < 2; half++) {
        u32 at = place + r * ROUND * 128;
        uint4 y = loadShared(half ? FAR(at) : at);
        const u32 v[4] = {x[i][half].x, x[i][half].y, x[i][half].z, x[i][half].w}, w[4] = {y.x, y.y, y.z, y.w};
#pragma unroll
        for (int e = 0; e < 4; e++) {
          float2 c = unpack(v[e]), d = unpack(w[e]);
          sum += c.x * d.x;
          sum += c.y * d.y;
        }
      }
#pragma unroll
      for (int n = PAIRS / 2; n > 0; n /= 2) sum += __shfl_xor_sync(~0u, sum, n);
      if (chunk == 0) {
        if (p.dlseOut) sum -= __ldg(p.dlseOut + (i64)(walk.b * p.heads + walk.h) * p.lseN + token + r * step);
        asm volatile("st.shared.f32 [%0], %1;" ::"r"(sums + (row + r * ROUND) * 4), "f"(sum * p.rawScale) : "memory");
      }
    }
  }
}

// Hands tiles on to the consumers: queries with D, and rotated ones turned.
__device__ __forceinline__ void handOn(const WalkedBackward& p, const Places& at) {
  Fibers walk;
  Place slot(0);
#if ROTARY
  int lane = threadIdx.x & 31, chunk = lane % PAIRS, row = (threadIdx.x / 32 & 3) * (32 / PAIRS) + lane / PAIRS;
  u32 place = swizzled(row, chunk);
  const float2* table = p.rotary + row * (D / 2) + chunk * 8;
  Turns jump;
  jump.load(p.rotary + ROUND * (D / 2) + chunk * 8, false);
#endif
  // Turns are fetched while the tile is waited for.
  auto queries = [&](int tile) {
    u32 target = at.queries + slot.slot * SLOT;
#if ROTARY
    Turns here;
    here.load(table + tile * 64 * (D / 2), false);
#endif
    waitFor(at.landed + slot.slot * 8, slot.round);
#if ROTARY
    turnTile(target + place, here, jump);
#endif
    if (p.out) formDots(p, walk, tile, target + TILE, at.sums + slot.slot * 512);
    arriveAt(at.full + slot.slot * 8, threadIdx.x % 32);
    slot.next();
  };
  while (walk.next(p))
#pragma unroll 1
    for (int i = 0; i < p.tilesPerFiber; i++) queries(i);
}
