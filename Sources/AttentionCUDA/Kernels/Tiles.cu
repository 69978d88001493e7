// Work on tiles in shared memory: the two matrix products, rotation, stores of rows, and the logit of a pass.

#if DTYPE == 2
__device__ __forceinline__ void split(float x, u32& high, u32& low) {
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(high) : "f"(x));
  float rest = x - __uint_as_float(high);
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(low) : "f"(rest));
}
__device__ __forceinline__ void mmaTF32(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
  asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
__device__ __forceinline__ void mma3(float (&c)[4], const u32 (&ah)[4], const u32 (&al)[4], float b0, float b1) {
  u32 h0, l0, h1, l1;
  split(b0, h0, l0);
  split(b1, h1, l1);
  mmaTF32(c, ah, l0, l1);
  mmaTF32(c, al, h0, h1);
  mmaTF32(c, ah, h0, h1);
}
#else
__device__ __forceinline__ void mma(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
#if DTYPE == 0
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
#else
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
#endif
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
__device__ __forceinline__ void loadMatrix(u32 (&r)[4], const T* p) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared32(p))
               : "memory");
}
__device__ __forceinline__ void loadMatrixTransposed(u32 (&r)[4], const T* p) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared32(p))
               : "memory");
}
#endif

// c[16, 8·NB] += a[16, D] · b[8·NB, D]ᵀ: both operands are rows of tiles.
template <int NB>
__device__ __forceinline__ void multiplyByTransposed(float (&c)[NB][4], const T* a, const T* b) {
  int lane = threadIdx.x & 31;
#if DTYPE == 2
  int g = lane >> 2, t = lane & 3;
#pragma unroll 4
  for (int k = 0; k < D; k += 8) {
    u32 ah[4], al[4];
    split(a[g * LD + k + t], ah[0], al[0]);
    split(a[(g + 8) * LD + k + t], ah[1], al[1]);
    split(a[g * LD + k + t + 4], ah[2], al[2]);
    split(a[(g + 8) * LD + k + t + 4], ah[3], al[3]);
#pragma unroll
    for (int n = 0; n < NB; n++)
      mma3(c[n], ah, al, b[(n * 8 + g) * LD + k + t], b[(n * 8 + g) * LD + k + t + 4]);
  }
#else
  const T* aLane = a + (lane & 15) * LD + (lane >> 4) * 8;
  const T* bLane = b + ((lane & 7) + (lane >> 4) * 8) * LD + ((lane >> 3) & 1) * 8;
#pragma unroll
  for (int k = 0; k < DP; k += 16) {
    u32 x[4], y[4];
    loadMatrix(x, aLane + k);
#pragma unroll
    for (int n = 0; n < NB; n += 2) {
      loadMatrix(y, bLane + n * 8 * LD + k);
      mma(c[n], x, y[0], y[1]);
      mma(c[n + 1], x, y[2], y[3]);
    }
  }
#endif
}

// c[16, D] += p[16, 8·NB] · v[8·NB, D]: p in registers in the C layout, v rows of a tile.
template <int NB>
__device__ __forceinline__ void multiply(float (&c)[ND][4], const float (&p)[NB][4], const T* v) {
  int lane = threadIdx.x & 31;
#if DTYPE == 2
  // Column t of the A operand stands for key 2t and column t + 4 for key 2t + 1, so p needs no shuffle.
  int g = lane >> 2, t = lane & 3;
#pragma unroll
  for (int k = 0; k < NB; k++) {
    u32 ah[4], al[4];
    split(p[k][0], ah[0], al[0]);
    split(p[k][2], ah[1], al[1]);
    split(p[k][1], ah[2], al[2]);
    split(p[k][3], ah[3], al[3]);
#pragma unroll
    for (int n = 0; n < ND; n++)
      mma3(c[n], ah, al, v[(k * 8 + 2 * t) * LD + n * 8 + g], v[(k * 8 + 2 * t + 1) * LD + n * 8 + g]);
  }
#else
  const T* vLane = v + (lane & 15) * LD + (lane >> 4) * 8;
#pragma unroll
  for (int k = 0; k < NB; k += 2) {
    u32 a[4] = {pack(p[k][0], p[k][1]), pack(p[k][2], p[k][3]), pack(p[k + 1][0], p[k + 1][1]),
                pack(p[k + 1][2], p[k + 1][3])};
#pragma unroll
    for (int n = 0; n < ND; n += 2) {
      u32 b[4];
      loadMatrixTransposed(b, vLane + k * 8 * LD + n * 8);
      mma(c[n], a, b[0], b[1]);
      mma(c[n + 1], a, b[2], b[3]);
    }
  }
#endif
}

template <int N>
__device__ __forceinline__ void clear(float (&c)[N][4]) {
#pragma unroll
  for (int n = 0; n < N; n++) c[n][0] = c[n][1] = c[n][2] = c[n][3] = 0.f;
}

__device__ __forceinline__ float quadSum(float x) {
  x += __shfl_xor_sync(~0u, x, 1);
  return x + __shfl_xor_sync(~0u, x, 2);
}
__device__ __forceinline__ float quadMax(float x) {
  x = fmaxf(x, __shfl_xor_sync(~0u, x, 1));
  return fmaxf(x, __shfl_xor_sync(~0u, x, 2));
}

template <int N>
__device__ __forceinline__ void loadWords(u32 (&x)[N], const T* p) {
  if constexpr (N == 4) {
    uint4 w = *reinterpret_cast<const uint4*>(p);
    x[0] = w.x, x[1] = w.y, x[2] = w.z, x[3] = w.w;
  } else {
    uint2 w = *reinterpret_cast<const uint2*>(p);
    x[0] = w.x, x[1] = w.y;
  }
}
template <int N>
__device__ __forceinline__ void storeWords(T* p, const u32 (&x)[N]) {
  if constexpr (N == 4)
    *reinterpret_cast<uint4*>(p) = make_uint4(x[0], x[1], x[2], x[3]);
  else
    *reinterpret_cast<uint2*>(p) = make_uint2(x[0], x[1]);
}

// Turns rows of a tile in place: channels i and i + D/2 of row r by `position(r)` of the table.
template <class Position>
__device__ __forceinline__ void rotateTile(T* tile, int rows, const float2* table, Position position) {
#if ROTARY
  // A thread takes 16 bytes of both halves of a row (8 where D/2 is no multiple of that).
  constexpr int width = D % (2 * VEC) == 0 ? VEC : VEC / 2, groups = D / 2 / width;
  for (int i = threadIdx.x; i < rows * groups; i += THREADS) {
    int row = i / groups, channel = i % groups * width;
    const float4* turn = reinterpret_cast<const float4*>(table + (i64)position(row) * (D / 2) + channel);
    float4 w[width / 2];  // cos, sin, cos, sin
#pragma unroll
    for (int c = 0; c < width / 2; c++) w[c] = __ldg(turn + c);
    T* low = tile + row * LD + channel;
    u32 x[width * sizeof(T) / 4], y[width * sizeof(T) / 4];
    loadWords(x, low);
    loadWords(y, low + D / 2);
#pragma unroll
    for (int c = 0; c < width / 2; c++) {
#if DTYPE == 2
      float2 a = make_float2(__uint_as_float(x[2 * c]), __uint_as_float(x[2 * c + 1]));
      float2 b = make_float2(__uint_as_float(y[2 * c]), __uint_as_float(y[2 * c + 1]));
      x[2 * c] = __float_as_uint(a.x * w[c].x - b.x * w[c].y);
      x[2 * c + 1] = __float_as_uint(a.y * w[c].z - b.y * w[c].w);
      y[2 * c] = __float_as_uint(b.x * w[c].x + a.x * w[c].y);
      y[2 * c + 1] = __float_as_uint(b.y * w[c].z + a.y * w[c].w);
#else
      float2 a = unpack(x[c]), b = unpack(y[c]);
      x[c] = pack(a.x * w[c].x - b.x * w[c].y, a.y * w[c].z - b.y * w[c].w);
      y[c] = pack(b.x * w[c].x + a.x * w[c].y, b.y * w[c].z + a.y * w[c].w);
#endif
    }
    storeWords(low, x);
    storeWords(low + D / 2, y);
  }
#endif
}

// Turns accumulators back by the angle of a row: the gradient before the rotation. Where D is a multiple of
// 16, channels i and i + D/2 lie in one thread; else two columns, that is two lanes, apart.
__device__ __forceinline__ void rotateBack(float (&c)[ND][4], const float2* table, int row0, int row1) {
#if ROTARY
  int t = threadIdx.x & 3;
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const float4* turn = reinterpret_cast<const float4*>(table + (i64)(half ? row1 : row0) * (D / 2));
#if D % 16 != 0
    constexpr int middle = D / 16;  // the block whose lower lanes end the first half
    bool low = t < 2;
    float2 other[D / 8];
#pragma unroll
    for (int n = 0; n < D / 8; n++) {
      other[n].x = __shfl_xor_sync(~0u, c[n][half * 2], 2);
      other[n].y = __shfl_xor_sync(~0u, c[n][half * 2 + 1], 2);
    }
#pragma unroll
    for (int n = 0; n < D / 8; n++) {
      // The first half's partner is the y of (x, y); the second half's is the x, and its angle the partner's.
      bool isX = n < middle || (n == middle && low);
      float2 y = low || n >= middle ? other[(n + middle) % (D / 8)] : other[n + middle + 1];
      float2 x = low ? other[n > middle ? n - middle - 1 : 0] : other[n >= middle ? n - middle : 0];
      float2 pair = isX ? y : x;
      float4 w = __ldg(turn + (isX ? n * 4 + t : (n - middle) * 4 + t - 2));
      float sign = isX ? 1.f : -1.f;
      c[n][half * 2] = c[n][half * 2] * w.x + sign * pair.x * w.y;
      c[n][half * 2 + 1] = c[n][half * 2 + 1] * w.z + sign * pair.y * w.w;
    }
#else
#pragma unroll
    for (int n = 0; n < ND / 2; n++) {
      float4 w = __ldg(turn + n * 4 + t);
      float x0 = c[n][half * 2], x1 = c[n][half * 2 + 1];
      float y0 = c[n + ND / 2][half * 2], y1 = c[n + ND / 2][half * 2 + 1];
      c[n][half * 2] = x0 * w.x + y0 * w.y;
      c[n][half * 2 + 1] = x1 * w.z + y1 * w.w;
      c[n + ND / 2][half * 2] = y0 * w.x - x0 * w.y;
      c[n + ND / 2][half * 2 + 1] = y1 * w.z - x1 * w.w;
    }
#endif
  }
#endif
}

// Transposes the 4 × 4 words of the four lanes that share a row.
__device__ __forceinline__ void transposeQuad(u32 (&x)[4]) {
  bool odd = threadIdx.x & 1, high = threadIdx.x & 2;
  u32 a = __shfl_xor_sync(~0u, odd ? x[0] : x[1], 1);
  u32 b = __shfl_xor_sync(~0u, odd ? x[2] : x[3], 1);
  u32 y0 = odd ? a : x[0], y1 = odd ? x[1] : a, y2 = odd ? b : x[2], y3 = odd ? x[3] : b;
  u32 e = __shfl_xor_sync(~0u, high ? y0 : y2, 2);
  u32 f = __shfl_xor_sync(~0u, high ? y1 : y3, 2);
  x[0] = high ? e : y0, x[1] = high ? f : y1, x[2] = high ? y2 : e, x[3] = high ? y3 : f;
}

// Writes one of a lane's two rows (half 0: row g, half 1: row g + 8), times `factor`, adding to what is
// there if asked: past L1, since another block of this launch may have written it. Four lanes share a row; with
// 16-bit types they first exchange 8-channel blocks so that each writes 16 contiguous bytes.
__device__ __forceinline__ void storeRow(T* row, const float (&c)[ND][4], int half, float factor, bool valid,
                                         bool accumulate) {
  int t = threadIdx.x & 3;
#if DTYPE == 2
#pragma unroll
  for (int n = 0; n < ND; n++) {
    float2* p = reinterpret_cast<float2*>(row + n * 8 + 2 * t);
    float2 x = make_float2(c[n][half * 2] * factor, c[n][half * 2 + 1] * factor);
    if (valid) {
      if (accumulate) {
        float2 old = __ldcg(p);
        x.x += old.x, x.y += old.y;
      }
      *p = x;
    }
  }
#else
  constexpr int blocks = D / 32;
  uint4* place = reinterpret_cast<uint4*>(row + t * 8);
  if (accumulate) {
    // What is there is read in whole chunks, all before the first store, exchanged into the accumulators'
    // layout, added in f32 and rounded once.
    uint4 old[blocks];
#pragma unroll
    for (int n = 0; n < blocks; n++) old[n] = valid ? __ldcg(place + n * 4) : make_uint4(0, 0, 0, 0);
#pragma unroll
    for (int n = 0; n < blocks; n++) {
      u32 x[4] = {old[n].x, old[n].y, old[n].z, old[n].w};
      transposeQuad(x);
#pragma unroll
      for (int i = 0; i < 4; i++) {
        float2 y = unpack(x[i]);
        x[i] = pack(c[n * 4 + i][half * 2] * factor + y.x, c[n * 4 + i][half * 2 + 1] * factor + y.y);
      }
      transposeQuad(x);
      if (valid) place[n * 4] = make_uint4(x[0], x[1], x[2], x[3]);
    }
  } else {
#pragma unroll
    for (int n = 0; n < blocks; n++) {
      u32 x[4];
#pragma unroll
      for (int i = 0; i < 4; i++)
        x[i] = pack(c[n * 4 + i][half * 2] * factor, c[n * 4 + i][half * 2 + 1] * factor);
      transposeQuad(x);
      if (valid) place[n * 4] = make_uint4(x[0], x[1], x[2], x[3]);
    }
  }
#pragma unroll
  for (int n = D / 8 / 4 * 4; n < D / 8; n++) {
    u32* p = reinterpret_cast<u32*>(row + n * 8 + 2 * t);
    if (valid) {
      float2 old = accumulate ? unpack(__ldcg(p)) : make_float2(0.f, 0.f);
      *p = pack(c[n][half * 2] * factor + old.x, c[n][half * 2 + 1] * factor + old.y);
    }
  }
#endif
}

// Copies positions first … first + COUNT − 1 of a fiber into a tile; positions outside [begin, end) become
// zeros.
template <int COUNT>
__device__ __forceinline__ void loadLine(T* tile, const T* fiber, i64 positionStride, int first, int begin,
                                         int end) {
  constexpr int chunks = D / VEC, step = THREADS / chunks;
  if constexpr (THREADS % chunks == 0 && COUNT % step == 0) {
    if (first >= begin && first + COUNT <= end) {
      // A thread keeps its chunk and walks down the rows.
      int row = threadIdx.x / chunks, chunk = threadIdx.x % chunks;
      const T* source = fiber + (first + row) * positionStride + chunk * VEC;
      T* destination = tile + row * LD + chunk * VEC;
#pragma unroll
      for (int n = 0; n < COUNT / step; n++)
        copy16(destination + n * step * LD, source + n * step * positionStride);
      return;
    }
  }
#pragma unroll 1
  for (int i = threadIdx.x; i < COUNT * chunks; i += THREADS) {
    int row = i / chunks, chunk = i % chunks, j = first + row;
    bool valid = j >= begin && j < end;
    copy16(tile + row * LD + chunk * VEC, fiber + (valid ? j * positionStride : 0) + chunk * VEC, valid);
  }
}

// The number of positions on a fiber whose token is below `end`.
__device__ __forceinline__ int fiberLength(const Pass& p, int origin, int end) {
  int length = end > origin ? (end - origin + p.stride - 1) / p.stride : 0;
#if !SLIDING
  length = min(length, p.size);
#endif
  return length;
}

// The first token of a fiber.
__device__ __forceinline__ int fiberOrigin(const Pass& p, int fiber) {
#if SLIDING
  return fiber;
#else
  return fiber / p.stride * (p.size * p.stride) + fiber % p.stride;
#endif
}

// The base-2 logit of a query `distance` positions after a key (negative: before it), from their dot
// product. `carried` is the query's ℓ of the pass below, in base 2; `bias` is null or the head's:
// [n_k] by distance for the sliding support, [n_k, n_k] by (query, key) for the block ones. A kernel of two
// passes says for each whether it is joint, has β or has a bias.
template <bool joint = JOINT, bool hasBeta = BETA, bool hasBias = BIAS>
__device__ __forceinline__ float logit(const Pass& p, float dot, int distance, int key, float beta, float carried,
                                       const float* bias) {
  float z = dot * p.scale;
  if constexpr (hasBias) {
#if SLIDING
    if ((u32)distance < (u32)p.size) z += __ldg(bias + distance) * LOG2E;
#else
    // Rows that no fiber fills, and neighbors packed into the same tile, lie outside.
    if (key < p.size && (u32)(distance + key) < (u32)p.size)
      z += __ldg(bias + (i64)(distance + key) * p.size + key) * LOG2E;
#endif
  }
  if constexpr (hasBeta) z = distance == 0 ? z : z + beta;
  if constexpr (joint) z = distance == 0 ? carried : z;
#if SLIDING
  if ((u32)distance >= (u32)p.size) z = -INFINITE;
#elif CAUSAL
  if (distance < 0) z = -INFINITE;
#endif
  return z;
}

// Turns a warp's 16 rows of dot products into exp2(z − top) and their sums. `size` positions of a fiber lie in
// a row of the tile each, fibers one after another; the warp's rows start at `first`, the keys it meets at
// `span`. A negative mark is a row that is no key; a `full` tile has none.
template <int size, bool joint, bool hasBeta, bool hasBias, int NB>
__device__ __forceinline__ void exponentiate(const Pass& p, float (&z)[NB][4], float (&top)[2], float (&sum)[2],
                                             int first, int span, const int* marks, bool full, float beta,
                                             const float (&carried)[2], const float* bias) {
  int lane = threadIdx.x & 31, g = lane >> 2, c = (lane & 3) * 2;
#pragma unroll
  for (int half = 0; half < 2; half++) top[half] = -INFINITE, sum[half] = 0.f;
#pragma unroll
  for (int n = 0; n < NB; n++)
#pragma unroll
    for (int e = 0; e < 4; e++) {
      int query = first + g + (e >> 1) * 8, key = span + n * 8 + c + (e & 1);
      float x = logit<joint, hasBeta, hasBias>(p, z[n][e], query - key, key % size, beta, carried[e >> 1], bias);
      bool seen = (full || marks[key] >= 0) && (size >= 16 || query / size == key / size);
      z[n][e] = seen ? x : -INFINITE;
      top[e >> 1] = fmaxf(top[e >> 1], z[n][e]);
    }
#pragma unroll
  for (int half = 0; half < 2; half++) {
    top[half] = quadMax(top[half]);
    if (top[half] == -INFINITE) top[half] = 0.f;
  }
#pragma unroll
  for (int n = 0; n < NB; n++)
#pragma unroll
    for (int e = 0; e < 4; e++) {
      z[n][e] = exp2Fast(z[n][e] - top[e >> 1]);
      sum[e >> 1] += z[n][e];
    }
}

__device__ __forceinline__ float inverseLog(float lse) {
  return lse == -INFINITE ? INFINITE : lse * LOG2E;  // exp2(z − ∞) = 0: a row without keys
}

// Sums a lane's value over the block in a fixed order; thread 0 writes the partial sum.
__device__ __forceinline__ void storePartial(float x, float* scratch, float* out) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(~0u, x, step);
  if ((threadIdx.x & 31) == 0) scratch[threadIdx.x / 32] = x;
  __syncthreads();
  if (threadIdx.x == 0) {
    float total = 0.f;
    for (int w = 0; w < WARPS; w++) total += scratch[w];
    *out = total;
  }
}
