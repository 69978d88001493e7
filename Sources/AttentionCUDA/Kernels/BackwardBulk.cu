// Tiles of short backward passes that tensor memory access copies: whole fibers of powers of two positions, no padding.
// See BackwardTiles.cu for what is formed. A warp a consumer copies tiles in, another one takes results to memory,
// a thread each for a tile's 16 KB; where results are sums, L2 adds, or the old rows come to where the new ones are staged.

#define NOTES 256                               // ℓ' of a set's rows
#define NORMAL 0x1000000000000000ull            // createpolicy's encodings
#define EVICT_FIRST 0x12F0000000000000ull

// Must match `BulkMaps`.
struct Maps {
  Map q, k, u, dout, dq, dk, du;
};
// A tile's first row.
struct Place {
  int position, fiber, h, b;
  __device__ __forceinline__ Place of(int head) const { return {position, fiber, head, b}; }
};

#define BOX "{%1, %2, %3, %4, %5}"
#define BOX_OPERANDS(n) "l"(&map), "r"(n), "r"(at.position), "r"(at.fiber), "r"(at.h), "r"(at.b)
__device__ __forceinline__ void loadTile(u32 tile, const Map& map, u32 barrier, const Place& at, u64 policy) {
#pragma unroll
  for (int n = 0; n < D; n += 64)
    asm volatile(
        "cp.async.bulk.tensor.5d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%6], "
        "[%0, " BOX "], [%7], %8;" ::BOX_OPERANDS(n), "r"(tile + n / 64 * PANEL), "r"(barrier), "l"(policy)
        : "memory");
}
__device__ __forceinline__ void storeTile(u32 tile, const Map& map, const Place& at, u64 policy) {
#pragma unroll
  for (int n = 0; n < D; n += 64)
    asm volatile("cp.async.bulk.tensor.5d.global.shared::cta.bulk_group.L2::cache_hint [%0, " BOX "], [%6], %7;" ::
                     BOX_OPERANDS(n), "r"(tile + n / 64 * PANEL), "l"(policy)
                 : "memory");
}
__device__ __forceinline__ void addTile(u32 tile, const Map& map, const Place& at, u64 policy) {
#pragma unroll
  for (int n = 0; n < D; n += 64)
    asm volatile(
        "cp.reduce.async.bulk.tensor.5d.global.shared::cta.add.tile.bulk_group.L2::cache_hint [%0, " BOX "], [%6], %7;" ::
            BOX_OPERANDS(n), "r"(tile + n / 64 * PANEL), "l"(policy)
        : "memory");
}
__device__ __forceinline__ void commitBulk() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }
// Until this thread's stores have read shared memory, or until they are done.
__device__ __forceinline__ void awaitBulkReads() { asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory"); }
__device__ __forceinline__ void awaitBulk() { asm volatile("cp.async.bulk.wait_group 0;" ::: "memory"); }
__device__ __forceinline__ void expect(u32 barrier, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}

// Where things lie in shared memory: barriers are a set's and a side's. `staged` says which of dq, du and dk are in the
// memory of u, k and du'; `old` that the old rows of dq and dk are there.
struct Sets {
  u32 tiles, weights, notes, full, empty, staged, old, scratch;
  __device__ __forceinline__ Sets(u32 memory)
      : tiles(memory), weights(memory + SETS * SET), notes(weights + 2 * WEIGHTS), full(notes + SETS * NOTES),
        empty(full + SETS * 16), staged(empty + SETS * 16), old(staged + SETS * 48), scratch(old + SETS * 32) {}
  __device__ __forceinline__ u32 fullBarrier(Ring ring, int side) const { return full + (ring.set * 2 + side) * 8; }
  __device__ __forceinline__ u32 emptyBarrier(Ring ring, int side) const { return empty + (ring.set * 2 + side) * 8; }
  __device__ __forceinline__ u32 stagedBarrier(Ring ring, int side, int result) const {
    return staged + ((ring.set * 2 + side) * 3 + result) * 8;
  }
  __device__ __forceinline__ u32 oldBarrier(Ring ring, int side, int result) const {
    return old + ((ring.set * 2 + side) * 2 + result) * 8;
  }
  __device__ __forceinline__ void awaitFull(Ring ring, int side) const {
    waitFor(fullBarrier(ring, side), ring.round >> 1 & 1);
  }
  __device__ __forceinline__ void awaitStaged(Ring ring, int side, int result) const {
    waitFor(stagedBarrier(ring, side, result), ring.round >> 1 & 1);
  }
  __device__ __forceinline__ void awaitOld(Ring ring, int side, int result) const {
    waitFor(oldBarrier(ring, side, result), ring.round >> 1 & 1);
  }
  __device__ __forceinline__ void awaitEmpty(Ring ring, int side) const {
    if (ring.round > 0) waitFor(emptyBarrier(ring, side ^ 1), (ring.round - 1) >> 1 & 1);
  }
  // Clears what is zero between fibers and sets up the barriers.
  __device__ __forceinline__ void prepare() const {
    const u32 zero[4] = {0, 0, 0, 0};
    for (int i = threadIdx.x; i < 2 * WEIGHTS / 16; i += THREADS) storeShared(weights + i * 16, zero);
    if (threadIdx.x == 0) {
      for (int i = 0; i < 2 * SETS; i++) {
        initialize(full + i * 8, 33);
        initialize(empty + i * 8, 1);
        for (int n = 0; n < 3; n++) initialize(staged + (i * 3 + n) * 8, 4);
        for (int n = 0; n < 2; n++) initialize(old + (i * 2 + n) * 8, 1);
      }
      asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    publish();
    __syncthreads();
  }
  // An item without work.
  __device__ __forceinline__ void skipFetch(Ring ring, int side) const {
    awaitEmpty(ring, side);
    arrive(fullBarrier(ring, side));
    if (threadIdx.x % 32 == 0) arrive(fullBarrier(ring, side));
  }
  __device__ __forceinline__ void skipDelivery(Ring ring, int side) const {
    awaitFull(ring, side);
    if (threadIdx.x % 32 == 0) {
      for (int i = 0; i < 12; i++) arrive(stagedBarrier(ring, side, i / 4));
      for (int i = 0; i < 2; i++) arrive(oldBarrier(ring, side, i));
      arrive(emptyBarrier(ring, side));
    }
    __syncwarp();
  }
};

// The tokens of a tile's rows.
struct Tokens {
  int origin, between, step;  // from fiber to fiber, and along one
  template <int fiber>
  __device__ __forceinline__ int of(int row) const { return origin + row / fiber * between + row % fiber * step; }
};

// A warp's part of copying a set in. du' may be read when `ask` returns. What is read for the last time leaves L2 first.
template <int fiber, class Ask>
__device__ __forceinline__ void fetch(const Pass& p, const Maps& maps, const Sets& sets, Ring ring, int side, const Place& at,
                                      const Tokens& tokens, Ask ask) {
  int lane = threadIdx.x & 31;
  u32 full = sets.fullBarrier(ring, side), notes = sets.notes + ring.set * NOTES + lane * 4;
  u32 tile = sets.tiles + ring.set * SET;
  Place key = at.of(GROUPED ? at.h / p.ratioK : at.h), value = at.of(GROUPED ? at.h / p.ratioU : at.h);
  sets.awaitEmpty(ring, side);
  if (lane == 0) {
    expect(full, SET);
    loadTile(tile, maps.q, full, at, side ? EVICT_FIRST : NORMAL);
    loadTile(tile + TILE, maps.k, full, key, side ? EVICT_FIRST : NORMAL);
    loadTile(tile + 2 * TILE, maps.u, full, value, EVICT_FIRST);
  }
  const float* lse = p.lseOut + (i64)(at.b * p.heads + at.h) * p.lseN;
#pragma unroll
  for (int n = 0; n < 64; n += 32)
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(notes + n * 4), "l"(lse + tokens.of<fiber>(lane + n))
                 : "memory");
  ask();
  asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(full) : "memory");
  if (lane == 0) loadTile(tile + 3 * TILE, maps.dout, full, at, EVICT_FIRST);
  __syncwarp();
}

// A warp's part of taking a set's results to memory. `loads` says that sums are formed where rows are staged.
__device__ __forceinline__ void deliver(const Pass& p, const Maps& maps, const Sets& sets, Ring ring, int side, const Place& at,
                                        bool lastHead, bool storesValues, bool loads) {
  u32 k = sets.tiles + ring.set * SET + TILE, u = k + TILE, dout = u + TILE;
  Place key = at.of(GROUPED ? at.h / p.ratioK : at.h), value = at.of(GROUPED ? at.h / p.ratioU : at.h);
  bool adds = p.accumulate && !loads;
  u64 policy = side ? EVICT_FIRST : NORMAL;
  bool works = threadIdx.x % 32 == 0;
  sets.awaitStaged(ring, side, 0);
  if (works) {
    if (adds) addTile(u, maps.dq, at, policy);
    else storeTile(u, maps.dq, at, policy);
    commitBulk();
  }
  sets.awaitStaged(ring, side, 1);
  if (works && loads) {
    // No warp reads du' any more.
    u32 old = sets.oldBarrier(ring, side, 1);
    if (lastHead) {
      expect(old, TILE);
      loadTile(dout, maps.dk, old, key, NORMAL);
    } else {
      arrive(old);
    }
  }
  if (works && storesValues) {
    storeTile(k, maps.du, value, policy);
    commitBulk();
  }
  sets.awaitStaged(ring, side, 2);
  if (works) {
    if (lastHead) {
      if (adds) addTile(dout, maps.dk, key, policy);
      else storeTile(dout, maps.dk, key, policy);
      commitBulk();
    }
    awaitBulkReads();
    arrive(sets.emptyBarrier(ring, side));
  }
  __syncwarp();
}

// Accumulators to a warp's sixteen rows of a tile, plus what is there if `adds`, in f32 and rounded once; then says so.
__device__ __forceinline__ void stage(const float (&c)[ND][4], u32 tile, bool adds) {
  int lane = threadIdx.x & 31, first = threadIdx.x / 32 % 4 * 16;
#pragma unroll
  for (int n = 0; n < ND; n += 8) {
    u32 place[4], x[4][4];
    float z[8][4];
#pragma unroll
    for (int i = 0; i < 8; i++)
#pragma unroll
      for (int e = 0; e < 4; e++) z[i][e] = c[n + i][e];
#pragma unroll
    for (int i = 0; i < 4; i++) place[i] = tile + swizzled(first + (lane & 15), n + i * 2 + (lane >> 4));
    if (adds) {
#pragma unroll
      for (int i = 0; i < 4; i++)
        loadMatrices(x[i], place[i]);
#pragma unroll
      for (int i = 0; i < 16; i++) {
        float2 y = unpack(x[i / 4][i % 4]);
        float* a = &z[i / 2][i % 2 * 2];
        a[0] += y.x, a[1] += y.y;
      }
    }
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const float(&a)[4] = z[i * 2], (&b)[4] = z[i * 2 + 1];
      storeMatrices(place[i], pack(a[0], a[1]), pack(a[2], a[3]), pack(b[0], b[1]), pack(b[2], b[3]));
    }
  }
}
__device__ __forceinline__ void handOver(u32 barrier) {
  publish();
  __syncwarp();
  if (threadIdx.x % 32 == 0) arrive(barrier);
}

// A consumer's part of a tile. `r` counts the heads of a group, whose parts of dk (and of du where the group
// shares u) add up in `dk` and `du`.
template <int fiber, bool joint, bool hasBeta, bool hasBias, bool sharesValues>
__device__ __forceinline__ void consume(const Pass& p, const Maps& maps, const Sets& sets, Ring ring, const Place& at,
                                        const Tokens& tokens, int r, float (&dk)[ND][4], float (&du)[ND][4], i64 partials,
                                        i64 partial, int parity, bool loads) {
  constexpr int span = fiber < 16 ? 16 : fiber;
  int side = uniform(threadIdx.x / 128) - 1;
  u32 q = sets.tiles + ring.set * SET, k = q + TILE, u = k + TILE, dout = u + TILE;
  u32 notes = sets.notes + ring.set * NOTES, weights = sets.weights + side * WEIGHTS, changes = weights + PANEL;
  bool lastHead = !GROUPED || r == p.ratioK - 1;
  sets.awaitFull(ring, side);
  float z[span / 8][4], dz[span / 8][4];
  float dbeta = formWeights<fiber, joint, hasBeta, hasBias>(
      p, z, dz, q, at.h, (i64)(at.b * p.heads + at.h) * p.lseN,
      [&](int row, int& token, bool& live, float& lse) {
        token = tokens.of<fiber>(row);
        live = true;
        lse = __int_as_float(readShared(notes + row * 4));
      },
      [](int) { return true; });
  // Here no warp reads u any more, and the last tile's weights have been used.
  meet(3 + side);
  if (loads && threadIdx.x % 128 == 0) {
    u32 old = sets.oldBarrier(ring, side, 0);
    expect(old, TILE);
    loadTile(u, maps.dq, old, at, NORMAL);
  }
  placeWeights(weights, z, dz);
  u32 scratch = sets.scratch + side * 32 + parity * 16;
  if constexpr (hasBeta) placeSum(scratch, dbeta);
  publish();
  meet(3 + side);
  float dq[ND][4];
  weigh<0>(dq, changes, k, true);
  weigh<1>(du, weights, dout, !sharesValues);
  if constexpr (hasBeta) {
    if (threadIdx.x % 128 == 0) p.dbeta[(i64)at.h * partials + partial] = sumOfWarps(scratch);
  }
  awaitProducts<1>();
  pin(dq);
  if (loads) sets.awaitOld(ring, side, 0);
  stage(dq, u, loads);
  handOver(sets.stagedBarrier(ring, side, 0));
  weigh<1>(dk, changes, q, !GROUPED);
  meet(3 + side);  // no warp reads k any more
  awaitProducts<1>();
  pin(du);
  if (!sharesValues || p.ratioU == 1 || lastHead) {
    stage(du, k, false);
    if (sharesValues) clear(du);
  }
  handOver(sets.stagedBarrier(ring, side, 1));
  awaitProducts<0>();
  pin(dk);
  if (loads) sets.awaitOld(ring, side, 1);
  else meet(3 + side);  // no warp reads du' any more
  if (lastHead) {
    stage(dk, dout, loads);
    if (GROUPED) clear(dk);
  }
  handOver(sets.stagedBarrier(ring, side, 2));
}
