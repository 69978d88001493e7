// The backward pass of sliding windows of at most 128 positions on Hopper in one launch: 16-bit elements, head width 128, heads with
// keys of their own, D known. Backward.cu states the formulas; five products of every pair of tiles instead of the seven of
// two roles (BackwardWarpgroup.cu), and q, k, u and du' are read once.
//
// A block goes along a fiber. Queries of a tile see the keys of three: their own one and the two before. The tiles
// of keys are the two consumers' in turn, which form zᵀ = k·qᵀ → pᵀ, dpᵀ = u·du'ᵀ → dzᵀ, du += pᵀ·du', dk += dzᵀ·q for three tiles
// of queries. All of them leave dz in shared memory, where the consumer whose keys are as far on as the queries has had two of the
// three tiles, takes up the other one's and forms the whole dq = dz·k: half a period later the other one does.
//
// Macros: TURNED (1: dq is added to rows that the pass above has left turned), BELOW (1: there may be a pass below, which
// takes ⟨du, u⟩).

// c += a · b for 64 rows of a in shared memory, both operands' panels given by descriptors; 32 of b's channels are c's columns.
__device__ __forceinline__ void addChannels(float (&c)[4][4], u32 a, u32 b) {
  asm volatile("{ .reg .b64 a, b; mov.b64 a, {%16, 0x40000040}; mov.b64 b, {%17, 0x40000040};\n" WGMMA(32)
               "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15}, a, b, 1, 1, 1, 0, 1; }"
               : QUAD(INOUT, 0), QUAD(INOUT, 1), QUAD(INOUT, 2), QUAD(INOUT, 3)
               : "r"(a), "r"(b));
}
__device__ __forceinline__ void pin(float (&c)[4][4]) {
  asm volatile("" : QUAD(INOUT, 0), QUAD(INOUT, 1), QUAD(INOUT, 2), QUAD(INOUT, 3)::"memory");
}

// A lane's four sums of either half, turned back: two by `w`, two by `eighth` more.
__device__ __forceinline__ void turnFour(float (&low)[4], float (&high)[4], float4 w, float4 eighth) {
#pragma unroll
  for (int half = 0; half < 2; half++) {
    if (half)
      w = make_float4(w.x * eighth.x - w.y * eighth.y, w.y * eighth.x + w.x * eighth.y, w.z * eighth.z - w.w * eighth.w,
                      w.w * eighth.z + w.z * eighth.w);
    float x0 = low[half * 2], x1 = low[half * 2 + 1], y0 = high[half * 2], y1 = high[half * 2 + 1];
    low[half * 2] = x0 * w.x + y0 * w.y;
    low[half * 2 + 1] = x1 * w.z + y1 * w.w;
    high[half * 2] = y0 * w.x - x0 * w.y;
    high[half * 2 + 1] = y1 * w.z - x1 * w.w;
  }
}
__device__ __forceinline__ float4 loadFour(u32 address) {
  uint4 x = loadShared(address);
  return make_float4(__uint_as_float(x.x), __uint_as_float(x.y), __uint_as_float(x.z), __uint_as_float(x.w));
}

// How many tiles of queries, of keys, of dq and of dz one tile apart a consumer has met before the first tile of a fiber, and how
// many of dk it has sent: three bits of a word each, for want of registers.
struct Counters {
  u32 bits;
  // The number of a fiber's tile.
  __device__ __forceinline__ int at(int shift, int tile) const { return (bits >> shift) + tile; }
  __device__ __forceinline__ void add(int shift, int count) {
    bits = bits & ~(7u << shift) | ((bits >> shift) + count & 7) << shift;
  }
};
#define QUERIES_AT 0
#define KEYS_AT 3
#define RESULTS_AT 6
#define CROSSES_AT 9
#define SENT_AT 12

__device__ __forceinline__ void consume(const WalkedBackward& p, const Window& at, Held& held, int group) {
  int lane = heldThread() & 31, warp = uniform(threadIdx.x / 32 & 3);
  int g = lane >> 2, c = (lane & 3) * 2, row0 = warp * 16;
  // The lane's places in a tile of results and in a panel of dz, whose rows are queries: formed again whenever they are needed,
  // for want of registers.
  auto again = [&]() {
    int x = lane;
    asm volatile("" : "+r"(x));
    return x;
  };
  auto stageLane = [&]() {
    int x = again();
    return (row0 + (x & 15)) * 128 + (((x >> 4 ^ x) & 7) << 4);
  };
  auto weightsLane = [&]() {
    int x = again();
    return at.weights + ((x >> 4) * 8 + (x & 7)) * 128 + (((warp * 2 + (x >> 3 & 1)) ^ (x & 7)) << 4);
  };
  float dk[ND][4], du[ND][4];
  Counters counters{0};
  int cursor = (int)((i64)p.walks * blockIdx.x / gridDim.x), first, last;
  while (true) {
    __syncwarp();
    {
      Stretch walk(p);
      walk.cursor = cursor;
      if (!uniform(walk.next(p))) break;
      cursor = walk.cursor;
      first = walk.first, last = walk.last;
      held.lseRow = (i64)(walk.b * p.heads + walk.h) * p.lseN + walk.origin;
      held.part = ((walk.h * p.batch + walk.b) * p.fibers + walk.fiber) * p.tilesPerFiber;
      held.beta = BETA ? toFloat(p.beta[walk.h]) : 0.f;
      counters.add(QUERIES_AT, -walk.first);
      counters.add(KEYS_AT, -walk.low);
      counters.add(RESULTS_AT, -walk.first);
      counters.add(CROSSES_AT, -max(walk.first, 1));
    }
    __syncwarp();
    auto low = [&]() { return max(first - 2, 0); };
    auto end = [&]() { return min(last + 2, p.chunks); };
    // Tiles that this consumer has no use for (any more).
    auto releaseQueries = [&](int tile, int end) {
#pragma unroll 1
      for (; tile < end; tile++) {
        int entry = counters.at(QUERIES_AT, tile), slot = entry & 1;
        waitFor(at.queryFull + slot * 8, entry >> 1 & 1);
        waitFor(at.doutFull + slot * 8, entry >> 1 & 1);
        __syncwarp();
        if (lane == 0) arrive(at.queryEmpty + slot * 8), arrive(at.doutDone + slot * 8);
      }
    };
    auto releaseKeys = [&](int tile, int end) {
#pragma unroll 1
      for (; tile < end; tile++) {
        int entry = counters.at(KEYS_AT, tile), slot = entry & 3;
        waitFor(at.keyFull + slot * 8, entry >> 2 & 1);
        arriveAt(at.keyEmpty + slot * 8, lane);
      }
    };
    int key = uniform(low() + ((low() ^ group) & 1)), until = first;
    if (key > until) releaseQueries(until, until + 1), until++;
#pragma unroll 1
    for (; key < last; key += 2) {
      int entry = counters.at(KEYS_AT, key), slot = uniform(entry & 3);
      u32 ownKeys = uniform(descriptor(at.keys + slot * TILE, 16)), ownValues = ownKeys + (4 * TILE >> 4);
      waitFor(at.keyFull + slot * 8, entry >> 2 & 1);
      clear(dk);
      clear(du);
      int tile = max(key, first);
      // Of keys that are not own ones only what own queries see.
      until = min(key + 3, key < first ? last : end());
#pragma unroll 1
      while (true) {
        int place = counters.at(QUERIES_AT, tile), side = uniform(place & 1);
        u32 columns = at.sums + side * 768 + c * 4;
        u32 own = uniform(descriptor(at.queries + side * TILE, 16));
        waitFor(at.queryFull + side * 8, place >> 1 & 1);
        float s[8][4], d[8][4];
        u32 weights[4][4];
        multiplyTiles(s, ownKeys, own);
        Rows rows;
        if ((JOINT || BETA) && tile == key) {
#pragma unroll
          for (int half = 0; half < 2; half++)
            if (JOINT)
              asm volatile("ld.shared.f32 %0, [%1];"
                           : "=f"(rows.carried[half])
                           : "r"(at.sums + side * 768 + 512 + (row0 + g + half * 8) * 4)
                           : "memory");
          rows.beta = held.beta;
        }
        mask<KEY>(p, s, 0, tile - key, 0, row0 + g - c, rows);
        float diagonal[2] = {0.f, 0.f};
        exponentiate(s, columns, p.scale);
        if ((JOINT || BETA) && tile == key) takeOwn(diagonal, s, row0 + g - c);
        packScores(weights, s);
        waitFor(at.valueFull + slot * 8, entry >> 2 & 1);
        waitFor(at.doutFull + side * 8, place >> 1 & 1);
        weighGradients<true>(d, du, weights, ownValues, own + (2 * TILE >> 4), columns, p.rawScale);
        // Own keys come again with the queries that see them as the last ones.
        bool isLast = last <= tile, lastUse = tile != key + 2 || isLast;
        if (lastUse) arriveAt(at.doutDone + side * 8, lane);
        if ((JOINT || BETA) && tile == key) {
          float inverse = reciprocal(p.rawScale), own[2] = {0.f, 0.f}, dbeta = 0.f;
          takeOwn(own, d, weights, row0 + g - c);
#pragma unroll
          for (int half = 0; half < 2; half++) {
            float x = diagonal[half] * own[half] * inverse;
            if (BETA) dbeta -= x;
            // Four lanes have a row's scores, one of them its own.
            if (JOINT && (lane & 3) == g >> 1)
              p.dlseIn[held.lseRow + (i64)(key * 64 + row0 + g + half * 8) * p.stride] = x;
          }
          if (BETA) {
            dbeta = warpSum(dbeta);
            if (lane == 0) p.dbeta[(i64)(held.part + key) * 4 + warp] = dbeta;
          }
        }
        if (tile + 1 == until && key >= first) {
          // du is complete, and no product reads the own values any more.
          u32 y[ND / 2][4], stage = at.values + slot * TILE;
          meet(group);
          if (BELOW && p.dotsBelow)
            storeDots(du, stage, row0, p.dotsBelow + held.lseRow, p.stride, key * 64 + row0, p.tokens, lane);
          packRows(y, du);
          stageRows(y, stage + stageLane());
          publish();
          arriveAt(at.valuesReady + group * 8, lane);
        }
        // dz, dk += dzᵀ·q.
        auto finish = [&]() {
          multiplyWeights(weights, d);
          beginProducts();
          gather(dk, weights, own);
          if (!isLast) {
            if (tile == key) waitFor(at.sameFree, (counters.at(RESULTS_AT, tile) & 1) ^ 1);
            u32 panel = weightsLane() + (tile == key ? 3 : tile == key + 1 ? 2 : group) * PANEL;
#pragma unroll
            for (int k = 0; k < 4; k++) storeTransposed(panel + k * 2048, weights[k]);
            publish();
            if (tile == key + 1) arriveAt(at.crossFull, lane);
          }
          awaitProducts<0>();
          pin(dk);
          if (lastUse) arriveAt(at.queryEmpty + side * 8, lane);
        };
        finish();
        tile++;
        if (tile - 1 != key) {
          if (tile < until) continue;
          break;
        }

        // dq of the tile.
        int query = key, number = counters.at(RESULTS_AT, query);
        if (query > low()) {
          int before = counters.at(KEYS_AT, query - 1);
          waitFor(at.crossFull, counters.at(CROSSES_AT, query) & 1);
          waitFor(at.keyFull + (before & 3) * 8, before >> 2 & 1);
        }
        meet(group);
        u32 stage = at.douts + side * TILE + stageLane();
#pragma unroll 1
        for (int part = 0; part < 2; part++) {
          float lower[4][4], upper[4][4];
#pragma unroll
          for (int i = 0; i < 16; i++) lower[i / 4][i % 4] = upper[i / 4][i % 4] = 0.f;
          beginProducts();
#pragma unroll 1
          for (int back = min(2, query - low()); back >= 0; back--) {
            u32 a = uniform(descriptor(at.weights + (back == 0 ? 3 : back == 1 ? 2 : group) * PANEL, 16));
            u32 b = uniform(descriptor(at.keys + (counters.at(KEYS_AT, query - back) & 3) * TILE + part * 64, 16)) + CHANNELS;
#pragma unroll
            for (int k = 0; k < 4; k++) {
              addChannels(lower, a + k * 2, b + k * 2048 / 16);
              addChannels(upper, a + k * 2, b + (PANEL + k * 2048) / 16);
            }
          }
          commitProducts();
#if ROTARY
          float4 turnsBack[4];
          const float4* turn = reinterpret_cast<const float4*>(
                                   p.rotary + (i64)((query - low()) * 64 + row0 + g) * (D / 2) + part * 32) + (lane & 3);
#pragma unroll
          for (int n = 0; n < 4; n++)
            asm volatile("ld.global.nc.v4.f32 {%0,%1,%2,%3}, [%4];"
                         : "=f"(turnsBack[n].x), "=f"(turnsBack[n].y), "=f"(turnsBack[n].z), "=f"(turnsBack[n].w)
                         : "l"(turn + n * 4));
#endif
          awaitProducts<0>();
          pin(lower);
          pin(upper);
          if (part == 1) {
            arriveAt(at.sameFree, lane);
            releaseKeys(query - 2 >= first ? query - 2 : low(), query);
          }
#if ROTARY
#pragma unroll
          for (int n = 0; n < 4; n++)
            turnFour(lower[n], upper[n], turnsBack[n], loadFour(at.eighth + part * 256 + n * 64 + (lane & 3) * 16));
#endif
          if (part == 0) {
            if (TURNED) waitFor(at.oldFull, number & 1);
            else waitFor(at.doutDone + side * 8, place >> 1 & 1);
          }
#pragma unroll
          for (int i = 0; i < 2; i++) {
            u32 x[4], y[4], chunk = (part * 2 + i) * 32;
#if TURNED
            loadMatrices(x, stage ^ chunk);
            loadMatrices(y, (stage ^ chunk) + PANEL);
#endif
#pragma unroll
            for (int n = i * 2; n < i * 2 + 2; n++) {
#if TURNED
              float4 w = loadFour(at.above + part * 256 + n * 64 + (lane & 3) * 16);
#pragma unroll
              for (int half = 0; half < 2; half++) {
                float2 a = unpack(x[n % 2 * 2 + half]), b = unpack(y[n % 2 * 2 + half]);
                lower[n][half * 2] += a.x * w.x + b.x * w.y;
                lower[n][half * 2 + 1] += a.y * w.z + b.y * w.w;
                upper[n][half * 2] += b.x * w.x - a.x * w.y;
                upper[n][half * 2 + 1] += b.y * w.z - a.y * w.w;
              }
#endif
#pragma unroll
              for (int half = 0; half < 2; half++) {
                x[n % 2 * 2 + half] = pack(lower[n][half * 2], lower[n][half * 2 + 1]);
                y[n % 2 * 2 + half] = pack(upper[n][half * 2], upper[n][half * 2 + 1]);
              }
            }
            storeMatrices(stage ^ chunk, x[0], x[1], x[2], x[3]);
            storeMatrices((stage ^ chunk) + PANEL, y[0], y[1], y[2], y[3]);
          }
        }
        publish();
        arriveAt(at.resultsReady + (number & 1) * 8, lane);
        // All warps have read dz.
        meet(group);
        if (tile >= until) break;
      }
      if (key < first) {
        // Nobody reads the own values any more.
        meet(group);
        if (warp == 0 && lane == 0) arrive(at.valueEmpty + slot * 8);
        continue;
      }
#if ROTARY
      float4 turns[ND / 2];
      loadTurns(turns, p.rotary, (key - low()) * 64 + row0 + g, lane);
#endif
      // What these are multiplied with comes behind a branch, across which the compiler moves nothing.
      waitFor(at.valuesSent + group * 8, counters.at(SENT_AT, 0) & 1);
      counters.add(SENT_AT, 1);
      u32 y[ND / 2][4], stage = at.values + slot * TILE;
#if ROTARY
#pragma unroll
      for (int n = 0; n < ND / 2; n++) turnFour(dk[n], dk[n + ND / 2], turns[n], loadFour(at.eighth + n * 64 + (lane & 3) * 16));
#endif
      packRows(y, dk);
      stageRows(y, stage + stageLane());
      publish();
      arriveAt(at.keysReady + group * 8, lane);
    }
    releaseQueries(until, end());
    // Those before the last own queries have been released with these.
    int query = last - 1 - ((last - 1 ^ group) & 1);
    releaseKeys(query >= first ? query : low(), last);
    counters.add(QUERIES_AT, end());
    counters.add(KEYS_AT, last);
    counters.add(RESULTS_AT, last);
    counters.add(CROSSES_AT, last);
  }
}

extern "C" __global__ void __launch_bounds__(THREADS, 1) backwardWarpgroupWindow(const __grid_constant__ WalkedBackward p) {
  followPrevious();
  extern __shared__ __align__(1024) char dynamic[];
  Window at(shared32(dynamic));
  Held* held = reinterpret_cast<Held*>(dynamic + (at.held - shared32(dynamic)));
#if ROTARY
  keepTurns(at.eighth, p.rotary + 8 * (D / 2));
#endif
  at.open();
  // Registers go to the warpgroups that hold accumulators, in all 4 · 128.
  int group = uniform(threadIdx.x / 128);
  if (group == 0) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 24;");
    copyTiles(p, at);
  } else if (group == 1) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 72;");
    handOn(p, at);
  } else {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 208;");
    consume(p, at, held[threadIdx.x / 32 & 7], group - 2);
  }
}
