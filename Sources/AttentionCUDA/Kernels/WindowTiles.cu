// Windows of at most 128 positions in shared memory, for BackwardWindow.cu: who holds what, and what is copied there and back.

// A stretch of a fiber's tiles of 64 positions: the own ones, first … last − 1, whose dq, dk and du a block forms. Their queries
// see keys from `low` on, their keys are seen by queries up to `end`.
struct Stretch : Fiber {
  int low, first, last, end, cursor, stop;
  __device__ __forceinline__ Stretch() {}
  __device__ __forceinline__ Stretch(const WalkedBackward& p)
      : cursor((i64)p.walks * blockIdx.x / gridDim.x), stop((i64)p.walks * (blockIdx.x + 1) / gridDim.x) {}
  __device__ __forceinline__ bool next(const WalkedBackward& p) {
    if (cursor >= stop) return false;
    int number = divide(cursor, p.byChunks), line = divide(number, p.byFibers);
    first = cursor - number * p.chunks;
    last = min(first + min(p.walkSteps, stop - cursor), p.chunks);
    low = max(first - 2, 0), end = min(last + 2, p.chunks);
    cursor += last - first;
    find(p, number, line);
    return true;
  }
};

// What a consumer's warp needs of a stretch, in shared memory: its registers have no room for it.
struct Held {
  i64 lseRow;  // the first token's row
  int part;    // of dβ, the first of the fiber's
  float beta;
};

// Where things lie in shared memory. The tiles of either ring are used in turn. Barriers: `landed`, copied; `full`, turned;
// `empty`, no longer needed; `ready`, to be sent; `free`, sent.
struct Window {
  u32 queries, douts, keys, values;
  // dz of 64 queries and 64 keys: of either consumer's keys two tiles before the queries; one tile; the same one.
  u32 weights;
  u32 sums, eighth, above;  // D, ℓ' and ℓ of queries; the turns of eight rows; those of a tile in the pass above
  u32 held;                 // a consumer's warp's
  u32 queryLanded, queryFull, queryEmpty, doutFull, doutDone, doutEmpty, resultsReady;  // two each
  u32 keyLanded, keyFull, keyEmpty, valueFull, valueEmpty;                              // four each
  u32 valuesReady, keysReady, valuesSent;                                               // two each, a consumer's
  u32 crossFull, sameFree, oldFull;
  __device__ __forceinline__ Window(u32 memory)
      : queries(memory), douts(queries + 2 * TILE), keys(douts + 2 * TILE), values(keys + 4 * TILE),
        weights(values + 4 * TILE), sums(weights + 4 * PANEL) {
    eighth = sums + 2 * 768, above = eighth + 512, held = above + 512;
    queryLanded = held + 8 * 16, queryFull = queryLanded + 16, queryEmpty = queryFull + 16;
    doutFull = queryEmpty + 16, doutDone = doutFull + 16, doutEmpty = doutDone + 16, resultsReady = doutEmpty + 16;
    keyLanded = resultsReady + 16, keyFull = keyLanded + 32, keyEmpty = keyFull + 32, valueFull = keyEmpty + 32;
    valueEmpty = valueFull + 32, valuesReady = valueEmpty + 32, keysReady = valuesReady + 16;
    valuesSent = keysReady + 16, crossFull = valuesSent + 16, sameFree = crossFull + 8, oldFull = sameFree + 8;
  }
  __device__ __forceinline__ void open() const {
    if (threadIdx.x == 0) {
      for (int i = 0; i < 2; i++) {
        initialize(queryLanded + i * 8, 33);
        initialize(queryFull + i * 8, 4);
        initialize(queryEmpty + i * 8, 8);
        initialize(doutFull + i * 8, 1);
        initialize(doutDone + i * 8, 8);
        initialize(doutEmpty + i * 8, 1);
        initialize(resultsReady + i * 8, 4);
        initialize(valuesReady + i * 8, 4);
        initialize(keysReady + i * 8, 4);
        initialize(valuesSent + i * 8, 1);
      }
      for (int i = 0; i < 4; i++) {
        initialize(keyLanded + i * 8, 1);
        initialize(keyFull + i * 8, 4);
        initialize(keyEmpty + i * 8, 8);
        initialize(valueFull + i * 8, 1);
        initialize(valueEmpty + i * 8, 1);
      }
      initialize(crossFull, 4);
      initialize(sameFree, 4);
      initialize(oldFull, 1);
    }
    __syncthreads();
  }
};

// One warp: tiles of q and du', D and ℓ'.
__device__ __forceinline__ void fetchQueries(const WalkedBackward& p, const Window& at) {
  int lane = threadIdx.x & 31, entry = 0;
  Stretch walk(p);
  while (walk.next(p))
#pragma unroll 1
    for (int tile = walk.first; tile < walk.end; tile++, entry++) {
      int slot = entry & 1, parity = entry >> 1 & 1 ^ 1;
      auto box = walk.box(p, tile);
      i64 row = (i64)(walk.b * p.heads + walk.h) * p.lseN + walk.origin + (i64)tile * 64 * p.stride;
      waitFor(at.queryEmpty + slot * 8, parity);
      u32 landed = at.queryLanded + slot * 8;
      if (lane == 0) {
        expectMore(landed, TILE);
        loadBox(at.queries + slot * TILE, p.qMap, landed, box);
      }
#pragma unroll
      for (int n = 0; n < (JOINT ? 6 : 4); n++) {
        const float* sums = n / 2 == 2 ? p.lseIn : p.dot + (n / 2 ? (i64)p.batch * p.heads * p.lseN : 0);
        copyNumber(at.sums + slot * 768 + n * 128 + lane * 4, sums + row + (i64)(n % 2 * 32 + lane) * p.stride);
      }
      arriveWithCopies(landed, lane);
      waitFor(at.doutEmpty + slot * 8, parity);
      if (lane == 0) {
        expect(at.doutFull + slot * 8, TILE);
        loadBox(at.douts + slot * TILE, p.doutMap, at.doutFull + slot * 8, box);
      }
    }
}

// One thread: keys and values.
__device__ __forceinline__ void fetchKeys(const WalkedBackward& p, const Window& at) {
  if (threadIdx.x % 32 != 0) return;
  int entry = 0;
  Stretch walk(p);
  while (walk.next(p))
#pragma unroll 1
    for (int tile = walk.low; tile < walk.last; tile++, entry++) {
      int slot = entry & 3, parity = entry >> 2 & 1 ^ 1;
      auto box = walk.box(p, tile);
      waitFor(at.valueEmpty + slot * 8, parity);
      expect(at.valueFull + slot * 8, TILE);
      loadBox(at.values + slot * TILE, p.uMap, at.valueFull + slot * 8, box);
      waitFor(at.keyEmpty + slot * 8, parity);
      expect(at.keyLanded + slot * 8, TILE);
      loadBox(at.keys + slot * TILE, p.kMap, at.keyLanded + slot * 8, box);
    }
}

// One warp: du and dk, which leave from where u was.
__device__ __forceinline__ void sendKeys(const WalkedBackward& p, const Window& at) {
  int entry = 0, sent = 0;  // `sent`: whether a consumer's next tile is an odd one, a bit each
  Stretch walk(p);
  while (walk.next(p))
#pragma unroll 1
    for (int tile = walk.low; tile < walk.last; tile++, entry++) {
      if (tile < walk.first) continue;
      int slot = entry & 3, group = tile & 1, parity = sent >> group & 1;
      sent ^= 1 << group;
      u32 place = at.values + slot * TILE;
      auto box = walk.box(p, tile);
      waitFor(at.valuesReady + group * 8, parity);
      sendTile(place, p.duMap, box, false);
      awaitSent();
      if (threadIdx.x % 32 == 0) arrive(at.valuesSent + group * 8);
      waitFor(at.keysReady + group * 8, parity);
      sendTile(place, p.dkMap, box, p.accumulate);
      awaitSent();
      if (threadIdx.x % 32 == 0) arrive(at.valueEmpty + slot * 8);
    }
}

// One warp: dq, which leaves from where du' was, and the rows that it is added to.
__device__ __forceinline__ void sendQueries(const WalkedBackward& p, const Window& at) {
  int entry = 0, sent = 0;
  Stretch walk(p);
  while (walk.next(p))
#pragma unroll 1
    for (int tile = walk.first; tile < walk.end; tile++, entry++) {
      int slot = entry & 1;
      u32 place = at.douts + slot * TILE;
      waitFor(at.doutDone + slot * 8, entry >> 1 & 1);
      if (tile < walk.last) {
        auto box = walk.box(p, tile);
#if TURNED
        // All tokens of a tile have the same place in the pass above.
        if (threadIdx.x % 32 == 0) {
          int above = divide(walk.origin + tile * 64, p.byTurnedStride);
          above -= divide(above, p.byTurnedSize) * p.turnedSize;
          expect(at.oldFull, TILE + D * 4);
          asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                           at.above),
                       "l"(p.turned + (i64)above * (D / 2)), "r"(D * 4), "r"(at.oldFull)
                       : "memory");
          loadBox(place, p.dqMap, at.oldFull, box);
        }
        __syncwarp();
#endif
        waitFor(at.resultsReady + (sent & 1) * 8, sent >> 1 & 1);
        sendTile(place, p.dqMap, box, !TURNED && p.accumulate);
        awaitSent();
        sent++;
      }
      if (threadIdx.x % 32 == 0) arrive(at.doutEmpty + slot * 8);
    }
}

// Hands tiles of q and k on to the consumers, rotated ones turned; places count from the stretch's first key. Leaves the
// sums of dℓ' as parts of dβ behind those of the consumers.
__device__ __forceinline__ void handOn(const WalkedBackward& p, const Window& at) {
  int queries = 0, keys = 0;
#if ROTARY
  int lane = threadIdx.x & 31, chunk = lane % PAIRS, row = (threadIdx.x / 32 & 3) * (32 / PAIRS) + lane / PAIRS;
  u32 place = swizzled(row, chunk);
  const float2* table = p.rotary + row * (D / 2) + chunk * 8;
  Turns jump;
  jump.load(p.rotary + ROUND * (D / 2) + chunk * 8, false);
#endif
  // Turns are fetched while the tile is waited for.
  auto turn = [&](u32 tile, int number, u32 landed, int parity, u32 full) {
#if ROTARY
    Turns here;
    here.load(table + number * 64 * (D / 2), false);
    waitFor(landed, parity);
    turnTile(tile + place, here, jump);
#else
    waitFor(landed, parity);
#endif
    arriveAt(full, threadIdx.x % 32);
  };
  Stretch walk(p);
  while (walk.next(p))
    // A tile of keys is there before the queries of the next one are.
#pragma unroll 1
    for (int n = 2 * walk.low - (walk.low == walk.first); n < 2 * walk.end - 1; n++) {
      int number = n + 1 >> 1;
      bool isQuery = n & 1;
      float dlse = 0.f;
      if (BETA && isQuery && p.dlseOut && number >= walk.first && number < walk.last && threadIdx.x % 32 < 16)
        dlse = __ldg(p.dlseOut + (i64)(walk.b * p.heads + walk.h) * p.lseN + walk.origin +
                     (i64)(number * 64 + threadIdx.x / 32 % 4 * 16 + threadIdx.x % 32) * p.stride);
      if (isQuery ? number < walk.first : number >= walk.last) continue;
      int slot = isQuery ? queries & 1 : keys & 3, parity = isQuery ? queries >> 1 & 1 : keys >> 2 & 1;
      turn((isQuery ? at.queries : at.keys) + slot * TILE, number - walk.low,
           (isQuery ? at.queryLanded : at.keyLanded) + slot * 8, parity, (isQuery ? at.queryFull : at.keyFull) + slot * 8);
      queries += isQuery, keys += !isQuery;
      if (BETA && isQuery && p.dlseOut && number < walk.last) {
#pragma unroll
        for (int step = 8; step > 0; step /= 2) dlse += __shfl_xor_sync(~0u, dlse, step);
        i64 part = ((i64)(walk.h * p.batch + walk.b) * p.fibers + walk.fiber) * p.tilesPerFiber + p.chunks + number;
        if (threadIdx.x % 32 == 0) p.dbeta[part * 4 + threadIdx.x / 32 % 4] = dlse;
      }
    }
}
