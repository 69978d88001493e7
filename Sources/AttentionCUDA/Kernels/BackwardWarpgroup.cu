// The backward pass of long fibers on Hopper: 16-bit elements, head widths 64 and 128. Backward.cu states the
// formulas, BackwardRows.cu forms what they need of a row.
//
// Producers, ring and walks are those of ForwardWarpgroup.cu. Two roles:
//     query  owns q and du', streams k and u:   z = q·kᵀ, dp = du'·uᵀ → dz → dq += dz·k; dβ, dℓ
//     key    owns k and u, streams q and du':   zᵀ = k·qᵀ, dpᵀ = u·du'ᵀ → pᵀ, dzᵀ → du += pᵀ·du', dk += dzᵀ·q
// Both operands of z and dp are tiles in shared memory, p and dz go from registers into the next product. The key
// role is the query role mirrored: it goes from a fiber's last keys to its first, so that a tile of queries comes
// once and stays while the keys that they see pass by. Heads that share keys are a loop inside: own tiles come
// again for every head, dk stays.
//
// Macros: STAGES (tiles in the ring), WINDOW (1: some fiber is longer than the sliding window), ROLES (1 query, 2 key),
// GROUPED (1: heads share the keys of a key role), TURNED (1: a query role adds to rows that the pass above has left turned).

template <int ROLE>
__device__ __forceinline__ void consume(const WalkedBackward& p, u32 memory, const Gates& gates, char* state, int group) {
  int lane = threadIdx.x & 31, warp = uniform(threadIdx.x / 32 & 3);
  int g = lane >> 2, c = (lane & 3) * 2, first = warp * 16;
  u32 full = gates.full, empty = gates.empty;
  // The lane's places in a tile of results: as stmatrix writes, and as rows are read.
  u32 stageLane = (first + (lane & 15)) * 128 + (((lane >> 4 ^ lane) & 7) << 4);
  u32 stageRow = (first + lane / 8) * 128 + (((lane ^ lane / 8) & 7) << 4);
  int taken = 0, entry = 0;  // own blocks and tiles of all walks so far
#if TURNED
  // Where rows of dq that the pass above has left turned arrive, and its parity.
  u32 oldFull = gates.sums + 3 * 512 + 640 + group * 8;
  int oldRound = 0;
#endif
  u32 sending = 0;           // the barrier of own tiles in whose place rows wait to be sent
  auto giveBack = [&]() {
    if (!sending) return;
    awaitSent();
    if (lane == 0) arrive(sending);
    sending = 0;
  };
  constexpr u32 MATE = TILE / 16;
  float dx[ND][4];                       // dq or dk
  float du[ROLE == KEY ? ND : 1][4];

  static_assert(sizeof(Walk<ROLE>) <= 80, "");
  // The registers have no room for what is only needed from block to block.
  Walk<ROLE>& walk = *reinterpret_cast<Walk<ROLE>*>(state + (group * 4 + warp) * 80);
  walk.begin(p);
  while (uniform(walk.next(p))) {
    int base = uniform(entry - walk.low), from = uniform(walk.low);  // the first tile that is held
    Place held(entry);
    auto release = [&]() {
      __syncwarp();
      if (lane == 0) arrive(empty + held.slot * 8);
      held.next();
      from++;
    };
    auto skip = [&]() {
      waitFor(full + held.slot * 8, held.round);
      release();
    };
    i64 lseRow = (i64)(walk.b * p.heads + walk.h) * p.lseN + walk.origin;
    bool firstHead = !GROUPED || walk.replica == 0, lastHead = !GROUPED || walk.replica == p.ratioK - 1;
    bool ownValues = !GROUPED || p.ratioU == 1;  // every head has values of its own
    // The lane's places in the rows of dq or dk and of du.
    auto xLine = [&]() {
      return ROLE == QUERY ? p.dq + walk.b * p.dqB + walk.h * p.dqH + walk.origin * p.dqN
                           : p.dk + walk.b * p.dkB + (GROUPED ? walk.h / p.ratioK : walk.h) * p.dkH +
                                 walk.origin * p.dkN;
    };
    auto uLine = [&]() {
      return p.du + walk.b * p.duB + (GROUPED ? walk.h / p.ratioU : walk.h) * p.duH + walk.origin * p.duN;
    };
    auto outLine = [&]() { return p.out + walk.b * p.oB + walk.h * p.oH + walk.origin * p.oN; };
    i64 xStep = (ROLE == QUERY ? p.dqN : p.dkN) * p.stride, uStep = p.duN * p.stride;
    for (int block = max(walk.live, walk.first) + group; block < walk.last; block += 2) {  // padding
      const uint4 zero = make_uint4(0, 0, 0, 0);
#pragma unroll 1
      for (int r = lane / 8; r < 16; r += 4) {
        int j = block * 64 + first + r;
        if (j >= walk.length) continue;
#pragma unroll
        for (int panel = 0; panel < D / 64; panel++) {
          if (!p.accumulate && firstHead) storeGlobal(xLine() + j * xStep + panel * 64 + lane % 8 * 8, zero);
          if (ROLE == KEY && (firstHead || ownValues))
            storeGlobal(uLine() + j * uStep + panel * 64 + lane % 8 * 8, zero);
        }
        if (ROLE == QUERY && JOINT && lane % 8 == 0) p.dlseIn[lseRow + (i64)j * p.stride] = 0.f;
      }
    }
    float beta = BETA ? toFloat(p.beta[walk.h]) : 0.f;
    int blocks = uniform(walk.live - walk.first);
#pragma unroll 1
    for (int k = uniform(group ^ walk.turn); k < blocks; k += 2) {
      int block = uniform(walk.own(k)), number = taken + k;
      int position = walk.position(block) + first + g;
      int buffer = number % 3;
      u32 own = uniform(descriptor(memory + (STAGES + buffer) * SLOT, 16));
      Rows rows;
      rows.beta = beta;
      float dbeta = 0.f, dlse[2] = {0.f, 0.f};
#pragma unroll
      for (int half = 0; half < 2; half++) {
        int j = position + half * 8;
        bool live = j < walk.keys;
        i64 t = lseRow + (i64)j * p.stride;
        rows.carried[half] = 0.f;
        if (JOINT && live) rows.carried[half] = p.lseIn[t];
        if (ROLE == QUERY && live && p.dlseOut) dlse[half] = p.dlseOut[t];
      }
      int low = CAUSAL ? walk.lowTile(p, block) : 0, high = CAUSAL ? block : uniform(walk.high);
      // Tiles before the next own block's first are not needed again.
      int keep = k + 2 < blocks ? (CAUSAL ? walk.lowTile(p, walk.own(k + 2)) : 0) : high + 1;
      int turned = (ROLE == KEY ? walk.first - block : block - walk.first) * 64 + first + g;
#if ROTARY
      float4 turns[ND / 2];
#endif
      // u' of the lane's rows, a quarter of the channels each, where D is not there yet.
      uint4 out[ROLE == QUERY ? ND / 2 : 1];
      if constexpr (ROLE == QUERY) {
        if (p.out) loadQuarters(out, outLine(), p.oN * p.stride, position, walk.keys);
        else forget(out);
      }
      giveBack();
#pragma unroll 1
      while (from < low) skip();
      if (ROLE == KEY && (firstHead || ownValues)) clear(du);
      Place place(base + low);
      float s[8][4], d[8][4];
      u32 columns = 0;
      // The products of the next tile, under way when this returns.
      auto score = [&]() {
        u32 tile = uniform(descriptor(memory + place.slot * SLOT, 16));
        columns = gates.sums + place.slot * 512 + c * 4;
        waitFor(full + place.slot * 8, place.round);
        place.next();
        beginProducts();
        startTiles(s, own, tile);
        commitProducts();
        if (ROLE == QUERY) {
          startTiles(d, own + MATE, tile + MATE);
          commitProducts();
        }
        return tile;
      };
      waitFor(gates.queryFull + buffer * 8, number / 3 & 1);
      if constexpr (ROLE == QUERY) {
        u32 sums = gates.sums + buffer * 512 + (first + g) * 4;
#pragma unroll
        for (int half = 0; half < 2; half++) {
          asm volatile("ld.shared.f32 %0, [%1];" : "=f"(rows.dot[half]) : "r"(sums + half * 32) : "memory");
          asm volatile("ld.shared.f32 %0, [%1];" : "=f"(rows.shift[half]) : "r"(sums + half * 32 + 256) : "memory");
          if (position + half * 8 >= walk.keys) rows.shift[half] = INFINITE;
        }
        if (p.out) {
          // D = ⟨du', u'⟩ − dℓ', also for the key role.
          float dot[2];
          dotQuarters(dot, out, memory + (STAGES + buffer) * SLOT + TILE, first + g);
#pragma unroll
          for (int half = 0; half < 2; half++) {
            int j = position + half * 8;
            rows.dot[half] = (dot[half] - dlse[half]) * p.rawScale;
            if ((lane & 3) == 0 && j < walk.keys) p.dot[lseRow + (i64)j * p.stride] = rows.dot[half];
          }
        }
      }
#if ROTARY
      if (ROLE == QUERY) loadTurns(turns, p.rotary, turned, lane);
#endif
      if (firstHead) clear(dx);
#pragma unroll 1
      for (int tile = low; tile <= high; tile++) {
        u32 weights[4][4], keys = score();
        awaitProducts<ROLE == QUERY ? 1 : 0>();
        pin(s);
        if (tile > low && tile - 1 < keep) release();
#if TURNED
        if (tile == high) {
          // No product needs q any more: old rows of dq take its place.
          if (warp == 0) {
            if (group == 0) asm volatile("bar.sync 3, 128;" ::: "memory");
            else asm volatile("bar.sync 4, 128;" ::: "memory");
            if (lane == 0) {
              asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(oldFull), "r"(TILE) : "memory");
              loadBox(memory + (STAGES + buffer) * SLOT, p.dqMap, oldFull, walk.box(p, walk.position(block)));
            }
          } else {
            if (group == 0) asm volatile("bar.arrive 3, 128;" ::: "memory");
            else asm volatile("bar.arrive 4, 128;" ::: "memory");
          }
        }
#endif
        mask<ROLE>(p, s, walk.keys, block, tile, first + g - c, rows);
        if constexpr (ROLE == QUERY) {
#pragma unroll
          for (int n = 0; n < 8; n++)
#pragma unroll
            for (int e = 0; e < 4; e++) s[n][e] = exp2Fast(s[n][e] * p.scale - rows.shift[e >> 1]);
          pin(s);
          awaitProducts<0>();
          pin(d);
#pragma unroll
          for (int n = 0; n < 8; n++)
#pragma unroll
            for (int e = 0; e < 4; e++) s[n][e] *= d[n][e] * p.rawScale - rows.dot[e >> 1];
        } else {
          exponentiate(s, columns, p.scale);
          packScores(weights, s);
          // Then dz takes the place of p as it was rounded: the registers have no room for both.
          weighGradients<JOINT>(d, du, weights, own + MATE, keys + MATE, columns, p.rawScale);
        }
        if (tile == block && (JOINT || (BETA && ROLE == QUERY))) {
          float own[2] = {0.f, 0.f};
#pragma unroll
          for (int n = 0; n < 8; n++)
#pragma unroll
            for (int e = 0; e < 4; e++) {
              if (!mayBeOwn(n, e)) continue;
              bool isOwn = first + g - c == n * 8 + (e & 1) - (e >> 1) * 8;
              if constexpr (ROLE == QUERY) {
                own[e >> 1] = isOwn ? s[n][e] : own[e >> 1];
                if (JOINT) s[n][e] = isOwn ? 0.f : s[n][e];
              } else {
                weights[n / 2][n % 2 * 2 + e / 2] &= isOwn ? (e & 1 ? 0xffffu : 0xffff0000u) : ~0u;
              }
            }
          if constexpr (ROLE == QUERY) {
            float inverse = reciprocal(p.rawScale);
#pragma unroll
            for (int half = 0; half < 2; half++) {
              int j = position + half * 8;
              if (BETA) dbeta -= own[half] * inverse;
              // Four lanes have a row's scores, one of them its own.
              if (JOINT && (lane & 3) == g >> 1 && j < walk.length)
                p.dlseIn[lseRow + (i64)j * p.stride] = own[half] * inverse;
            }
          }
        }
        if constexpr (ROLE == QUERY) {
          packScores(weights, s);
        } else {
          multiplyWeights(weights, d);
        }
        beginProducts();
        gather(dx, weights, keys);
      }
      auto turnsLate = [&]() {
#if ROTARY
        if (ROLE == KEY) loadTurns(turns, p.rotary, turned, lane);
#endif
      };
      // Sums that stay for the next head leave no room for what is needed after du.
      if (!GROUPED) turnsLate();
      if constexpr (ROLE == KEY) {
        if (p.dotsBelow)
          storeDots(du, memory + (STAGES + buffer) * SLOT + TILE, first, p.dotsBelow + lseRow, p.stride,
                    walk.position(block) + first, walk.keys, lane);
      }
      u32 y[ND / 2][4];
      if constexpr (ROLE == KEY) {
        packRows(y, du);
      }
      int row0 = walk.position(block);
      auto box = walk.box(p, row0);
      bool whole = row0 + 64 <= walk.keys && box.position + 64 <= p.rows;
      u32 staged = uniform(memory + (STAGES + buffer) * SLOT);
      auto send = [&](u32 tile, const Map& map, int ratio, bool add) {
        publish();
        meet(group);
        if (warp == 0) sendTile(tile, map, box.of(ratio), add);
      };
      // Results are staged where the own tiles lay, which no product reads any more.
      meet(group);
      if constexpr (ROLE == KEY) {
        if (lastHead || ownValues) {
          stageRows(y, staged + TILE + stageLane);
          if (whole) send(staged + TILE, p.duMap, GROUPED ? p.ratioU : 1, false);
          else storeRows(Target(uLine(), uStep, row0, first, walk.keys, walk.length), staged + TILE + stageRow);
        }
        if (GROUPED) turnsLate();
      }
      awaitProducts<0>();
      if (high < keep) release();
      pin(dx);
      if (ROLE == QUERY && BETA) {
        if ((lane & 3) == 0) dbeta += dlse[0] + dlse[1];
        dbeta = warpSum(dbeta);
        i64 part = ((i64)(walk.h * p.batch + walk.b) * p.fibers + walk.fiber) * p.tilesPerFiber + block;
        if (lane == 0) p.dbeta[part * 4 + warp] = dbeta;
      }
      if (lastHead) {
#if ROTARY
        turnBack(dx, turns, turned < 0, p.rotary, lane);
#if TURNED
        // All tokens of a block have the same place in the pass above.
        int above = divide(walk.origin + row0, p.byTurnedStride);
        above -= divide(above, p.byTurnedSize) * p.turnedSize;
        loadTurns(turns, p.turned, above, lane);
        waitFor(oldFull, oldRound);
        oldRound ^= 1;
        addTurned(dx, turns, staged + stageLane);
#endif
#endif
        if (whole) {
          packRows(y, dx);
          stageRows(y, staged + stageLane);
          send(staged, ROLE == QUERY ? p.dqMap : p.dkMap, ROLE == KEY && GROUPED ? p.ratioK : 1,
               p.accumulate && !TURNED);
        } else {
          Target to(xLine(), xStep, row0, first, walk.keys, p.accumulate ? walk.keys : walk.length);
          if (p.accumulate) addRows(dx, to, staged + stageLane, staged + stageRow);
          packRows(y, dx);
          stageRows(y, staged + stageLane);
          storeRows(to, staged + stageRow);
          publish();  // what is copied here next comes through the asynchronous proxy
        }
      }
      sending = gates.queryEmpty + buffer * 8;
    }
    giveBack();
#pragma unroll 1
    while (from <= uniform(walk.high)) skip();
    entry += uniform(walk.high - walk.low) + 1;
    taken += max(blocks, 0);
  }
}

template <int ROLE>
__device__ __forceinline__ void work(const WalkedBackward& p) {
  followPrevious();
  extern __shared__ __align__(1024) char dynamic[];
  u32 memory = shared32(dynamic);
  Gates gates(memory + (STAGES + 3) * SLOT);
#if TURNED
  if (threadIdx.x == 0)
    for (int i = 0; i < 2; i++) initialize(gates.sums + 3 * 512 + 640 + i * 8, 1);
#endif
  gates.open(3);
  // Registers go to the warpgroups that hold accumulators, in all 4 · 128.
  int group = uniform(threadIdx.x / 128);
  if (group == 0) {
    if constexpr (ROLE == KEY) asm volatile("setmaxnreg.dec.sync.aligned.u32 32;");
    else asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
    fetch<ROLE>(p, memory, gates);
  } else if (group == 1) {
    if constexpr (ROLE == KEY) asm volatile("setmaxnreg.dec.sync.aligned.u32 64;");
    else asm volatile("setmaxnreg.dec.sync.aligned.u32 72;");
    turn<ROLE>(p, memory, gates);
  } else {
    if constexpr (ROLE == KEY) asm volatile("setmaxnreg.inc.sync.aligned.u32 208;");
    else asm volatile("setmaxnreg.inc.sync.aligned.u32 200;");
    consume<ROLE>(p, memory, gates, dynamic + (gates.sums + (ROLE == KEY ? STAGES : 3) * 512 - memory), group - 2);
  }
}

#if ROLES == 1
extern "C" __global__ void __launch_bounds__(THREADS, 1) backwardWarpgroupQuery(const __grid_constant__ WalkedBackward p) {
  work<QUERY>(p);
}
#elif ROLES == 2
extern "C" __global__ void __launch_bounds__(THREADS, 1) backwardWarpgroupKey(const __grid_constant__ WalkedBackward p) {
  work<KEY>(p);
}
#endif
