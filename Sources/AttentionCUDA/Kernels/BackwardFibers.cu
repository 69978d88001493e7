// What the backward passes of one launch share, those of whole fibers (BackwardWhole.cu) and of windows (BackwardWindow.cu):
// fibers and their tiles, what barriers wait for, tiles turned in place, and which warp copies what.

// A fiber: its sequence, head, number and first token.
struct Fiber {
  int b, h, fiber, origin;
  // `number` counts the fibers of all lines, which are heads of sequences; `line` is its own.
  __device__ __forceinline__ void find(const WalkedBackward& p, int number, int line) {
    fiber = number - line * p.fibers;
    b = divide(line, p.byHeads);
    h = line - b * p.heads;
    origin = firstToken(p, fiber);
  }
  // Where tensor memory access finds a tile.
  struct Box {
    int position, fiber, h, b;
  };
  __device__ __forceinline__ Box box(const WalkedBackward& p, int tile) const {
    int line = divide(origin, p.byStride);
    return {line + tile * 64, origin - line * p.stride, h, b};
  }
};

// An arrival, and bytes that the barrier waits for besides.
__device__ __forceinline__ void expect(u32 barrier, u32 bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}

// Bytes beside numbers that a warp copies: all of its lanes arrive with their numbers, one of them once more for the bytes.
__device__ __forceinline__ void expectMore(u32 landed, u32 bytes) {
  asm volatile("mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [%0], %1;" ::"r"(landed), "r"(bytes) : "memory");
}
__device__ __forceinline__ void copyNumber(u32 place, const float* source) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(place), "l"(source) : "memory");
}
__device__ __forceinline__ void arriveWithCopies(u32 landed, int lane) {
  asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(landed) : "memory");
  if (lane == 0) arrive(landed);
}

// A warp arrives when all of its lanes are there.
__device__ __forceinline__ void arriveAt(u32 barrier, int lane) {
  __syncwarp();
  if (lane == 0) arrive(barrier);
}

__device__ __forceinline__ void storeTransposed(u32 address, const u32 (&x)[4]) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1,%2,%3,%4};" ::"r"(address), "r"(x[0]), "r"(x[1]),
               "r"(x[2]), "r"(x[3])
               : "memory");
}

#if ROTARY
// Turns a thread's rows of a tile, the first one by `here` and the others by a fixed step each.
__device__ __forceinline__ void turnTile(u32 place, Turns here, const Turns& jump) {
  uint4 a = loadShared(place), b = loadShared(FAR(place));
#pragma unroll
  for (int r = 0; r < ROUNDS; r++) {
    uint4 x = a, y = b;
    u32 row = place + r * ROUND * 128;
    if (r + 1 < ROUNDS) a = loadShared(row + ROUND * 128), b = loadShared(FAR(row + ROUND * 128));
    if (r > 0) here.advance(jump);
    here.rotate(row, x, y);
  }
  publish();
}

// Copies a row of the rotary table to shared memory: a block's first threads do.
__device__ __forceinline__ void keepTurns(u32 place, const float2* row) {
  if (threadIdx.x < D)
    asm volatile("st.shared.f32 [%0], %1;" ::"r"(place + threadIdx.x * 4),
                 "f"(reinterpret_cast<const float*>(row)[threadIdx.x])
                 : "memory");
}
#endif

// The warpgroup that copies: a warp each brings and sends tiles of queries and of keys.
template <class Where>
__device__ __forceinline__ void copyTiles(const WalkedBackward& p, const Where& at) {
  int warp = uniform(threadIdx.x / 32);
  if (warp == 0) fetchQueries(p, at);
  else if (warp == 1) fetchKeys(p, at);
  else if (warp == 2) sendQueries(p, at);
  else sendKeys(p, at);
}
