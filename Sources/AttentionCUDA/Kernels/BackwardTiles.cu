// The backward pass of short fibers on a Hopper GPU: see Backward.cu for the formulas and who owns what.
//
// A block is two warpgroups that work on a tile of 64 rows (whole fibers) each and two that copy tiles for them, all for
// as long as there are tiles: loads, products and stores of different tiles overlap. Products are wgmma's, with both
// operands in shared memory: z and dp of all 64 × 64 pairs of rows, of which a warp keeps the columns of its own
// fiber; then p and dz, zero between fibers, as the first operand of dq and, transposed, of du and dk.

// Registers of a thread that copies and of one that works: sums over the heads of a group take more.
#if GROUPED
#define COPYING "32"
#define WORKING "224"
#else
#define COPYING "40"
#define WORKING "216"
#endif
#define NOTES 512                               // marks and ℓ' of a set's rows
#define CHUNKS (D / 8)                          // 16-byte pieces of a row
#define COPY_STEP (128 / CHUNKS)                // rows that a warpgroup copies at once
#define COPY_ROUNDS (64 / COPY_STEP)
#define LANE_STEP (32 / CHUNKS)                 // rows that a warp stores at once
#define LANE_ROWS (16 / LANE_STEP)

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
          loadMatrices(x[i], place[i]);
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

// A consumer's part of a tile. `r` counts the heads of a group, whose parts of dk (and of du where the group
// shares u) add up in `dk` and `du`.
template <int fiber, bool joint, bool hasBeta, bool hasBias, bool sharesValues>
__device__ __forceinline__ void consume(const Pass& p, const Sets& sets, Ring ring, int b, int group, int r, float (&dk)[ND][4],
                                        float (&du)[ND][4], i64 partials, i64 partial, int parity) {
  constexpr int span = fiber < 16 ? 16 : fiber, NB = span / 8;
  int lane = threadIdx.x & 31, first = uniform(threadIdx.x / 32 & 3) * 16, consumer = uniform(threadIdx.x / 128) - 2;
  int h = group * (GROUPED ? p.ratioK : 1) + r;
  u32 q = sets.tiles + ring.set * SET, k = q + TILE, u = k + TILE, dout = u + TILE;
  u32 notes = sets.notes + ring.set * NOTES, weights = sets.weights + consumer * WEIGHTS, changes = weights + PANEL;
  bool lastHead = !GROUPED || r == p.ratioK - 1;
  i64 lseRow = (i64)(b * p.heads + h) * p.lseN;

  sets.awaitFull(ring, consumer);
  publish();
  float z[NB][4], dz[NB][4];
  Rows rows;
  uint4 old[LANE_ROWS];
  float dbeta = formWeights<fiber, joint, hasBeta, hasBias>(
      p, z, dz, q, h, lseRow,
      [&](int row, int& token, bool& live, float& lse) {
        int mark = readShared(notes + row * 4);
        live = mark >= 0;
        token = mark < -1 ? -2 - mark : mark;
        lse = __int_as_float(readShared(notes + 256 + row * 4));
      },
      // A causal fiber's padding comes behind the queries that are none.
      [&](int key) { return CAUSAL || readShared(notes + key * 4) >= 0; });
#pragma unroll
  for (int i = 0; i < LANE_ROWS; i++) {
    int x = readShared(notes + (first + lane / CHUNKS + i * LANE_STEP) * 4);
    rows.token[i] = x < -1 ? -2 - x : x;
  }
  // Here no warp reads u any more, and the last tile's weights have been used.
  meet(3 + consumer);
  placeWeights(weights, z, dz);
  u32 scratch = sets.scratch + consumer * 32 + parity * 16;
  if constexpr (hasBeta) placeSum(scratch, dbeta);
  publish();
  meet(3 + consumer);
  // Behind the fence, which would wait for it.
  if (p.accumulate) rows.read(old, p.dq + b * p.dqB + h * p.dqH + lane % CHUNKS * 8, p.dqN);
  float dq[ND][4];
  weigh<0>(dq, changes, k, true);
  weigh<1>(du, weights, dout, !sharesValues);
  if constexpr (hasBeta) {
    if (threadIdx.x % 128 == 0) p.dbeta[(i64)h * partials + partial] = sumOfWarps(scratch);
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

