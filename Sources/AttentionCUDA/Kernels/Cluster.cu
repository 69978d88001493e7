// Two passes of one launch: a cluster of blocks owns the n_{m−1}·n_m consecutive tokens that are whole fibers
// of both lowest modes. LOWER_SIZE and UPPER_SIZE are their sizes, LOWER and UPPER the powers of two that hold them.
struct Fused {
  Pass lower, upper;
};

__device__ __forceinline__ void clusterArrive() {
  asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
}
// Publishes nothing: says only that this block has come here. A release waits for all copies in flight.
__device__ __forceinline__ void clusterArriveRelaxed() {
  asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory");
}
__device__ __forceinline__ void clusterWait() { asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory"); }

#ifdef CLUSTER
// A word a block: how many stretches of tokens its upper pass has finished. Words of their own that only grow cannot mix
// up stretches, however far a block is ahead.
struct Finished {
  u32 words;
  // A warp tells all blocks, behind what it has seen or waited for.
  __device__ __forceinline__ void tell(int rank, int count) const {
    int lane = threadIdx.x & 31;
    if (lane < CLUSTER)
      asm volatile(
          "{ .reg .b32 there; mapa.shared::cluster.u32 there, %0, %1;\n"
          "st.release.cluster.shared::cluster.u32 [there], %2; }" ::"r"(words + rank * 4),
          "r"(lane), "r"(count)
          : "memory");
    __syncwarp();
  }
  __device__ __forceinline__ void await(int count) const {
    int lane = threadIdx.x & 31, seen = count;
    do {
      if (lane < CLUSTER)
        asm volatile("ld.acquire.cluster.shared::cta.u32 %0, [%1];" : "=r"(seen) : "r"(words + lane * 4) : "memory");
    } while (seen < count);
    __syncwarp();
  }
};

// The token of a row of this block, or what is no token of this fold's block: its negative.
__device__ __forceinline__ int tokenOf(bool upper, int row, int origin) {
  constexpr int rows = WARPS * 16;
  int rank = blockIdx.x % CLUSTER, lower = upper ? UPPER : LOWER;
  int along = rank * (rows / lower) + row / lower, across = row % lower;
  int x = upper ? across : along, y = upper ? along : across;
  return x < UPPER_SIZE && y < LOWER_SIZE ? origin + x * LOWER_SIZE + y : -1;
}

// Marks a block's rows in both passes with their tokens; −1 without one, −2 − t from `limit` on: padding.
__device__ __forceinline__ void markRows(const Pass& p, int* lowerMark, int* upperMark, int limit, int origin) {
  for (int row = threadIdx.x; row < WARPS * 16; row += THREADS) {
    int t = tokenOf(false, row, origin);
    lowerMark[row] = t < p.tokens ? t < limit ? t : -2 - t : -1;
    t = tokenOf(true, row, origin);
    upperMark[row] = t < p.tokens ? t < limit ? t : -2 - t : -1;
  }
}

// Whether the threads divide a tile's 16-byte pieces so that each keeps its channels.
constexpr bool isStrided = THREADS % (D / VEC) == 0 && WARPS * 16 % (THREADS / (D / VEC)) == 0;

// Copies this block's rows of a pass into a tile. Where all rows have tokens, a thread's rows lie at constant
// multiples of the row stride, and no mark is read.
__device__ __forceinline__ void loadRows(bool upper, T* tile, const T* base, i64 rowStride, const int* marks,
                                         bool full, int origin) {
  constexpr int rows = WARPS * 16, chunks = D / VEC, step = THREADS / chunks;
  if constexpr (isStrided && LOWER_SIZE * UPPER_SIZE == CLUSTER * rows) {
    if (full) {
      int row = threadIdx.x / chunks, chunk = threadIdx.x % chunks;
      const T* source = base + tokenOf(upper, row, origin) * rowStride + chunk * VEC;
      T* destination = tile + row * LD + chunk * VEC;
#pragma unroll
      for (int n = 0; n < rows / step; n++) {
        int next = n * step;
        copy16(destination + next * LD,
               source + (upper ? next % UPPER * LOWER_SIZE + next / UPPER : next) * rowStride);
      }
      return;
    }
  }
  loadTile<rows>(tile, base, rowStride, marks, full);
}
#endif
