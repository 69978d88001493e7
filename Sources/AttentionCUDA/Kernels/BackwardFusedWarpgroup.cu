// The backward passes of the two lowest modes as one launch of BackwardTiles.cu's roles. A cluster of blocks owns
// n_{m−1}·n_m consecutive tokens at a time, the whole fibers of both modes; each block has one tile of 64 rows of
// either pass. One consumer works on the upper pass, the other one on the lower pass of the tokens before: dq, dk
// and the gradient of its u go from block to block through L2, where q and k also still are.

// The word behind those of the blocks is for this block's own warpgroups.
struct Relayed : Finished {
  // A thread that has met all who wrote a stretch says so to the block's copying warpgroup, ...
  __device__ __forceinline__ void note(int count) const {
    asm volatile("st.release.cta.shared::cta.u32 [%0], %1;" ::"r"(words + CLUSTER * 4), "r"(count) : "memory");
  }
  // ... a warp of which tells all blocks: the fence that this takes holds up no products there.
  __device__ __forceinline__ void tell(int rank, int count) const {
    int seen;
    do {
      asm volatile("ld.acquire.cta.shared::cta.u32 %0, [%1];" : "=r"(seen) : "r"(words + CLUSTER * 4) : "memory");
    } while (seen < count);
    Finished::tell(rank, count);
  }
};

extern "C" __global__ void __launch_bounds__(THREADS, 1) __cluster_dims__(CLUSTER, 1, 1)
    backwardFusedWarpgroup(const __grid_constant__ Fused both) {
  extern __shared__ __align__(1024) char dynamic[];
  Sets sets(shared32(dynamic));
  Relayed finished{{sets.scratch + 64}};
  if (threadIdx.x <= CLUSTER) writeShared(finished.words + threadIdx.x * 4, 0);
  prepare(sets);
  followPrevious();
  clusterArrive();
  clusterWait();
  const Pass& lower = both.lower;
  int heads = GROUPED ? lower.ratioK : 1, groups = GROUPED ? lower.heads / lower.ratioK : lower.heads;
  constexpr int stretch = LOWER_SIZE * UPPER_SIZE;
  int stretches = (lower.tokens + stretch - 1) / stretch, all = stretches * groups * lower.batch;
  int rank = blockIdx.x % CLUSTER, cluster = blockIdx.x / CLUSTER, clusters = gridDim.x / CLUSTER;
  int count = cluster < all ? (all - cluster + clusters - 1) / clusters : 0;
  int role = uniform(threadIdx.x / 128), side = role & 1;  // side 0: the upper pass
  // The tiles of one side; those of both take turns in the ring.
  auto work = [&](auto body) {
    Ring ring;
    int parity = 0;
#pragma unroll 1
    for (int step = 0; step <= count; step++) {
      int index = step - side;
      bool has = side ? step > 0 : step < count;
      Tile tile(cluster + max(index, 0) * clusters, stretches, groups);
      float dk[ND][4], du[ND][4];
      if (GROUPED) {
        clear(dk);
        clear(du);
      }
#pragma unroll 1
      for (int r = 0; r < heads; r++, ring.next(2), parity ^= 1) {
        Ring own = ring;
        own.next(side);
        if (has) body(own, tile, index, r, dk, du, parity);
        else sets.skip(own, side, role < 2);
      }
      if (role == 2 && has) {
        meet(3);
        if (threadIdx.x % 128 == 0) finished.note(step + 1);
      }
    }
  };
  if (role < 2) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 " COPYING ";");
    work([&](Ring ring, const Tile& tile, int index, int r, auto&, auto&, int) {
      bool upper = side == 0;
      int limit = lower.lengths ? min(lower.lengths[tile.b], lower.tokens) : lower.tokens;
      int row = threadIdx.x & 63, fiber = upper ? UPPER : LOWER;
      int along = rank * (64 / fiber) + row / fiber, across = row % fiber;
      int x = upper ? across : along, y = upper ? along : across;
      int t = x < UPPER_SIZE && y < LOWER_SIZE ? tile.place * stretch + x * LOWER_SIZE + y : -1;
      if (t >= lower.tokens) t = -1;
      fetch(
          upper ? both.upper : both.lower, sets, ring, tile.b, tile.group * heads + r, t < limit ? t : -2 - t, upper,
          [&] {
            if (r == 0 && threadIdx.x < 160) finished.tell(rank, index + 1);
          },
          [&] { finished.await(index + 1); });
    });
  } else {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 " WORKING ";");
    i64 partials = (i64)lower.batch * stretches * CLUSTER;
    auto part = [&](const Tile& tile) { return ((i64)tile.b * stretches + tile.place) * CLUSTER + rank; };
    if constexpr (LOWER == UPPER && !JOINT && LOWER_BIAS == UPPER_BIAS && !BETA) {
      // One body for both consumers keeps the code within the instruction cache.
      work([&](Ring ring, const Tile& tile, int index, int r, auto& dk, auto& du, int parity) {
        consume<UPPER, false, false, UPPER_BIAS, GROUPED>(side ? both.lower : both.upper, sets, ring, tile.b, tile.group, r, dk,
                                                 du, partials, part(tile), parity);
      });
    } else if (side == 0) {
      work([&](Ring ring, const Tile& tile, int index, int r, auto& dk, auto& du, int parity) {
        consume<UPPER, JOINT, BETA, UPPER_BIAS, false>(both.upper, sets, ring, tile.b, tile.group, r, dk, du, partials,
                                                part(tile), parity);
      });
    } else {
      work([&](Ring ring, const Tile& tile, int index, int r, auto& dk, auto& du, int parity) {
        consume<LOWER, false, false, LOWER_BIAS, GROUPED>(both.lower, sets, ring, tile.b, tile.group, r, dk, du, partials,
                                                 part(tile), parity);
      });
    }
  }
  // No block leaves while another one may still write to its memory.
  __syncwarp();
  clusterArrive();
  clusterWait();
}
