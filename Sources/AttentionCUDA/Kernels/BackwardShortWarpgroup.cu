// One backward pass of short fibers by BackwardTiles.cu's roles. SHARED says that the heads of a group have one u.

// Blocks take pairs of tiles in turn, one for each consumer and its producer; heads of a group in turn.
extern "C" __global__ void __launch_bounds__(THREADS, 1) backwardShortWarpgroup(const __grid_constant__ Pass p) {
  extern __shared__ __align__(1024) char dynamic[];
  Sets sets(shared32(dynamic));
  prepare(sets);
  followPrevious();
  int heads = GROUPED ? p.ratioK : 1, groups = GROUPED ? p.heads / p.ratioK : p.heads;
  int tiles = (p.fibers + 64 / FIBER - 1) / (64 / FIBER), all = tiles * groups * p.batch, grid = gridDim.x;
  int role = uniform(threadIdx.x / 128), side = role & 1;
  auto work = [&](auto body) {
    Ring ring;
    int parity = 0;
#pragma unroll 1
    for (int pair = blockIdx.x; pair < all; pair += 2 * grid) {
      int count = pair + grid < all ? 2 : 1;
      // The highest pass begins where the forward pass has ended, and ends where the next one begins: with what L2 holds.
      int index = pair + side * grid;
      Tile tile(p.accumulate ? index : all - 1 - index, tiles, groups);
      float dk[ND][4], du[ND][4];
      if (GROUPED) {
        clear(dk);
        clear(du);
      }
#pragma unroll 1
      for (int r = 0; r < heads; r++, ring.next(2), parity ^= 1) {
        Ring own = ring;
        own.next(side);
        if (side < count) body(own, tile, r, dk, du, parity);
        else sets.skip(own, side, role < 2);
      }
    }
  };
  if (role < 2) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 " COPYING ";");
    work([&](Ring ring, const Tile& tile, int r, auto&, auto&, int) {
      int limit = p.lengths ? min(p.lengths[tile.b], p.tokens) : p.tokens;
      int row = threadIdx.x & 63, fiber = tile.place * (64 / FIBER) + row / FIBER, j = row % FIBER, t = -1;
      if (fiber < p.fibers) {
        int origin = fiberOrigin(p, fiber);
        if (j < fiberLength(p, origin, p.tokens)) t = origin + j * p.stride;
      }
      fetch(p, sets, ring, tile.b, tile.group * heads + r, t < limit ? t : -2 - t, true, [] {}, [] {});
    });
  } else {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 " WORKING ";");
    work([&](Ring ring, const Tile& tile, int r, auto& dk, auto& du, int parity) {
      consume<FIBER, JOINT, BETA, BIAS, SHARED>(p, sets, ring, tile.b, tile.group, r, dk, du, (i64)p.batch * tiles,
                                        (i64)tile.b * tiles + tile.place, parity);
    });
  }
}
