// One backward pass of short fibers by BackwardTiles.cu's roles. SHARED says that the heads of a group have one u.

// Blocks end at other times than each other by an eighth if all have the same number of tiles, so that they ask a counter
// in device memory for all but their first ones; an answer is the first of two tiles. Smaller tiles lose more by the asking
// than by ends that differ.
constexpr bool dealsTiles = D == 128;
#define AHEAD 3                                 // steps from asking to using an answer
struct Dealt : Answers<8> {
  __device__ __forceinline__ void tell(int step, int tile) const {
    asm volatile("st.relaxed.cta.shared::cta.u32 [%0], %1;" ::"r"(place(step)), "r"(word(step, tile)) : "memory");
  }
};

// Blocks take pairs of tiles, one for each consumer and its producer; heads of a group in turn.
extern "C" __global__ void __launch_bounds__(THREADS, 1) backwardShortWarpgroup(const __grid_constant__ Pass p) {
  extern __shared__ __align__(1024) char dynamic[];
  Sets sets(shared32(dynamic));
  Dealt dealt{sets.scratch + 64};
  dealt.prepare();
  prepare(sets);
  followPrevious();
  int heads = GROUPED ? p.ratioK : 1, groups = GROUPED ? p.heads / p.ratioK : p.heads;
  int tiles = (p.fibers + 64 / FIBER - 1) / (64 / FIBER), all = tiles * groups * p.batch, grid = gridDim.x;
  int role = uniform(threadIdx.x / 128), side = role & 1;
  auto work = [&](auto body) {
    Ring ring;
    int parity = 0;
#pragma unroll 1
    for (int step = 0;; step++) {
      bool isOwn = !dealsTiles || step < AHEAD;
      int first = isOwn ? step * 2 * grid + blockIdx.x : dealt.take(step);
      if (first >= all) break;
      // The highest pass begins where the forward pass has ended, and ends where the next one begins: with what L2 holds.
      int index = first + side * (isOwn ? grid : 1);
      bool has = index < all;
      Tile tile(!has ? 0 : p.accumulate ? index : all - 1 - index, tiles, groups);
      float dk[ND][4], du[ND][4];
      if (GROUPED) {
        clear(dk);
        clear(du);
      }
#pragma unroll 1
      for (int r = 0; r < heads; r++, ring.next(2), parity ^= 1) {
        Ring own = ring;
        own.next(side);
        if (has) body(own, tile, r, dk, du, parity, step);
        else sets.skip(own, side, role < 2);
      }
    }
  };
  if (role < 2) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 " COPYING ";");
    int* counter = reinterpret_cast<int*>(p.dot);
    int dealtFirst = AHEAD * 2 * grid, pairs = (max(all - dealtFirst, 0) + 1) / 2, number = 0;
    bool asks = dealsTiles && threadIdx.x == 0;
    work([&](Ring ring, const Tile& tile, int r, auto&, auto&, int, int step) {
      int limit = p.lengths ? min(p.lengths[tile.b], p.tokens) : p.tokens;
      int row = threadIdx.x & 63, fiber = tile.place * (64 / FIBER) + row / FIBER, j = row % FIBER, t = -1;
      if (fiber < p.fibers) {
        int origin = fiberOrigin(p, fiber);
        if (j < fiberLength(p, origin, p.tokens)) t = origin + j * p.stride;
      }
      fetch(p, sets, ring, tile.b, tile.group * heads + r, t < limit ? t : -2 - t, true, [] {}, [] {});
      if (asks && r == 0) {
        if (step > 0) {
          // What the last step has asked for: it need not be waited for.
          dealt.tell(step - 1 + AHEAD, min(dealtFirst + 2 * number, all));
          asks = number < pairs;
        }
        if (asks) number = atomicAdd(counter, 1);
      }
      __syncwarp();
    });
    // Every block asks once in vain. The last one leaves the counter as it was.
    if (dealsTiles && threadIdx.x == 0 && number == pairs + grid - 1) *counter = 0;
  } else {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 " WORKING ";");
    work([&](Ring ring, const Tile& tile, int r, auto& dk, auto& du, int parity, int) {
      consume<FIBER, JOINT, BETA, BIAS, SHARED>(p, sets, ring, tile.b, tile.group, r, dk, du, (i64)p.batch * tiles,
                                        (i64)tile.b * tiles + tile.place, parity);
    });
  }
}
