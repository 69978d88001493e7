// The backward pass of whole causal fibers of 128 or 256 positions on Hopper in one launch: 16-bit elements, head width 128,
// heads with keys of their own. Backward.cu states the formulas; five products of every pair of tiles
// instead of the seven of two roles (BackwardWarpgroup.cu), and q, k, u and du' are read once.
//
// A block holds q and du' of a fiber, and k and u of 128 positions at a time. A consumer has 64 of these:
// zᵀ = k·qᵀ → pᵀ, dpᵀ = u·du'ᵀ → dzᵀ, du += pᵀ·du', dk += dzᵀ·q. Both leave dz of a tile of queries in shared memory, where
// the second one, whose keys fewer queries see, takes it up for dq = dz·k. L2 adds what a fiber's later keys make of dq.
// Rotated, dq is left turned: BackwardRows.cu turns it back.

// c += a · b for 64 rows of a in shared memory, both operands' panels given by descriptors; b's channels are c's columns.
__device__ __forceinline__ void addTiles(float (&c)[8][4], u32 a, u32 b) {
  asm volatile("{ .reg .b64 a, b; mov.b64 a, {%32, 0x40000040}; mov.b64 b, {%33, 0x40000040};\n" WGMMA(64) LANES_8
               ", a, b, 1, 1, 1, 0, 1; }"
               : OCTETS_8(INOUT)
               : "r"(a), "r"(b));
}
// A consumer's part: the first one's keys are a block's first 64, and it never waits for dq.
__device__ __forceinline__ void consume(const WalkedBackward& p, const Places& at, int group) {
  int lane = heldThread() & 31, warp = uniform(threadIdx.x / 32 & 3);
  int g = lane >> 2, c = (lane & 3) * 2, first = warp * 16;
  u32 stageLane = (first + (lane & 15)) * 128 + (((lane >> 4 ^ lane) & 7) << 4);
  // The lane's place in a panel of dz, whose rows are queries.
  u32 weightsLane = at.weights + group * PANEL + ((lane >> 4) * 8 + (lane & 7)) * 128 +
                    (((warp * 2 + (lane >> 3 & 1)) ^ (lane & 7)) << 4);
  float dk[ND][4], du[ND][4];
  int base = 0, steps = 0, blocks = 0;  // tiles of queries and of dz, and blocks of 128 keys, so far
  u32 ownKeys = uniform(descriptor(at.keys + group * TILE, 16));
  u32 ownValues = uniform(descriptor(at.values + group * TILE, 16));
  int tiles = p.tilesPerFiber;
#if ROTARY
  int chunk = lane % PAIRS, row = warp * (32 / PAIRS) + lane / PAIRS;
  const float2* table = p.rotary + chunk * 8;
  Turns here;  // of the next own keys
  here.load(table + (group * 64 + row) * (D / 2), false);
#endif
  Fibers walk;
  while (uniform(walk.next(p))) {
    i64 lseRow = (i64)(walk.b * p.heads + walk.h) * p.lseN + walk.origin;
    int part = (walk.h * p.batch + walk.b) * p.fibers + walk.fiber;  // of dβ
    Rows rows;
    rows.beta = BETA ? toFloat(p.beta[walk.h]) : 0.f;
#pragma unroll 1
    for (int block = 0; block < tiles; block += OWN, blocks++) {
      int key = block + group, position = key * 64 + first + g;
      float dbeta = 0.f;
#pragma unroll
      for (int half = 0; half < 2; half++) {
        i64 t = lseRow + (i64)(position + half * 8) * p.stride;
        rows.carried[half] = JOINT ? p.lseIn[t] : 0.f;
      }
#if ROTARY
      {
        Turns jump;
        jump.loadShared(at.jump + chunk * 64);
        waitFor(at.keysFull + group * 8, blocks & 1);
        turnTile(at.keys + group * TILE + swizzled(row, chunk), here, jump);
        meet(group);
      }
#else
      waitFor(at.keysFull + group * 8, blocks & 1);
#endif
      clear(dk);
      clear(du);
#pragma unroll 1
      for (int tile = block; tile < tiles; tile++, steps++) {
        int slot = (base + tile) % RING;
        u32 columns = at.sums + slot * 512 + c * 4;
        waitFor(at.full + slot * 8, (base + tile) / RING & 1);
        u32 queries = uniform(descriptor(at.queries + slot * SLOT, 16));
        if (tile >= key) {
          float s[8][4], d[8][4];
          u32 weights[4][4];
          multiplyTiles(s, ownKeys, queries);
          mask<KEY>(p, s, 0, tile - key, 0, first + g - c, rows);
          float diagonal[2] = {0.f, 0.f};
          exponentiate(s, columns, p.scale);
          if ((JOINT || BETA) && tile == key) takeOwn(diagonal, s, first + g - c);
          packScores(weights, s);
          waitFor(at.valuesFull + group * 8, blocks & 1);
          weighGradients<true>(d, du, weights, ownValues, queries + TILE / 16, columns, p.rawScale);
          if ((JOINT || BETA) && tile == key) {
            float inverse = reciprocal(p.rawScale), own[2] = {0.f, 0.f};
            takeOwn(own, d, weights, first + g - c);
#pragma unroll
            for (int half = 0; half < 2; half++) {
              float x = diagonal[half] * own[half] * inverse;
              if (BETA) dbeta -= x;
              // Four lanes have a row's scores, one of them its own.
              if (JOINT && (lane & 3) == g >> 1) p.dlseIn[lseRow + (i64)(position + half * 8) * p.stride] = x;
            }
          }
          multiplyWeights(weights, d);
          beginProducts();
          gather(dk, weights, queries);
          waitFor(at.weightsFree, (steps & 1) ^ 1);
          waitFor(at.weightsSent, (blocks & 1) ^ 1);
#pragma unroll
          for (int k = 0; k < 4; k++) storeTransposed(weightsLane + k * 2048, weights[k]);
          publish();
          arriveAt(at.weightsFull, lane);
          awaitProducts<0>();
          pin(dk);
        } else {
          waitFor(at.weightsFree, (steps & 1) ^ 1);
          arriveAt(at.weightsFull, lane);
        }
        // What later keys see stays.
        if (tile < block + OWN || block + OWN == tiles) arriveAt(at.empty + slot * 8, lane);
        if (group == 1) {
          waitFor(at.weightsFull, steps & 1);
          // A panel of channels at a time, for want of registers.
#pragma unroll 1
          for (int half = 0; half < D / 64; half++) {
            float dq[8][4];
            clear(dq);
            beginProducts();
#pragma unroll 1
            for (int panel = 0; panel < (tile > block ? OWN : 1); panel++) {
              u32 a = uniform(descriptor(at.weights + panel * PANEL, 16));
              u32 b = uniform(descriptor(at.keys + panel * TILE + half * PANEL, 16)) + CHANNELS;
#pragma unroll
              for (int k = 0; k < 4; k++) addTiles(dq, a + k * 2, b + k * 2048 / 16);
            }
            commitProducts();
            awaitProducts<0>();
            pin(dq);
            if (half == D / 64 - 1) arriveAt(at.weightsFree, lane);
            u32 y[4][4];
            packScores(y, dq);
            if (half == 0) waitFor(at.resultsFree, (steps + blocks & 1) ^ 1);
            u32 stage = at.results + half * PANEL + stageLane;
#pragma unroll
            for (int i = 0; i < 4; i++) storeMatrices(stage ^ i * 32, y[i][0], y[i][1], y[i][2], y[i][3]);
          }
          publish();
          arriveAt(at.resultsReady, lane);
        }
      }
      arriveAt(at.keysEmpty, lane);
      if (group == 1) arriveAt(at.keysEmpty + 8, lane);
#if ROTARY
      float4 turns[ND / 2];
      loadTurns(turns, p.rotary, position, lane);
#endif
      // Nobody reads the own tiles any more.
      meet(group);
      if (p.dotsBelow)
        storeDots(du, at.values + group * TILE, first, p.dotsBelow + lseRow, p.stride, key * 64 + first, p.tokens, lane);
      u32 y[ND / 2][4];
      packRows(y, du);
      stageRows(y, at.values + group * TILE + stageLane);
      publish();
      arriveAt(at.valuesReady + group * 8, lane);
#if ROTARY
      here.load(table + (((block + OWN < tiles ? block + OWN : 0) + group) * 64 + row) * (D / 2), false);
#endif
      if (BETA) {
        if (p.dlseOut && (lane & 3) == 0)
          dbeta += p.dlseOut[lseRow + (i64)position * p.stride] + p.dlseOut[lseRow + (i64)(position + 8) * p.stride];
        dbeta = warpSum(dbeta);
        if (lane == 0) p.dbeta[((i64)part * tiles + key) * 4 + warp] = dbeta;
      }
#if ROTARY
      turnBack(dk, turns, false, p.rotary, lane);
#endif
      packRows(y, dk);
      // Behind the block's last dz and dq.
      if (group == 0) waitFor(at.weightsFree, (steps & 1) ^ 1);
      else waitFor(at.resultsFree, (steps + blocks & 1) ^ 1);
      stageRows(y, (group == 0 ? at.weights : at.results) + stageLane);
      publish();
      arriveAt(group == 0 ? at.weightsReady : at.resultsReady, lane);
    }
    base += tiles;
  }
}

extern "C" __global__ void __launch_bounds__(THREADS, 1) backwardWarpgroupWhole(const __grid_constant__ WalkedBackward p) {
  followPrevious();
  extern __shared__ __align__(1024) char dynamic[];
  Places at(shared32(dynamic));
#if ROTARY
  keepTurns(at.jump, p.rotary + ROUND * (D / 2));
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
    consume(p, at, group - 2);
  }
}
