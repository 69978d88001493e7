// Who attends what, in which order, and where in the ring its keys lie: producers and consumers go through the
// same list.

// ⌊n / d⌋ for n < 2³¹ as (n · factor) >> shift with factor = ⌈2^shift / d⌉, shift = 31 + ⌈log₂ d⌉.
struct Division {
  u32 factor;
  int shift;
};
__device__ __forceinline__ int divide(int n, Division by) {
  return (int)((unsigned long long)(u32)n * by.factor >> by.shift);
}

// A pass and who walks where: walks of `walkSteps` steps, `chunks` a fiber. Must match `WalkParameters`.
struct WalkedPass : Pass {
  int schedule, walkSteps, walks, chunks;
  Division byFibers, byChunks, byHeads, byStride;
  union {
    float* dotsBelow;  // key role: ⟨du, u⟩ of every row, the pass below's ⟨du', u'⟩, or null
    u32* dealt;        // forward: how many walks have been dealt out besides every block's first one, or null
  };
};

// The first token of a fiber.
__device__ __forceinline__ int firstToken(const WalkedPass& p, int fiber) {
#if SLIDING
  return fiber;
#else
  int block = divide(fiber, p.byStride);
  return block * (p.size * p.stride) + fiber - block * p.stride;
#endif
}
static_assert(sizeof(WalkedPass) == sizeof(Pass) + 56, "Swift's WalkParameters has this size");

// The backward pass with its tensors. Must match `BackwardWalkParameters`.
struct WalkedBackward : WalkedPass {
  int rows;  // positions that the maps cover: whole rounds of the stride; 0: no maps
  // Query role, TURNED: where the pass above has left dq turned (BackwardWhole.cu), a token's place in that pass is
  // ⌊t / stride⌋ mod turnedSize.
  int turnedSize;
  const float2* turned;
  Division byTurnedStride, byTurnedSize;
  Map qMap, kMap, uMap, doutMap, dqMap, dkMap, duMap;
};
static_assert(sizeof(WalkedBackward) == 1408, "Swift's BackwardWalkParameters has this size");
// The forward pass with its tensors. Must match `ForwardWalkParameters`.
struct WalkedForward : WalkedPass {
  int rows;
  // FOLLOWS: counters of heads, what one says when all rows are there, and which blocks begin when nearly all heads are.
  int arrivals;
  u32* finished;
  int lateFrom, lateTo;
  Map qMap, kMap, uMap, outMap;  // the last one's boxes have 16 rows
};
static_assert(sizeof(WalkedForward) == 1024, "Swift's ForwardWalkParameters has this size");

#ifndef BOTH
#define BOTH 0
#endif
#if BOTH
// The forward passes of the two lowest modes in one launch. A unit is n_{m−1}·n_m consecutive tokens of a head: all that its
// fibers of both modes see. Must match `PairedForwardParameters`.
struct PairedForward {
  WalkedForward passes[2];  // the lower one and the one above
  u32* finished;            // for every unit: twice the walks of the lower pass whose rows have been taken to memory
  Division byWalks, byUnits;
  int unitWalks, unitsPerHead, walks, lag;
};
static_assert(sizeof(PairedForward) == 2112, "Swift's PairedForwardParameters has this size");
__device__ __forceinline__ const WalkedForward& passOf(const PairedForward& p, int upper) { return p.passes[upper]; }
#endif
__device__ __forceinline__ const WalkedForward& passOf(const WalkedForward& p, int) { return p; }
__device__ __forceinline__ const WalkedBackward& passOf(const WalkedBackward& p, int) { return p; }

// What a block does. The key role is the mirror image of the query one: it owns keys and streams the queries that see
// them, and its tiles count from the fiber's last key to its first.
#define FORWARD 0
#define QUERY 1
#define KEY 2
#ifndef GROUPED
#define GROUPED 0
#endif
#ifndef TURNED
#define TURNED 0
#endif
#ifndef FOLLOWS
#define FOLLOWS 0  // 1: the launch that writes u may not have ended
#endif
#ifndef APART
#define APART 0  // 1: a walk of the lower pass has several fibers, a tile each
#endif

// Deals the walks of a forward pass to the blocks that are done first: multiprocessors are not equally fast, and those that
// run together stay side by side. A block's first walk is its own; for the others a copying warp asks the counter and
// tells the other warps.
struct Dealer {
  u32 place;  // barriers: two numbers told, two heard by all; then the numbers
  bool leads;
  int dealt;  // walks so far

  static __device__ __forceinline__ void open(u32 place) {
    for (int i = 0; i < 2; i++) {
      initialize(place + i * 8, 1);
      initialize(place + 16 + i * 8, 12);  // warps that copy or attend
    }
  }
  __device__ __forceinline__ int next(const WalkedPass& p) {
    u32 told = place + (dealt & 1) * 8, heard = told + 16, value = place + 32 + (dealt & 1) * 4;
    int parity = dealt >> 1 & 1, x;
    dealt++;
    if (leads && (threadIdx.x & 31) == 0) {
      int number = atomicAdd(p.dealt, 1) + gridDim.x;
      // Every block asks once in vain. The last one leaves the counter as it was.
      if (number == p.walks + (int)gridDim.x - 1) *p.dealt = 0;
      waitFor(heard, parity ^ 1);
      asm volatile("st.shared.u32 [%0], %1;" ::"r"(value), "r"(number) : "memory");
      arrive(told);
    }
    __syncwarp();
    waitFor(told, parity);
    asm volatile("ld.shared.u32 %0, [%1];" : "=r"(x) : "r"(value) : "memory");
    x = uniform(x);
    if ((threadIdx.x & 31) == 0) arrive(heard);
    return x;
  }
};

// Backward walks have none, which have to fit shared memory.
template <bool DEALS>
struct DealerOf {};
template <>
struct DealerOf<true> {
  Dealer dealer;
};

// A run of own blocks on one fiber: blocks and tiles are 64 positions, counted from the fiber's first (mirrored:
// its last). Forward, blocks are queries and tiles keys.
template <int ROLE>
struct Walk : DealerOf<ROLE == FORWARD && !BOTH> {
  // Backward, where a fiber's later blocks see more tiles: own blocks come strictly in turn, so that a buffer's next one
  // is not the same consumer's, and every other pair of them is swapped, so that both have the same to do.
  static constexpr bool PAIRED = ROLE != FORWARD && CAUSAL && !WINDOW && !GROUPED;
  int b, h, origin;
  int fiber, full;         // the fiber's number; tiles that have keys
  int replica, heads;      // key role: the query head of those that share the keys; heads that walks are dealt by
  int blocks;              // that share the walks
  int length, keys;        // positions; those that are no padding
  int firstRow;            // the first position whose u' is wanted
  int first, last, live;   // blocks of queries; the live ones have keys
  int low, high;           // tiles of keys, high inclusive
  int cursor, end, turn;   // turn: which consumer has the first block, alternating as the shares differ
  int swapped;             // whether the first pair of own blocks is
  static constexpr bool DEALT = ROLE == FORWARD && !BOTH;  // if there is a counter
#if BOTH
  int upper, unit;         // which of the two passes this is, and which unit of both
#else
  static constexpr int upper = 0;
#endif

  __device__ __forceinline__ int lowTile(const WalkedPass& p, int block) const {
    if (APART && !upper) return block;
    return WINDOW ? max(0, block - (p.size + 62) / 64) : 0;
  }
  __device__ __forceinline__ static int positions(const WalkedPass& p, int origin, int end) {
    int length = end > origin ? divide(end - origin + p.stride - 1, p.byStride) : 0;
    return SLIDING ? length : min(length, p.size);
  }
  __device__ __forceinline__ void begin(const WalkedPass& p) {
    // Schedule 0: every block has one stretch of all steps. Otherwise walks are dealt out in turn.
    int index = blockIdx.x, count = gridDim.x;
    cursor = p.schedule == 0 ? (int)((i64)p.walks * index / count) : index;
    end = p.schedule == 0 ? (int)((i64)p.walks * (index + 1) / count) : p.walks;
    turn = 1;
    first = live = swapped = 0;
    blocks = count;
    heads = ROLE == KEY && GROUPED ? p.heads / p.ratioK : p.heads;
    replica = ROLE == KEY ? p.ratioK : 0;
  }
  // The same, for a warp of a forward pass; `leads`: that it asks for further walks.
  template <class P>
  __device__ __forceinline__ void begin(const P& all, u32 place, bool leads) {
    begin(all);
    if constexpr (DEALT) {
      this->dealer = {place, leads, 0};
      if (all.dealt) blocks = 1 << 31;  // takes the cursor below 0
    }
  }
#if BOTH
  // Both passes have as many walks a unit. They take turns: one of the lower pass, then one of the upper pass, `lag` walks
  // behind, when what it reads has been written and is still in L2.
  __device__ __forceinline__ void begin(const PairedForward& both) {
    cursor = (int)blockIdx.x - (int)gridDim.x;
    upper = 1, turn = 1;
  }
  __device__ __forceinline__ bool next(const PairedForward& both) {
    while (true) {
      upper ^= 1;
      if (!upper) cursor += gridDim.x, turn ^= 1;
      if (cursor >= both.walks + both.lag) return false;
      int index = upper ? cursor - both.lag : cursor;
      if (index < 0 || index >= both.walks) continue;
      const WalkedForward& p = both.passes[upper];
      unit = divide(index, both.byWalks);
      int line = divide(unit, both.byUnits);
      fiber = index - unit * both.unitWalks;
      b = divide(line, p.byHeads);
      h = line - b * p.heads;
      origin = (unit - line * both.unitsPerHead) * both.unitWalks * both.passes[0].size + fiber * (upper ? 1 : p.size);
      length = keys = positions(p, origin, p.tokens);
      if (p.lengths) keys = uniform(positions(p, origin, min(p.lengths[b], p.tokens)));
      firstRow = first = 0;
      last = (length + 63) / 64;
      if (first >= last) continue;
      full = live = (keys + 63) / 64;
      low = 0;
      high = live - 1;
      return true;
    }
  }
  // Whether tensor memory access can take the rows of a block to memory.
  __device__ __forceinline__ bool isBox(const WalkedForward& p, int block) const {
    return block * 64 + 64 <= length && divide(origin, p.byStride) + block * 64 + 64 <= p.rows;
  }
  // What the unit's counter says when its rows of the lower pass are there.
  __device__ __forceinline__ u32 arrivals(const PairedForward& both) const {
    const WalkedForward& p = both.passes[0];
    int first = (unit - divide(unit, both.byUnits) * both.unitsPerHead) * both.unitWalks * p.size;
    return 2 * min(both.unitWalks, (p.tokens - first + p.size - 1) / p.size);
  }
#endif
  // The block that is the k-th to come.
  __device__ __forceinline__ bool isSwapped(int k) const {
    return PAIRED && ((k >> 1 ^ swapped) & 1) && (k | 1) < live - first;
  }
  __device__ __forceinline__ int own(int k) const { return first + (isSwapped(k) ? k ^ 1 : k); }
  // Whether tensor memory access can take the tile at a position, and where it finds it.
  struct Box {
    int position, fiber, h, b;
    __device__ __forceinline__ Box of(int ratio) const { return {position, fiber, ratio > 1 ? h / ratio : h, b}; }
  };
  __device__ __forceinline__ Box box(const WalkedPass& p, int first) const {
    int line = divide(origin, p.byStride);
    return {line + first, origin - line * p.stride, h, b};
  }
  // The first position of a block or tile.
  __device__ __forceinline__ int position(int tile) const {
    return (ROLE == KEY && tile < full ? full - 1 - tile : tile) * 64;
  }
  __device__ __forceinline__ bool next(const WalkedPass& p) {
    if (ROLE == KEY && GROUPED && replica + 1 < p.ratioK) {
      replica++;
      h++;
      return true;
    }
    if (PAIRED) {
      int done = max(live - first, 0);
      turn ^= done & 1;
      swapped ^= (done + 1) >> 1 & 1;
    }
    while (true) {
      if constexpr (DEALT) {
        if (cursor < 0) cursor = this->dealer.next(p);
      }
      if (cursor >= end) return false;
      int fibers = p.fibers - p.firstFiber, line, step, count = p.walkSteps, index = cursor;
      if (p.schedule == 2) {  // neighboring fibers side by side
        int rest = divide(index, p.byFibers);
        fiber = index - rest * fibers;
        line = divide(rest, p.byChunks);
        step = (rest - line * p.chunks) * count;
        cursor += blocks;
      } else {  // the steps of a fiber side by side
        int rest = divide(index, p.byChunks);
        step = (index - rest * p.chunks);
        line = divide(rest, p.byFibers);
        fiber = rest - line * fibers;
        if (p.schedule == 0) {
          count = min(min(count, p.chunks - step), end - cursor);
          cursor += count;
        } else {
          step *= count;
          cursor += blocks;
        }
      }
      b = divide(line, p.byHeads);
      h = line - b * heads;
      if (ROLE == KEY && GROUPED) h *= p.ratioK, replica = 0;
      fiber += p.firstFiber;
      origin = firstToken(p, fiber);
      length = keys = positions(p, origin, p.tokens);
      if (p.lengths) keys = uniform(positions(p, origin, min(p.lengths[b], p.tokens)));
      firstRow = p.firstQuery > origin ? divide(p.firstQuery - origin + p.stride - 1, p.byStride) : 0;
      first = p.firstPosition / 64 + step * 2;
      last = min(first + count * 2, (length + 63) / 64);
      if (first >= last) continue;
      full = (keys + 63) / 64;
      live = min(last, full);
      low = lowTile(p, first);
      high = live > first ? (CAUSAL ? live : full) - 1 : low - 1;
      if (!PAIRED) turn ^= 1;
      return true;
    }
  }
};

// A tile's slot in the ring, and whether it is used for an even or an odd time.
struct Place {
  int slot, round;
  __device__ __forceinline__ Place(int entry) : slot(entry % STAGES), round(entry / STAGES & 1) {}
  __device__ __forceinline__ void next() {
    bool wraps = slot == STAGES - 1;
    slot = wraps ? 0 : slot + 1;
    round ^= wraps;
  }
};
