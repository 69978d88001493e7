// The backward passes of the two lowest modes like BackwardFusedWarpgroup.cu's, for whole blocks of n_{m−1}·n_m tokens
// without padding, with the copies of BackwardBulk.cu. A consumer and two warps have the upper pass, the others
// the lower pass of the tokens before.

// Must match `FusedBulkParameters`.
struct FusedBulk {
  Fused both;
  Maps lower, upper;
};
static_assert(sizeof(FusedBulk) == 2624, "Swift's FusedBulkParameters has this size");

// Clusters end at other times than each other by a twelfth if all have the same number of stretches, so that they ask a
// counter in device memory for all but their first ones; a block has its copy of its cluster's answers.
#define AHEAD (SETS == 3 ? 3 : 4)               // steps from asking to using an answer
struct Dealt : Answers<16> {
  // A warp of one block tells all.
  __device__ __forceinline__ void tell(int step, int stretch) const {
    int lane = threadIdx.x & 31;
    if (lane < CLUSTER)
      asm volatile(
          "{ .reg .b32 there; mapa.shared::cluster.u32 there, %0, %1;\n"
          "st.relaxed.cluster.shared::cluster.u32 [there], %2; }" ::"r"(place(step)),
          "r"(lane), "r"(word(step, stretch))
          : "memory");
    __syncwarp();
  }
};

extern "C" __global__ void __launch_bounds__(THREADS, 1) __cluster_dims__(CLUSTER, 1, 1)
    backwardFusedBulk(const __grid_constant__ FusedBulk parameters) {
  extern __shared__ __align__(1024) char dynamic[];
  const Fused& both = parameters.both;
  const Pass& lower = both.lower;
  Sets sets(shared32(dynamic));
  Finished finished{sets.scratch + 64};
  if (threadIdx.x < CLUSTER) writeShared(finished.words + threadIdx.x * 4, 0);
  Dealt dealt{finished.words + CLUSTER * 4};
  dealt.prepare();
  sets.prepare();
  followPrevious();
  clusterArrive();
  clusterWait();
  int heads = GROUPED ? lower.ratioK : 1, groups = GROUPED ? lower.heads / lower.ratioK : lower.heads;
  constexpr int stretch = LOWER_SIZE * UPPER_SIZE;
  int stretches = lower.tokens / stretch, all = stretches * groups * lower.batch;
  int rank = blockIdx.x % CLUSTER, cluster = blockIdx.x / CLUSTER, clusters = gridDim.x / CLUSTER;
  int role = uniform(threadIdx.x / 128), warp = uniform(threadIdx.x / 32 & 3);
  int side = role == 0 ? warp & 1 : role - 1;  // side 0: the upper pass
  const Pass& p = side ? both.lower : both.upper;
  const Maps& maps = side ? parameters.lower : parameters.upper;
  // The tiles of one side; those of both take turns in the ring.
  auto work = [&](auto body, auto skip) {
    Ring ring;
    int parity = 0;
#pragma unroll 1
    for (int step = 0, next = 0, last = all; next < all || last < all; step++, last = next) {
      next = min(step < AHEAD ? cluster + step * clusters : dealt.take(step), all);
      // The lower pass is one stretch behind.
      int number = side ? last : next, index = step - side;
      bool has = number < all;
      Tile tile(has ? number : 0, stretches, groups);
      int origin = tile.place * stretch;
      Tokens tokens = side ? Tokens{origin + rank * 64, LOWER, 1} : Tokens{origin + rank * (64 / UPPER), 1, LOWER_SIZE};
      Place at = side ? Place{origin + rank * 64, 0, 0, tile.b}
                      : Place{tile.place * UPPER_SIZE, rank * (64 / UPPER), 0, tile.b};
      float dk[ND][4], du[ND][4];
      if (GROUPED) {
        clear(dk);
        clear(du);
      }
#pragma unroll 1
      for (int r = 0; r < heads; r++, ring.next(2), parity ^= 1) {
        Ring own = ring;
        own.next(side);
        at.h = tile.group * heads + r;
        if (has) body(own, tile, at, tokens, index + 1, r, dk, du, parity);
        else skip(own);
      }
    }
  };
  if (role == 0) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
    if (warp < 2) {
      work(
          [&](Ring ring, const Tile&, const Place& at, const Tokens& tokens, int count, int, auto&, auto&, int) {
            auto ask = [&] {
              if (!side) return;
              finished.await(count);
              // What other blocks wrote is read by copies.
              asm volatile("fence.proxy.async.global;" ::: "memory");
            };
            if (side) fetch<LOWER>(p, maps, sets, ring, side, at, tokens, ask);
            else fetch<UPPER>(p, maps, sets, ring, side, at, tokens, ask);
          },
          [&](Ring ring) { sets.skipFetch(ring, side); });
    } else {
      int* counter = reinterpret_cast<int*>(lower.dot);
      int dealtFirst = AHEAD * clusters, asked = 0;
      work(
          [&](Ring ring, const Tile&, const Place& at, const Tokens&, int count, int r, auto&, auto&, int) {
            bool lastHead = r == heads - 1;
            deliver(p, maps, sets, ring, side, at, lastHead, !side || !GROUPED || p.ratioU == 1 || lastHead, side == 1);
            if (side || !lastHead) return;
            if (threadIdx.x % 32 == 0) awaitBulk();
            __syncwarp();
            finished.tell(rank, count);
            if (rank > 0) return;
            if (asked < all) {
              int number = 0;
              if (threadIdx.x % 32 == 0) {
                number = atomicAdd(counter, 1);
                // Every cluster asks once in vain. The last one leaves the counter as it was.
                if (number == max(all - dealtFirst, 0) + clusters - 1) *counter = 0;
              }
              asked = min(dealtFirst + uniform(number), all);
            }
            dealt.tell(count - 1 + AHEAD, asked);
          },
          [&](Ring ring) { sets.skipDelivery(ring, side); });
      if (threadIdx.x % 32 == 0) awaitBulk();
    }
  } else {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
    i64 partials = (i64)lower.batch * stretches * CLUSTER;
    auto part = [&](const Tile& tile) { return ((i64)tile.b * stretches + tile.place) * CLUSTER + rank; };
    // A barrier tells no more than whether a phase is even or odd, so that none may be left out.
    auto passBy = [&](Ring ring) { sets.awaitFull(ring, side); };
    if constexpr (LOWER == UPPER && !JOINT && LOWER_BIAS == UPPER_BIAS && !BETA) {
      // One body for both consumers keeps the code within the instruction cache.
      work(
          [&](Ring ring, const Tile& tile, const Place& at, const Tokens& tokens, int, int r, auto& dk, auto& du,
              int parity) {
            consume<UPPER, false, false, UPPER_BIAS, GROUPED>(p, maps, sets, ring, at, tokens, r, dk, du, partials,
                                                              part(tile), parity, side == 1);
          },
          passBy);
    } else if (side == 0) {
      work(
          [&](Ring ring, const Tile& tile, const Place& at, const Tokens& tokens, int, int r, auto& dk, auto& du,
              int parity) {
            consume<UPPER, JOINT, BETA, UPPER_BIAS, false>(p, maps, sets, ring, at, tokens, r, dk, du, partials,
                                                           part(tile), parity, false);
          },
          passBy);
    } else {
      work(
          [&](Ring ring, const Tile& tile, const Place& at, const Tokens& tokens, int, int r, auto& dk, auto& du,
              int parity) {
            consume<LOWER, false, false, LOWER_BIAS, GROUPED>(p, maps, sets, ring, at, tokens, r, dk, du, partials,
                                                              part(tile), parity, true);
          },
          passBy);
    }
  }
  // No block leaves while another one may still write to its memory.
  __syncwarp();
  clusterArrive();
  clusterWait();
}
