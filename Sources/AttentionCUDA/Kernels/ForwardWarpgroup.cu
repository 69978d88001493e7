// The forward pass of long fibers on Hopper: 16-bit elements, head widths 64 and 128.
//
// Route of the data: k, u and q rows → a ring in shared memory (swizzled) → rotated in place →
// z (wgmma) → softmax in registers → times u (wgmma) → u' rows and ℓ'.
//
// A block, one a multiprocessor, is four warpgroups: one copies, one rotates, two attend. It goes along a
// fiber in steps of 128 queries, 64 to each consumer, and keeps the keys that the next step sees, so that a
// window or a fiber that fits the ring is read and rotated once. What does not fit is walked one step at a time.
//
// Whole tiles are copied by tensor memory access, those at the ends of fibers or sequences by cp.async: neither N nor
// the strides need be a multiple of anything. A consumer holds its queries as fragments: from shared memory they
// would take as much of its bandwidth as the keys do.
// Macros: STAGES (tiles of k and u in the ring), TILES (2 to 4: no block sees more of them; 0: no bound),
// WINDOW (1: some fiber is longer than the sliding window), EVEN (1: that window is a whole number of tiles, and TILES
// one more), PACKED (1: rows are turned in their own type), FOLLOWS (1: begins with the heads that a pair's launch has
// written, while that goes on with others: see CUDAFollowedPair.swift).

#define STAGE (16 * D * 2)  // a warp's staged output rows, as tensor memory access reads them

__device__ __forceinline__ void consume(const Parameters& all, u32 memory, const Gates& gates, int group) {
  int lane = threadIdx.x & 31, warp = uniform(threadIdx.x / 32 & 3);
  int g = lane >> 2, c = (lane & 3) * 2, first = warp * 16;
  u32 full = gates.full, empty = gates.empty;
  u32 queryFull = gates.queryFull + group * 8, queryEmpty = gates.queryEmpty + group * 8;
  u32 queries = memory + STAGES * SLOT + group * TILE;
#if BOTH
  int untaken = 3;  // parities of the staged rows of both passes
#else
  u32 stage = memory + STAGES * SLOT + 2 * TILE + (group * 4 + warp) * STAGE;
#endif
  int taken = 0;  // blocks of queries so far
  Place held(0);  // where the first tile that is held lies
  float scale = passOf(all, 0).scale;
  i64 rowStep = passOf(all, 0).stride * passOf(all, 0).oN;

  Walk<FORWARD> walk;
  walk.begin(all, gates.dealer, false);
  while (walk.next(all)) {
    const WalkedForward& p = passOf(all, walk.upper);
    if (BOTH) rowStep = p.stride * p.oN;
    int from = walk.low;  // the first tile that is held
    auto release = [&]() {
      if (lane == 0) arrive(empty + held.slot * 8);
      held.next();
      from++;
    };
    auto skip = [&]() {
      waitFor(full + held.slot * 8, held.round);
      release();
    };
    i64 lseRow = (i64)(walk.b * p.heads + walk.h) * p.lseN + walk.origin;
    T* outRow = p.out + walk.b * p.oB + walk.h * p.oH + walk.origin * p.oN;
    float beta = BETA && (!BOTH || p.beta) ? toFloat(p.beta[walk.h]) : 0.f;
    const float* bias = p.bias ? p.bias + (i64)walk.h * p.biasStride : nullptr;
    for (int block = walk.live + group; block < walk.last; block += 2) {  // padding: rows of zeros
      if (block < walk.first) continue;
#pragma unroll 1
      for (int r = 0; r < 16; r++) {
        int j = block * 64 + first + r;
        if (j < walk.firstRow || j >= walk.length) continue;
        if (lane < D / 8) storeGlobal(outRow + j * rowStep + lane * 8, make_uint4(0, 0, 0, 0));
        if (lane == 0 && p.lseOut) p.lseOut[lseRow + (i64)j * p.stride] = -INFINITE;
      }
    }
    for (int block = walk.first + (group ^ walk.turn); block < walk.live; block += 2) {
      int position = block * 64 + first + g;
      float carried[2] = {0.f, 0.f};
      auto carry = [&]() {
#if JOINT
#pragma unroll
        for (int half = 0; half < 2; half++) {
          int j = position + half * 8;
          if (IS_JOINT && j >= walk.firstRow && j < walk.keys) carried[half] = p.lseIn[lseRow + (i64)j * p.stride];
        }
#endif
      };
      if (!BOTH) carry();
      float o[ND][4], top[2] = {-INFINITE, -INFINITE}, sum[2] = {0.f, 0.f};
      {
        int low = CAUSAL || APART ? walk.lowTile(p, block) : 0, high = CAUSAL || APART && !walk.upper ? block : walk.high;
        // Tiles before the next own block's first are not needed again.
        int keep = block + 2 < walk.live ? (CAUSAL || APART ? walk.lowTile(p, block + 2) : 0) : high + 1;
        if (APART) keep = min(keep, high + 1);  // tiles that this consumer skips are waited for
#pragma unroll 1
        while (from < low) skip();
        Place place = held;
        u32 a[D / 16][4];
        waitFor(queryFull, taken & 1);
        if (BOTH) carry();  // the copying warps have waited for the unit's ℓ
#pragma unroll
        for (int k = 0; k < D / 16; k++)
          loadMatrices(a[k], queries + swizzled(first + (lane & 15), k * 2 + (lane >> 4)));
        taken++;
        // Once a product has taken the fragments: a warp's arrival may overtake its loads.
        auto freeQueries = [&]() {
          __syncwarp();
          if (lane == 0) arrive(queryEmpty);
        };

        int delta = (block - high) * 64 + first + g - c;  // from the lane's first key of the last tile
        // z = q · kᵀ of the next tile and o (+)= weights · u of one, both under way when these return.
        auto score = [&](float(&s)[8][4]) {
          u32 keys = uniform(descriptor(memory + place.slot * SLOT, 16));
          waitFor(full + place.slot * 8, place.round);
          place.next();
          beginProducts();
          start<0>(s, a[0], keys);
#pragma unroll
          for (int k = 1; k < D / 16; k++) add<0>(s, a[k], keys + (k / 4 * PANEL + k % 4 * 32) / 16);
          commitProducts();
          return keys;
        };
        auto weigh = [&](const u32(&weights)[4][4], u32 keys, auto isFirst) {
          u32 values = keys + TILE / 16 + ((PANEL - 16) >> 4 << 16);
          beginProducts();
          if constexpr (decltype(isFirst)::value != 0) start<1>(o, weights[0], values);
          else add<1>(o, weights[0], values);
#pragma unroll
          for (int k = 1; k < 4; k++) add<1>(o, weights[k], values + k * 2048 / 16);
          commitProducts();
        };
#if TILES
        // All scores of a row fit the registers: one maximum, and the products of a tile run beside the
        // arithmetic on the next.
        auto attend = [&](auto tiles) {
          constexpr int count = decltype(tiles)::value;
          float s[count][8][4], best[2] = {-INFINITE, -INFINITE};
          u32 keys[count];
#pragma unroll
          for (int i = 0; i < count; i++) {
            keys[i] = score(s[i]);
            if (i == 0) freeQueries();
          }
          auto meet = [&](auto index) {
            constexpr int i = decltype(index)::value, after = count - 1 - i;
            awaitProducts<after>();
            pin(s[i]);
            mask<!CAUSAL || after == 0, SLIDING ? i <= 1 : after == 0>(p, walk, s[i], block, low + i,
                                                                       delta + after * 64, carried, beta, bias);
            largest(best, s[i]);
            asm volatile("" : "+f"(best[0]), "+f"(best[1]));  // now, not behind the next wait
          };
          constexpr bool merged = EVEN && count == TILES;  // the first tile takes the last one's scores
          if constexpr (merged) {
            auto meetWhole = [&](auto index) {
              constexpr int i = decltype(index)::value + 1;
              awaitProducts<count - 1 - i>();
              pin(s[i]);
              largest(best, s[i]);
              asm volatile("" : "+f"(best[0]), "+f"(best[1]));
            };
            each<count - 2>(meetWhole);
            awaitProducts<0>();
            pin(s[0]);
            pin(s[count - 1]);
            merge(p, s[0], s[count - 1], delta, carried, beta);
            largest(best, s[0]);
          } else {
            each<count>(meet);
          }
          top[0] = quadMax(best[0]);
          top[1] = quadMax(best[1]);
          auto gather = [&](auto index) {
            constexpr int i = decltype(index)::value;
            u32 weights[4][4];
            pin(s[i]);
            exponentiate(s[i], top, sum, scale);
            packScores(weights, s[i]);
            if constexpr (merged && i == 0) {
              u32 last[4][4];
              divideWeights(weights, last, delta);
              weigh(last, keys[count - 1], Index<1>());
              weigh(weights, keys[0], Index<0>());
            } else {
              weigh(weights, keys[i], Index<i == 0>());
            }
          };
          each<count - merged>(gather);
          awaitProducts<0>();
        };
        int count = high - low + 1;
        if (count == 1) attend(Index<1>());
#if TILES > 2
        else if (count == 2) attend(Index<2>());
#endif
#if TILES > 3
        else if (count == 3) attend(Index<3>());
#endif
        else attend(Index<TILES>());
#pragma unroll 1
        while (from < keep) release();
#else
        // Scores → exponentials below a reference that follows the rows' maximum. It moves only when the
        // maximum has risen by a factor of 2⁸: sums and products have room for that, and what was summed rarely
        // needs to be scaled again. The products with u of a tile run beside the exponentials of the next.
        float s[8][4], factor[2];
        u32 weights[4][4];
        auto soften = [&](int tile) {
          pin(s);
          mask<true, true>(p, walk, s, block, tile, delta + (high - tile) * 64, carried, beta, bias);
          float best[2] = {-INFINITE, -INFINITE};
          largest(best, s);
          bool rescale = false;
          if (__any_sync(~0u, (best[0] - top[0]) * scale > 8.f || (best[1] - top[1]) * scale > 8.f)) {
#pragma unroll
            for (int half = 0; half < 2; half++) {
              float next = quadMax(best[half]);
              bool raise = (next - top[half]) * scale > 8.f;
              // Nothing was summed below a reference of −∞.
              factor[half] = raise && top[half] > -INFINITE ? exp2Fast((top[half] - next) * scale) : 1.f;
              if (raise) top[half] = next;
              sum[half] *= factor[half];
            }
            rescale = factor[0] != 1.f || factor[1] != 1.f;
          }
          exponentiate(s, top, sum, scale);
          pin(s);
          return rescale;
        };
        clear(o);
        u32 keys = score(s);
        freeQueries();
        awaitProducts<0>();
        soften(low);
        packScores(weights, s);
        for (int tile = low + 1; tile <= high; tile++) {
          u32 next = score(s);
          weigh(weights, keys, Index<0>());
          keys = next;
          awaitProducts<1>();
          bool rescale = soften(tile);
          awaitProducts<0>();
          if (tile - 1 < keep) release();
          if (rescale) {
#pragma unroll
            for (int n = 0; n < ND; n++)
              o[n][0] *= factor[0], o[n][1] *= factor[0], o[n][2] *= factor[1], o[n][3] *= factor[1];
          }
          packScores(weights, s);
        }
        weigh(weights, keys, Index<0>());
        awaitProducts<0>();
        if (high < keep) release();
#endif
      }
      float factor[2], lse[2];
#pragma unroll
      for (int half = 0; half < 2; half++) {
        float total = quadSum(sum[half]);
        bool any = position + half * 8 < walk.keys && total > 0.f;
        factor[half] = any ? reciprocal(total) : 0.f;
        lse[half] = any ? top[half] * p.rawScale + beta + log2Fast(total) * LN2 : -INFINITE;
      }
#if BOTH
      // Rows leave by a warp that also tells when they have.
      int which = group * 2 + walk.upper;
      waitFor(gates.taken(which), untaken >> walk.upper & 1);
      untaken ^= 1 << walk.upper;
      u32 stage = memory + STAGES * SLOT + (2 + which) * TILE + warp * 2048;
      bool whole = walk.isBox(p, block);
#else
      // Rows leave by tensor memory access, once it has read those before, or 128 bytes at a time.
      if (lane == 0) asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory");
      __syncwarp();
#endif
#pragma unroll
      for (int n = 0; n < ND; n += 2)
        storeMatrices(stage + n / 8 * STAGE_PANEL + (lane & 15) * 128 + (((n + (lane >> 4)) ^ lane) & 7) * 16,
                      pack(o[n][0] * factor[0], o[n][1] * factor[0]), pack(o[n][2] * factor[1], o[n][3] * factor[1]),
                      pack(o[n + 1][0] * factor[0], o[n + 1][1] * factor[0]),
                      pack(o[n + 1][2] * factor[1], o[n + 1][3] * factor[1]));
      int j0 = block * 64 + first;
#if !BOTH
      int line = divide(walk.origin, p.byStride);
      bool whole = j0 >= walk.firstRow && j0 + 16 <= walk.length && line + j0 + 16 <= p.rows;
#endif
      if (whole) {
#if BOTH
        if (c == 0)
#pragma unroll
          for (int half = 0; half < 2; half++)
            asm volatile("st.shared.f32 [%0], %1;" ::"r"(gates.leaving(which) + (first + g + half * 8) * 4), "f"(lse[half])
                         : "memory");
        publish();
#else
        publish();
        __syncwarp();
        if (lane == 0) {
#pragma unroll
          for (int panel = 0; panel < D / 64; panel++)
            asm volatile("cp.async.bulk.tensor.5d.global.shared::cta.bulk_group [%0, {%1, %2, %3, %4, %5}], [%6];" ::"l"(
                             &p.outMap),
                         "r"(panel * 64), "r"(line + j0), "r"(walk.origin - line * p.stride), "r"(walk.h), "r"(walk.b),
                         "r"(stage + panel * STAGE_PANEL)
                         : "memory");
          asm volatile("cp.async.bulk.commit_group;" ::: "memory");
        }
#endif
      } else {
        __syncwarp();
#pragma unroll 1
        for (int r = lane / 8; r < 16; r += 4) {
          int j = j0 + r;
#pragma unroll
          for (int panel = 0; panel < D / 64; panel++) {
            uint4 x = loadShared(stage + panel * STAGE_PANEL + r * 128 + (((lane ^ r) & 7) << 4));
            if (j >= walk.firstRow && j < walk.length) storeGlobal(outRow + j * rowStep + panel * 64 + lane % 8 * 8, x);
          }
        }
      }
      // Behind the rows, whose fence would wait for these stores.
#pragma unroll
      for (int half = 0; half < 2; half++) {
        int j = position + half * 8;
        bool mine = j >= walk.firstRow && j < walk.length && (lane & 3) == 0 && p.lseOut;
        if (mine && !(BOTH && whole)) p.lseOut[lseRow + (i64)j * p.stride] = lse[half];
      }
#if BOTH
      __syncwarp();
      if (lane == 0) arrive(gates.staged(which));
#endif
    }
#pragma unroll 1
    while (from <= walk.high) skip();
  }
  if (lane == 0) asm volatile("cp.async.bulk.wait_group 0;" ::: "memory");
}

extern "C" __global__ void __launch_bounds__(THREADS, 1) forwardWarpgroup(const __grid_constant__ Parameters p) {
  extern __shared__ __align__(1024) char dynamic[];
  u32 memory = shared32(dynamic);
  Gates gates(memory + STAGES * SLOT + (BOTH ? 6 : 4) * TILE);
  if (Walk<FORWARD>::DEALT && threadIdx.x == 0) Dealer::open(gates.dealer);
#if FOLLOWS
  // Blocks of the launch before do not need this multiprocessor any more: all have begun, else this launch would not have.
  // Nothing is read before a head's rows are there, as what came before that launch can be seen from then on.
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
  if (threadIdx.x == 0) {
    bool isLate = blockIdx.x >= p.lateFrom && blockIdx.x < p.lateTo;
    awaitHead(p, isLate ? max(0, p.batch * p.heads - 2) : divide(blockIdx.x, p.byFibers));
  }
  gates.open(2);
#else
  gates.open(2);
  followPrevious();
#endif
  // Registers go to the warpgroups that hold accumulators: 40 + 72 + 2 · 200 = 4 · 128. Behind a pair nothing is turned.
  int group = uniform(threadIdx.x / 128);
  if (group == 0) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(FOLLOWS ? 56 : 40));
    fetch<FORWARD>(p, memory, gates);
  } else if (group == 1) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(FOLLOWS ? 56 : 72));
#if BOTH
    int warp = uniform(threadIdx.x / 32 & 3);
    if (warp == 0) turn<FORWARD>(passOf(p, 0), memory, gates);
    else takeRows(p, memory, gates, warp == 1, warp - 2);
#else
    turn<FORWARD>(p, memory, gates);
#endif
  } else {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 200;");
    consume(p, memory, gates, group - 2);
  }
#if FOLLOWS
  // Who waits for this launch relies on the one before, too.
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
