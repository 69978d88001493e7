// The backward pass of short fibers on a Hopper GPU: see Backward.cu for the formulas and who owns what.
//
// A block is two warpgroups that work on a tile of 64 rows (whole fibers) each and two that copy tiles for them, all for
// as long as there are tiles: loads, products and stores of different tiles overlap. Products are wgmma's, with both
// operands in shared memory: z and dp of all 64 × 64 pairs of rows, of which a warp keeps the columns of its own
// fiber; then p and dz, zero between fibers, as the first operand of dq and, transposed, of du and dk.

#define COPIED 4                                // tiles of a set: q, k, u, du'
#define SET (COPIED * TILE)
#define SETS (D == 128 ? 3 : 5)
#define WEIGHTS (2 * PANEL)                     // a consumer's p and dz
#define NOTES 512                               // marks and ℓ' of a set's rows
#define CHUNKS (D / 8)                          // 16-byte pieces of a row
#define COPY_STEP (128 / CHUNKS)                // rows that a warpgroup copies at once
#define COPY_ROUNDS (64 / COPY_STEP)
#define LANE_STEP (32 / CHUNKS)                 // rows that a warp stores at once
#define LANE_ROWS (16 / LANE_STEP)

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

// Where things lie in shared memory: barriers are a set's and a side's.
struct Sets {
  u32 tiles, weights, notes, full, empty, scratch;
  __device__ __forceinline__ Sets(u32 memory)
      : tiles(memory), weights(memory + SETS * SET), notes(weights + 2 * WEIGHTS), full(notes + SETS * NOTES),
        empty(full + SETS * 16), scratch(empty + SETS * 16) {}
  __device__ __forceinline__ u32 fullBarrier(Ring ring, int side) const { return full + (ring.set * 2 + side) * 8; }
  __device__ __forceinline__ u32 emptyBarrier(Ring ring, int side) const { return empty + (ring.set * 2 + side) * 8; }
  __device__ __forceinline__ void awaitFull(Ring ring, int side) const {
    waitFor(fullBarrier(ring, side), ring.round >> 1 & 1);
  }
  __device__ __forceinline__ void awaitEmpty(Ring ring, int side) const {
    if (ring.round > 0) waitFor(emptyBarrier(ring, side ^ 1), (ring.round - 1) >> 1 & 1);
  }
  // An item without work.
  __device__ __forceinline__ void skip(Ring ring, int side, bool copies) const {
    if (copies) {
      awaitEmpty(ring, side);
      arrive(fullBarrier(ring, side));
      if (threadIdx.x % 128 == 0) arrive(fullBarrier(ring, side));
    } else {
      awaitFull(ring, side);
      __syncwarp();
      if (threadIdx.x % 32 == 0) arrive(emptyBarrier(ring, side));
    }
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

// Copies the rows of `token` to a tile; `bytes` is the tensor's, at the thread's chunk.
__device__ __forceinline__ void copyTile(u32 tile, const T* base, i64 rowStride, const int (&token)[COPY_ROUNDS],
                                         bool full) {
  const char* bytes = reinterpret_cast<const char*>(base);
  i64 rowBytes = rowStride * 2;
#pragma unroll
  for (int n = 0; n < COPY_ROUNDS; n++) {
    u32 to = tile + n * COPY_STEP * 128;
    if (full)
      asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(bytes + token[n] * rowBytes) : "memory");
    else {
      int valid = token[n] >= 0 ? 16 : 0;
      asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to),
                   "l"(bytes + max(token[n], 0) * rowBytes), "r"(valid)
                   : "memory");
    }
  }
  // Two or three tiles a side under way: more would hold up what the other warps ask of memory.
  commit();
#ifdef FUSED
  await<2>();
#else
  await<1>();
#endif
}

// A copying warpgroup's part of a tile whose row `threadIdx.x % 64` has this mark: its token, −1 without one, −2 − t if
// it is padded. Rows that are no tokens become zeros. Where the pass is not the `first` of its launch, `tell` says what this
// block has finished, and du' may be read when `ask` returns.
template <class Tell, class Ask>
__device__ __forceinline__ void fetch(const Pass& p, const Sets& sets, Ring ring, int b, int h, int mark, bool first,
                                      Tell tell, Ask ask) {
  int t = threadIdx.x & 127, chunk = t % CHUNKS;
  int side = uniform(threadIdx.x / 128) & 1;
  u32 notes = sets.notes + ring.set * NOTES, full = sets.fullBarrier(ring, side);
  sets.awaitEmpty(ring, side);
  if (!first) tell();
  if (t < 64) {
    writeShared(notes + t * 4, mark);
    int bytes = mark >= 0 ? 4 : 0;
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(notes + 256 + t * 4),
                 "l"(p.lseOut + (i64)(b * p.heads + h) * p.lseN + max(mark, 0)), "r"(bytes)
                 : "memory");
  }
  meet(1 + side);
  int token[COPY_ROUNDS], least = 0;
#pragma unroll
  for (int n = 0; n < COPY_ROUNDS; n++) {
    token[n] = readShared(notes + (t / CHUNKS + n * COPY_STEP) * 4);
    least = min(least, token[n]);
  }
  bool whole = least >= 0;
  int kHead = GROUPED ? h / p.ratioK : h, uHead = GROUPED ? h / p.ratioU : h;
  u32 tile = sets.tiles + ring.set * SET + swizzled(t / CHUNKS, chunk);
  copyTile(tile, p.q + b * p.qB + h * p.qH + chunk * 8, p.qN, token, whole);
  copyTile(tile + TILE, p.k + b * p.kB + kHead * p.kH + chunk * 8, p.kN, token, whole);
  copyTile(tile + 2 * TILE, p.u + b * p.uB + uHead * p.uH + chunk * 8, p.uN, token, whole);
  if (!first) ask();
  copyTile(tile + 3 * TILE, p.dout + b * p.doB + h * p.doH + chunk * 8, p.doN, token, whole);
  asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(full) : "memory");
  if (t == 0) arrive(full);
}

// The rows that a lane stores of its warp's sixteen: their tokens, negative where there is none.
struct Rows {
  int token[LANE_ROWS];
  // What stands in a gradient that sums over passes: read early, and past L1, since another block may have written it.
  __device__ __forceinline__ void read(uint4 (&old)[LANE_ROWS], const T* base, i64 rowStride) const {
#pragma unroll
    for (int i = 0; i < LANE_ROWS; i++)
      old[i] = token[i] >= 0 ? __ldcg(reinterpret_cast<const uint4*>(base + token[i] * rowStride))
                             : make_uint4(0, 0, 0, 0);
  }
  // Stores accumulators, plus `old` if asked, added in f32 and rounded once. They pass through the warp's sixteen rows
  // of a tile, so that whole rows leave.
  __device__ __forceinline__ void write(float (&c)[ND][4], u32 stage, T* base, i64 rowStride, bool accumulate,
                                        const uint4 (&old)[LANE_ROWS]) const {
    int lane = threadIdx.x & 31, first = threadIdx.x / 32 % 4 * 16;
    int row = first + lane / CHUNKS, chunk = lane % CHUNKS;
    if (accumulate) {
#pragma unroll
      for (int i = 0; i < LANE_ROWS; i++) {
        const u32 x[4] = {old[i].x, old[i].y, old[i].z, old[i].w};
        storeShared(stage + swizzled(row + i * LANE_STEP, chunk), x);
      }
      __syncwarp();
    }
    // Four blocks at a time: a read's latency is met once.
#pragma unroll
    for (int n = 0; n < ND; n += 8) {
      u32 place[4], x[4][4];
#pragma unroll
      for (int i = 0; i < 4; i++) place[i] = stage + swizzled(first + (lane & 15), n + i * 2 + (lane >> 4));
      if (accumulate) {
#pragma unroll
        for (int i = 0; i < 4; i++)
          asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                       : "=r"(x[i][0]), "=r"(x[i][1]), "=r"(x[i][2]), "=r"(x[i][3])
                       : "r"(place[i])
                       : "memory");
#pragma unroll
        for (int i = 0; i < 16; i++) {
          float2 y = unpack(x[i / 4][i % 4]);
          float* z = &c[n + i / 2][i % 2 * 2];
          z[0] += y.x, z[1] += y.y;
        }
      }
#pragma unroll
      for (int i = 0; i < 4; i++) {
        const float(&a)[4] = c[n + i * 2], (&z)[4] = c[n + i * 2 + 1];
        storeMatrices(place[i], pack(a[0], a[1]), pack(a[2], a[3]), pack(z[0], z[1]), pack(z[2], z[3]));
      }
    }
    __syncwarp();
    uint4 x[LANE_ROWS];
#pragma unroll
    for (int i = 0; i < LANE_ROWS; i++) x[i] = loadShared(stage + swizzled(row + i * LANE_STEP, chunk));
#pragma unroll
    for (int i = 0; i < LANE_ROWS; i++)
      if (token[i] >= 0) storeGlobal(base + token[i] * rowStride, x[i]);
    __syncwarp();
  }
};

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

// A consumer's part of a tile. `r` counts the heads of a group, whose parts of dk (and of du where the group
// shares u) add up in `dk` and `du`.
template <int fiber, bool joint, bool hasBeta, bool hasBias, bool sharesValues>
__device__ __forceinline__ void consume(const Pass& p, const Sets& sets, Ring ring, int b, int group, int r, float (&dk)[ND][4],
                                        float (&du)[ND][4], i64 partials, i64 partial, int parity) {
  constexpr int span = fiber < 16 ? 16 : fiber, NB = span / 8;
  int lane = threadIdx.x & 31, warp = uniform(threadIdx.x / 32 & 3), g = lane >> 2, c = (lane & 3) * 2;
  int first = warp * 16, base = first / span * span, consumer = uniform(threadIdx.x / 128) - 2;
  int h = group * (GROUPED ? p.ratioK : 1) + r;
  u32 q = sets.tiles + ring.set * SET, k = q + TILE, u = k + TILE, dout = u + TILE;
  u32 notes = sets.notes + ring.set * NOTES, weights = sets.weights + consumer * WEIGHTS, changes = weights + PANEL;
  bool lastHead = !GROUPED || r == p.ratioK - 1;
  i64 lseRow = (i64)(b * p.heads + h) * p.lseN;

  sets.awaitFull(ring, consumer);
  publish();
  float z[NB][4], dz[NB][4], dot[2] = {0.f, 0.f}, dlse[2], total[2], carried[2], dbeta = 0.f, beta = 0.f;
  int mark[2], token[2];
  Rows rows;
  uint4 old[LANE_ROWS];
  {
    float s[8][4], ds[8][4];
    beginProducts();
    startTiles(s, operand(q, 16), operand(k, 16));
    commitProducts();
    startTiles(ds, operand(dout, 16), operand(u, 16));
    commitProducts();
#pragma unroll
    for (int i = 0; i < LANE_ROWS; i++) {
      int x = readShared(notes + (first + lane / CHUNKS + i * LANE_STEP) * 4);
      rows.token[i] = x < -1 ? -2 - x : x;
    }
#pragma unroll
    for (int half = 0; half < 2; half++) {
      int row = first + g + half * 8;
      mark[half] = readShared(notes + row * 4);
      token[half] = mark[half] < -1 ? -2 - mark[half] : mark[half];
      bool live = mark[half] >= 0;
      total[half] = live ? inverseLog(__int_as_float(readShared(notes + 256 + row * 4))) : INFINITE;
      carried[half] = joint && live ? p.lseIn[lseRow + token[half]] * LOG2E : 0.f;
      dlse[half] = live && p.dlseOut ? __ldcg(p.dlseOut + lseRow + token[half]) : 0.f;
    }
    if constexpr (hasBeta) beta = p.beta[h] * LOG2E;
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
        bool seen = fiber >= 16 || query / fiber == key / fiber;
        // A causal fiber's padding comes behind the queries that are none.
        if (!CAUSAL) seen = seen && readShared(notes + key * 4) >= 0;
        z[n][e] = seen ? exp2Fast(x - total[e >> 1]) : 0.f;
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
  // Here no warp reads u any more, and the last tile's weights have been used.
  meet(3 + consumer);
#pragma unroll
  for (int n = 0; n < NB; n += 2) {
    u32 place = swizzled(first + (lane & 15), base / 8 + n + (lane >> 4));
    storeMatrices(weights + place, pack(z[n][0], z[n][1]), pack(z[n][2], z[n][3]), pack(z[n + 1][0], z[n + 1][1]),
                  pack(z[n + 1][2], z[n + 1][3]));
    storeMatrices(changes + place, pack(dz[n][0], dz[n][1]), pack(dz[n][2], dz[n][3]),
                  pack(dz[n + 1][0], dz[n + 1][1]), pack(dz[n + 1][2], dz[n + 1][3]));
  }
  u32 scratch = sets.scratch + consumer * 32 + parity * 16;
  if constexpr (hasBeta) {
#pragma unroll
    for (int step = 16; step > 0; step /= 2) dbeta += __shfl_xor_sync(~0u, dbeta, step);
    if (lane == 0) writeShared(scratch + warp * 4, __float_as_int(dbeta));
  }
  publish();
  meet(3 + consumer);
  // Behind the fence, which would wait for it.
  if (p.accumulate) rows.read(old, p.dq + b * p.dqB + h * p.dqH + lane % CHUNKS * 8, p.dqN);
  float dq[ND][4];
  weigh<0>(dq, changes, k, true);
  weigh<1>(du, weights, dout, !sharesValues);
  if constexpr (hasBeta) {
    if (threadIdx.x % 128 == 0) {
      float sum = 0.f;
#pragma unroll
      for (int w = 0; w < 4; w++) sum += __int_as_float(readShared(scratch + w * 4));
      p.dbeta[(i64)h * partials + partial] = sum;
    }
  }
  int chunk = lane % CHUNKS * 8;
  awaitProducts<1>();
  pin(dq);
  rows.write(dq, u, p.dq + b * p.dqB + h * p.dqH + chunk, p.dqN, p.accumulate, old);
  T* dkBase = p.dk + b * p.dkB + group * p.dkH + chunk;
  if (p.accumulate && lastHead) rows.read(old, dkBase, p.dkN);
  weigh<1>(dk, changes, q, !GROUPED);
  awaitProducts<1>();
  pin(du);
  if (!sharesValues || p.ratioU == 1 || lastHead) {
    rows.write(du, u, p.du + b * p.duB + (GROUPED ? h / p.ratioU : h) * p.duH + chunk, p.duN, false, old);
    if (sharesValues) clear(du);
  }
  awaitProducts<0>();
  pin(dk);
  if (lastHead) {
    rows.write(dk, u, dkBase, p.dkN, p.accumulate, old);
    if (GROUPED) clear(dk);
  }
  __syncwarp();
  if (lane == 0) arrive(sets.emptyBarrier(ring, consumer));
}

// Clears what is zero between fibers and sets up the barriers.
__device__ __forceinline__ void prepare(const Sets& sets) {
  const u32 zero[4] = {0, 0, 0, 0};
  for (int i = threadIdx.x; i < 2 * WEIGHTS / 16; i += THREADS) storeShared(sets.weights + i * 16, zero);
  if (threadIdx.x == 0)
    for (int i = 0; i < 2 * SETS; i++) {
      initialize(sets.full + i * 8, 129);
      initialize(sets.empty + i * 8, 4);
    }
  __syncthreads();
}

// The tile with this number: neighbors in a head's fibers first.
struct Tile {
  int place, group, b;
  __device__ __forceinline__ Tile(int tile, int tiles, int groups)
      : place(tile % tiles), group(tile / tiles % groups), b(tile / tiles / groups) {}
};
