// How BackwardWarpgroup.cu's consumers bring sums from their registers to memory: turned back, by way of shared
// memory, so that rows leave whole.

#if ROTARY
// The turns of a lane's columns in one row of the table. Fetched here and not where they are needed.
__device__ __forceinline__ void loadTurns(float4 (&w)[ND / 2], const float2* table, int row, int lane) {
  const float4* turn = reinterpret_cast<const float4*>(table + (i64)abs(row) * (D / 2)) + (lane & 3);
#pragma unroll
  for (int n = 0; n < ND / 2; n++)
    asm volatile("ld.global.nc.v4.f32 {%0,%1,%2,%3}, [%4];"
                 : "=f"(w[n].x), "=f"(w[n].y), "=f"(w[n].z), "=f"(w[n].w)
                 : "l"(turn + n * 4));
}

// Turns accumulators back: a lane's first row by `w` (the other way if `negative`), the one eight rows on by the
// table's eighth row more.
__device__ __forceinline__ void turnBack(float (&c)[ND][4], const float4 (&turns)[ND / 2], bool negative,
                                         const float2* table, int lane) {
  float sign = negative ? -1.f : 1.f;
  const float4* eighth = reinterpret_cast<const float4*>(table + 8 * (D / 2)) + (lane & 3);
#pragma unroll
  for (int n = 0; n < ND / 2; n++) {
    float4 w = turns[n], d = __ldg(eighth + n * 4);
    w.y *= sign, w.w *= sign;
#pragma unroll
    for (int half = 0; half < 2; half++) {
      if (half)
        w = make_float4(w.x * d.x - w.y * d.y, w.y * d.x + w.x * d.y, w.z * d.z - w.w * d.w, w.w * d.z + w.z * d.w);
      float x0 = c[n][half * 2], x1 = c[n][half * 2 + 1];
      float y0 = c[n + ND / 2][half * 2], y1 = c[n + ND / 2][half * 2 + 1];
      c[n][half * 2] = x0 * w.x + y0 * w.y;
      c[n][half * 2 + 1] = x1 * w.z + y1 * w.w;
      c[n + ND / 2][half * 2] = y0 * w.x - x0 * w.y;
      c[n + ND / 2][half * 2 + 1] = y1 * w.z - x1 * w.w;
    }
  }
}

// Adds a warp's staged rows to accumulators, all turned back by the same turns.
__device__ __forceinline__ void addTurned(float (&c)[ND][4], const float4 (&turns)[ND / 2], u32 stageLane) {
#pragma unroll
  for (int i = 0; i < ND / 4; i++) {
    u32 low[4], high[4];
    loadMatrices(low, (stageLane ^ i % 4 * 32) + i / 4 * PANEL);
    if (D == 128) loadMatrices(high, (stageLane ^ i % 4 * 32) + PANEL);
    else loadMatrices(high, stageLane ^ (i + 2) * 32);
#pragma unroll
    for (int e = 0; e < 4; e++) {
      float2 x = unpack(low[e]), y = unpack(high[e]);
      int n = i * 2 + e / 2, half = e % 2 * 2;
      float4 w = turns[n];
      c[n][half] += x.x * w.x + y.x * w.y;
      c[n][half + 1] += x.y * w.z + y.y * w.w;
      c[n + ND / 2][half] += y.x * w.x - x.x * w.y;
      c[n + ND / 2][half + 1] += y.y * w.z - x.y * w.w;
    }
  }
}
#endif

// A consumer's warps wait for one another.
__device__ __forceinline__ void meet(int group) {
  if (group == 0) asm volatile("bar.sync 1, 128;" ::: "memory");
  else asm volatile("bar.sync 2, 128;" ::: "memory");
}

// Where a warp's sixteen rows of results go: rows j, j + 4, … of a fiber are a lane's, 128 bytes at a time.
struct Target {
  T* place;     // of the first of them
  i64 step;     // from one to the next
  int j, keys;  // the first one's position; the positions that are no padding
  int end;      // those that are written
  __device__ __forceinline__ Target(T* line, i64 positionStep, int block, int first, int keys, int end)
      : step(positionStep * 4), j(block + first + (threadIdx.x & 31) / 8), keys(keys), end(end) {
    place = line + j * positionStep + threadIdx.x % 8 * 8;
  }
};

// Adds what is there to accumulators, by way of staged rows.
__device__ __forceinline__ void addRows(float (&c)[ND][4], const Target& to, u32 stageLane, u32 stageRow) {
  __syncwarp();
#pragma unroll
  for (int i = 0; i < ND / 2; i++) {
    uint4 x = make_uint4(0, 0, 0, 0);
    if (to.j + i % 4 * 4 < to.keys)
      asm volatile("ld.global.cg.v4.u32 {%0,%1,%2,%3}, [%4];"
                   : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w)
                   : "l"(to.place + i % 4 * to.step + i / 4 * 64)
                   : "memory");
    const u32 w[4] = {x.x, x.y, x.z, x.w};
    storeShared((stageRow ^ i % 2 * 64) + i % 4 * 512 + i / 4 * PANEL, w);
  }
  __syncwarp();
#pragma unroll
  for (int i = 0; i < ND / 2; i++) {
    u32 y[4];
    loadMatrices(y, (stageLane ^ i % 4 * 32) + i / 4 * PANEL);
#pragma unroll
    for (int e = 0; e < 4; e++) {
      float2 old = unpack(y[e]);
      float(&a)[4] = c[i * 2 + e / 2];
      a[e % 2 * 2] += old.x, a[e % 2 * 2 + 1] += old.y;
    }
  }
}

__device__ __forceinline__ void packRows(u32 (&y)[ND / 2][4], const float (&c)[ND][4]) {
#pragma unroll
  for (int i = 0; i < ND / 2; i++)
#pragma unroll
    for (int e = 0; e < 4; e++) {
      const float(&a)[4] = c[i * 2 + e / 2];
      y[i][e] = pack(a[e % 2 * 2], a[e % 2 * 2 + 1]);
      asm volatile("" : "+r"(y[i][e]));
    }
}

__device__ __forceinline__ void stageRows(const u32 (&y)[ND / 2][4], u32 stageLane) {
  __syncwarp();
#pragma unroll
  for (int i = 0; i < ND / 2; i++) storeMatrices((stageLane ^ i % 4 * 32) + i / 4 * PANEL, y[i][0], y[i][1], y[i][2], y[i][3]);
}

// Sends a staged tile to memory, or has it added to what is there (there and here rounded), from one thread, in the
// background; `awaitSent` says that the staged rows have been read.
template <class Box>
__device__ __forceinline__ void sendTile(u32 tile, const Map& map, const Box& at, bool add) {
#define SEND(WHAT)                                                                                                   \
  for (int n = 0; n < D; n += 64)                                                                                    \
  asm volatile("{ .reg .pred p; elect.sync _|p, 0xffffffff; @p " WHAT " [%0, {%1, %2, %3, %4, %5}], [%6]; }" ::"l"(&map), \
               "r"(n), "r"(at.position), "r"(at.fiber), "r"(at.h), "r"(at.b), "r"(tile + n / 64 * PANEL)             \
               : "memory")
  if (add) {
#pragma unroll
    SEND("cp.reduce.async.bulk.tensor.5d.global.shared::cta.add.tile.bulk_group");
  } else {
#pragma unroll
    SEND("cp.async.bulk.tensor.5d.global.shared::cta.bulk_group");
  }
  asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}
__device__ __forceinline__ void awaitSent() {
  asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory");
  __syncwarp();
}

// Writes the staged rows of a block that ends in padding, which gets zeros, or of a fiber's last one.
__device__ __forceinline__ void storeRows(const Target& to, u32 stageRow) {
  __syncwarp();
#pragma unroll
  for (int i = 0; i < ND / 2; i++) {
    int j = to.j + i % 4 * 4;
    uint4 x = loadShared((stageRow ^ i % 2 * 64) + i % 4 * 512 + i / 4 * PANEL);
    if (j < to.end)
      storeGlobal(to.place + i % 4 * to.step + i / 4 * 64, j < to.keys ? x : make_uint4(0, 0, 0, 0));
  }
}

// Writes ⟨du, u⟩ of a warp's sixteen rows, du as it is rounded, u in a tile; `j` is the first one's position.
__device__ __forceinline__ void storeDots(const float (&c)[ND][4], u32 tile, int first, float* line, i64 step, int j,
                                          int keys, int lane) {
  u32 place = tile + (first + (lane & 15)) * 128 + (((lane >> 4 ^ lane) & 7) << 4);
  float sum[2] = {0.f, 0.f};
#pragma unroll
  for (int i = 0; i < ND / 2; i++) {
    u32 x[4];
    loadMatrices(x, (place ^ i % 4 * 32) + i / 4 * PANEL);
#pragma unroll
    for (int e = 0; e < 4; e++) {
      const float(&d)[4] = c[i * 2 + e / 2];
      float2 a = unpack(x[e]), b = unpack(pack(d[e % 2 * 2], d[e % 2 * 2 + 1]));
      sum[e % 2] += a.x * b.x;
      sum[e % 2] += a.y * b.y;
    }
  }
#pragma unroll
  for (int half = 0; half < 2; half++) {
    sum[half] += __shfl_xor_sync(~0u, sum[half], 1);
    sum[half] += __shfl_xor_sync(~0u, sum[half], 2);
    int t = j + lane / 4 + half * 8;
    if (lane % 4 == 0 && t < keys) line[t * step] = sum[half];
  }
}

// A quarter of the channels of a lane's two rows: chunks of eight, every fourth one. Four lanes have a row.
__device__ __forceinline__ void loadQuarters(uint4 (&x)[ND / 2], const T* line, i64 step, int j, int keys) {
  int lane = threadIdx.x & 31;
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const T* row = line + (j + half * 8) * step + (lane & 3) * 8;
#pragma unroll
    for (int i = 0; i < ND / 4; i++) {
      // Neighboring rows begin with different ones: no two lanes read the same banks of the tile.
      uint4& y = x[half * (ND / 4) + i];
      y = make_uint4(0, 0, 0, 0);
      if (j + half * 8 < keys) y = __ldg(reinterpret_cast<const uint4*>(row + (i ^ (lane >> 2 & 1)) * 32));
    }
  }
}

// Says that nobody needs what was there: else registers are kept for it.
__device__ __forceinline__ void forget(uint4 (&x)[ND / 2]) {
#pragma unroll
  for (int i = 0; i < ND / 2; i++) x[i] = make_uint4(0, 0, 0, 0);
}

// ⟨row, row of a tile⟩ of both rows.
__device__ __forceinline__ void dotQuarters(float (&sum)[2], const uint4 (&x)[ND / 2], u32 tile, int row) {
  int lane = threadIdx.x & 31;
#pragma unroll
  for (int half = 0; half < 2; half++) {
    sum[half] = 0.f;
#pragma unroll
    for (int i = 0; i < ND / 4; i++) {
      int chunk = (i ^ (lane >> 2 & 1)) * 4 + (lane & 3);
      uint4 a = x[half * (ND / 4) + i], b = loadShared(tile + swizzled(row + half * 8, chunk));
      const u32 v[4] = {a.x, a.y, a.z, a.w}, w[4] = {b.x, b.y, b.z, b.w};
#pragma unroll
      for (int e = 0; e < 4; e++) {
        float2 c = unpack(v[e]), d = unpack(w[e]);
        sum[half] += c.x * d.x;
        sum[half] += c.y * d.y;
      }
    }
    sum[half] += __shfl_xor_sync(~0u, sum[half], 1);
    sum[half] += __shfl_xor_sync(~0u, sum[half], 2);
  }
}
