// One pass over a mode, backward, from the saved u and ℓ' and the gradients du' and dℓ':
//
//     p = exp(z − ℓ'),  dp = du'·uᵀ,  D = Σ p·dp − dℓ' = ⟨du', u'⟩ − dℓ',  dz = p·(dp − D)
//     dq = scale·dz·k,  dk = scale·dzᵀ·q,  du = pᵀ·du',  dβ = Σ off-diagonal dz,  dℓ(t) = dz(t, t) in joint
//
// No probability is stored and no sum is left to atomics: every output element has one owner.
//
// backwardShort owns whole fibers of up to 64 positions: q, k, u, du' → shared memory → z, p, dp, dz in
// registers → dq; p and dz → the memory of u and k → du, dk. Grouped-query heads are a loop inside.
// backwardFused does so for the passes of the two lowest modes, one after the other.
// backwardLongQuery owns 16·WARPS queries and streams their keys: dq, dℓ, dβ and D.
// backwardLongKey owns 16·WARPS keys and streams the queries that see them: dk, du, from transposed products.

#define ROWS (WARPS * 16)

// c[16 keys, D] += pᵀ[16, span queries] · x[span, D]; p lies in shared memory, one row a query.
template <int span, int pld>
__device__ __forceinline__ void multiplyTransposed(float (&c)[ND][4], const T* p, const T* x) {
  int lane = threadIdx.x & 31;
#if DTYPE == 2
  int g = lane >> 2, t = lane & 3;
#pragma unroll
  for (int k = 0; k < span; k += 8) {
    u32 ah[4], al[4];
    split(p[(k + t) * pld + g], ah[0], al[0]);
    split(p[(k + t) * pld + g + 8], ah[1], al[1]);
    split(p[(k + t + 4) * pld + g], ah[2], al[2]);
    split(p[(k + t + 4) * pld + g + 8], ah[3], al[3]);
#pragma unroll
    for (int n = 0; n < ND; n++)
      mma3(c[n], ah, al, x[(k + t) * LD + n * 8 + g], x[(k + t + 4) * LD + n * 8 + g]);
  }
#else
  const T* pLane = p + ((lane & 7) + (lane >> 4) * 8) * pld + ((lane >> 3) & 1) * 8;
  const T* xLane = x + (lane & 15) * LD + (lane >> 4) * 8;
#pragma unroll
  for (int k = 0; k < span; k += 16) {
    u32 a[4];
    loadMatrixTransposed(a, pLane + k * pld);
#pragma unroll
    for (int n = 0; n < ND; n += 2) {
      u32 b[4];
      loadMatrixTransposed(b, xLane + k * LD + n * 8);
      mma(c[n], a, b[0], b[1]);
      mma(c[n + 1], a, b[2], b[3]);
    }
  }
#endif
}

// What stands in a lane's two rows of a gradient that sums over passes: read before the product that is added to
// it, past L1, since another block of this launch may have written it.
struct Before {
#if DTYPE == 2 || D % 32 != 0
  bool accumulate;
  __device__ __forceinline__ Before(T* const (&)[2], const int (&)[2], bool accumulate) : accumulate(accumulate) {}
  __device__ __forceinline__ void addTo(T* const (&rows)[2], const float (&c)[ND][4], const int (&token)[2]) {
#pragma unroll
    for (int half = 0; half < 2; half++) storeRow(rows[half], c, half, 1.f, token[half] >= 0, accumulate);
  }
#else
  uint4 old[2][D / 32];
  __device__ __forceinline__ Before(T* const (&rows)[2], const int (&token)[2], bool accumulate) {
    int t = threadIdx.x & 3;
#pragma unroll
    for (int half = 0; half < 2; half++)
#pragma unroll
      for (int n = 0; n < D / 32; n++)
        old[half][n] = accumulate && token[half] >= 0
                           ? __ldcg(reinterpret_cast<const uint4*>(rows[half] + n * 32 + t * 8))
                           : make_uint4(0, 0, 0, 0);
  }
  // Adds in f32 and rounds once. Words change lanes twice: four lanes share a row.
  __device__ __forceinline__ void addTo(T* const (&rows)[2], const float (&c)[ND][4], const int (&token)[2]) {
    int t = threadIdx.x & 3;
#pragma unroll
    for (int half = 0; half < 2; half++)
#pragma unroll
      for (int n = 0; n < D / 32; n++) {
        u32 x[4] = {old[half][n].x, old[half][n].y, old[half][n].z, old[half][n].w};
        transposeQuad(x);
#pragma unroll
        for (int i = 0; i < 4; i++) {
          float2 y = unpack(x[i]);
          x[i] = pack(c[n * 4 + i][half * 2] + y.x, c[n * 4 + i][half * 2 + 1] + y.y);
        }
        transposeQuad(x);
        if (token[half] >= 0)
          *reinterpret_cast<uint4*>(rows[half] + n * 32 + t * 8) = make_uint4(x[0], x[1], x[2], x[3]);
      }
  }
#endif
};

// The tiles of a pass whose rows pack fibers of `fiber` positions: a row's mark is its token, −1 without one,
// −2 − t if it is padded: such a row's gradients are zero and it is no key. `full` tiles have tokens only. `load`
// copies such rows into a tile; gradients that are added to are asked of L2 early if it `prefetches`. `second`
// says that another pass of this launch comes first: its gradients are read once the cluster has met.
template <int fiber, bool joint, bool hasBeta, bool hasBias, bool prefetches, class Load>
__device__ __forceinline__ void backwardTile(const Pass& p, char* memory, const int* marks, float* scratch, int full,
                                             bool second, int group, int b, Load load) {
  // Opaque to the compiler, which otherwise writes the whole body twice.
  asm volatile("" : "+r"(full));
  constexpr int span = fiber < 16 ? 16 : fiber, pld = span + (DTYPE == 2 ? 4 : 8), wide = LD > pld ? LD : pld;
  T* q = reinterpret_cast<T*>(memory);
  T* dout = q + ROWS * LD;
  T* k = dout + ROWS * LD;
  T* u = k + ROWS * wide;
  if (prefetches && p.accumulate && !second) prefetchRows(p.dk + b * p.dkB + group * p.dkH, p.dkN, marks, ROWS);

  constexpr int NB = span / 8;
  int lane = threadIdx.x & 31, g = lane >> 2, c = (lane & 3) * 2;
  int first = threadIdx.x / 32 * 16, base = first / span * span;
  float dk[ND][4], du[ND][4];
  clear(dk);
  clear(du);
#if GROUPED
  for (int r = 0; r < p.ratioK; r++) {
#else
  {
    constexpr int r = 0;
#endif
    int h = group * p.ratioK + r;
    __syncthreads();
    clearPadding(k, ROWS);
    clearPadding(u, ROWS);
    load(q, p.q + b * p.qB + h * p.qH, p.qN);
    load(k, p.k + b * p.kB + group * p.kH, p.kN);
    commit();
    if (second && r == 0) clusterWait();
    load(u, p.u + b * p.uB + h / p.ratioU * p.uH, p.uN);
    load(dout, p.dout + b * p.doB + h * p.doH, p.doN);
    commit();
    if (prefetches && p.accumulate && !second) prefetchRows(p.dq + b * p.dqB + h * p.dqH, p.dqN, marks, ROWS);
    i64 lseRow = (i64)(b * p.heads + h) * p.lseN;
    int mark[2] = {marks[first + g], marks[first + g + 8]}, token[2];
    float carried[2], total[2], dlse[2], beta = 0.f;
#pragma unroll
    for (int half = 0; half < 2; half++) {
      token[half] = mark[half] < -1 ? -2 - mark[half] : mark[half];
      bool live = mark[half] >= 0;
      total[half] = live ? p.lseOut[lseRow + token[half]] : -INFINITE;
      carried[half] = joint && live ? p.lseIn[lseRow + token[half]] : 0.f;
    }
    if constexpr (hasBeta) beta = toFloat(p.beta[h]) * LOG2E;
    const float* bias = p.bias ? p.bias + (i64)h * p.biasStride : nullptr;
    await<1>();
    __syncthreads();
#if ROTARY
    rotateTile(q, ROWS, p.rotary, [](int row) { return row % fiber; });
    rotateTile(k, ROWS, p.rotary, [](int row) { return row % fiber; });
    __syncthreads();
#endif
#pragma unroll
    for (int half = 0; half < 2; half++) total[half] = inverseLog(total[half]), carried[half] *= LOG2E;
    float z[NB][4], dz[NB][4], dot[2] = {0.f, 0.f}, dbeta = 0.f;
    clear(z);
    multiplyByTransposed<NB>(z, q + first * LD, k + base * LD);
#pragma unroll
    for (int n = 0; n < NB; n++)
#pragma unroll
      for (int e = 0; e < 4; e++) {
        int query = first + g + (e >> 1) * 8, key = base + n * 8 + c + (e & 1);
        float x = logit<joint, hasBeta, hasBias>(p, z[n][e], query - key, key % fiber, beta, carried[e >> 1], bias);
        bool seen = (full || marks[key] >= 0) && (fiber >= 16 || query / fiber == key / fiber);
        z[n][e] = seen ? exp2Fast(x - total[e >> 1]) : 0.f;
      }
    await<0>();
    __syncthreads();
    clear(dz);
    multiplyByTransposed<NB>(dz, dout + first * LD, u + base * LD);
#pragma unroll
    for (int n = 0; n < NB; n++)
#pragma unroll
      for (int e = 0; e < 4; e++) dot[e >> 1] += z[n][e] * dz[n][e];
#pragma unroll
    for (int half = 0; half < 2; half++)
      dlse[half] = mark[half] >= 0 && p.dlseOut ? __ldcg(p.dlseOut + lseRow + token[half]) : 0.f;
    dot[0] = quadSum(dot[0]) - dlse[0];
    dot[1] = quadSum(dot[1]) - dlse[1];
#pragma unroll
    for (int n = 0; n < NB; n++)
#pragma unroll
      for (int e = 0; e < 4; e++) {
        bool diagonal = first + g + (e >> 1) * 8 == base + n * 8 + c + (e & 1);
        float x = z[n][e] * (dz[n][e] - dot[e >> 1]);
        if (!diagonal) dbeta += x;
        if (joint && diagonal) {
          if (token[e >> 1] >= 0) p.dlseIn[lseRow + token[e >> 1]] = x;
          x = 0.f;
        }
        dz[n][e] = x * p.rawScale;
      }
    {
      float dq[ND][4];
      clear(dq);
      T* rows[2];
#pragma unroll
      for (int half = 0; half < 2; half++)
        rows[half] = p.dq + b * p.dqB + h * p.dqH + (token[half] < 0 ? 0 : token[half]) * p.dqN;
      Before before(rows, token, p.accumulate);
      multiply<NB>(dq, dz, k + base * LD);
#if ROTARY
      rotateBack(dq, p.rotary, (first + g) % fiber, (first + g + 8) % fiber);
#endif
      before.addTo(rows, dq, token);
    }
    __syncthreads();
    // p takes the memory of u, dz that of k.
#pragma unroll
    for (int n = 0; n < NB; n++)
#pragma unroll
      for (int half = 0; half < 2; half++) {
        int at = (first + g + half * 8) * pld + n * 8 + c;
#if DTYPE == 2
        *reinterpret_cast<float2*>(u + at) = make_float2(z[n][half * 2], z[n][half * 2 + 1]);
        *reinterpret_cast<float2*>(k + at) = make_float2(dz[n][half * 2], dz[n][half * 2 + 1]);
#else
        *reinterpret_cast<u32*>(u + at) = pack(z[n][half * 2], z[n][half * 2 + 1]);
        *reinterpret_cast<u32*>(k + at) = pack(dz[n][half * 2], dz[n][half * 2 + 1]);
#endif
      }
    if constexpr (hasBeta)
      storePartial(dbeta, scratch, p.dbeta + (i64)h * p.batch * gridDim.x + b * gridDim.x + blockIdx.x);
    __syncthreads();
    multiplyTransposed<span, pld>(du, u + base * pld + first - base, dout + base * LD);
    if (p.ratioU == 1 || r == p.ratioK - 1) {
#pragma unroll
      for (int half = 0; half < 2; half++)
        storeRow(p.du + b * p.duB + h / p.ratioU * p.duH + (token[half] < 0 ? 0 : token[half]) * p.duN, du, half,
                 1.f, token[half] >= 0, false);
      clear(du);
    }
#if GROUPED
    bool last = r == p.ratioK - 1;
#else
    constexpr bool last = true;
#endif
    T* rows[2];
#pragma unroll
    for (int half = 0; half < 2; half++)
      rows[half] = p.dk + b * p.dkB + group * p.dkH + (token[half] < 0 ? 0 : token[half]) * p.dkN;
    Before before(rows, token, p.accumulate && last);
    multiplyTransposed<span, pld>(dk, k + base * pld + first - base, q + base * LD);
    if (last) {
#if ROTARY
      rotateBack(dk, p.rotary, (first + g) % fiber, (first + g + 8) % fiber);
#endif
      before.addTo(rows, dk, token);
    }
  }
}

#ifdef SHORT
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) backwardShort(const __grid_constant__ Pass p) {
  followPrevious();
  extern __shared__ __align__(16) char memory[];
  int* marks = reinterpret_cast<int*>(memory + TILES);
  float* scratch = reinterpret_cast<float*>(marks + ROWS);
  int groups = p.heads / p.ratioK, group = blockIdx.y % groups, b = blockIdx.y / groups;
  int limit = p.lengths ? min(p.lengths[b], p.tokens) : p.tokens;
  for (int row = threadIdx.x; row < ROWS; row += THREADS) {
    int fiber = blockIdx.x * (ROWS / FIBER) + row / FIBER, j = row % FIBER, t = -1;
    if (fiber < p.fibers) {
      int origin = fiberOrigin(p, fiber);
      if (j < fiberLength(p, origin, p.tokens)) t = origin + j * p.stride;
    }
    marks[row] = t < limit ? t : -2 - t;
  }
  clearPadding(reinterpret_cast<T*>(memory), 2 * ROWS);
  bool full = __syncthreads_and(threadIdx.x >= ROWS || marks[threadIdx.x % ROWS] >= 0);
  backwardTile<FIBER, JOINT, BETA, BIAS, false>(
      p, memory, marks, scratch, full, false, group, b,
      [&](T* tile, const T* base, i64 stride) { loadTile<ROWS>(tile, base, stride, marks, full); });
}
#endif

#ifdef FUSED
// The passes of the two lowest modes: a cluster owns n_{m−1}·n_m consecutive tokens, the whole fibers of both. The
// upper pass leaves dq, dk and the gradient of its u in device memory, where the lower one finds them after
// the cluster has met: in L2, as q and k.
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) __cluster_dims__(CLUSTER, 1, 1)
    backwardFused(const __grid_constant__ Fused both) {
  followPrevious();
  extern __shared__ __align__(16) char memory[];
  int* marks = reinterpret_cast<int*>(memory + TILES);  // of the upper pass, then of the lower one
  float* scratch = reinterpret_cast<float*>(marks + 2 * ROWS);
  int groups = GROUPED ? both.lower.heads / both.lower.ratioK : both.lower.heads;
  int group = blockIdx.y % groups, b = blockIdx.y / groups, origin = blockIdx.x / CLUSTER * (LOWER_SIZE * UPPER_SIZE);
  int limit = both.lower.lengths ? min(both.lower.lengths[b], both.lower.tokens) : both.lower.tokens;
  int full = LOWER_SIZE * UPPER_SIZE == CLUSTER * ROWS && origin + LOWER_SIZE * UPPER_SIZE <= limit;
  markRows(both.lower, marks + ROWS, marks, limit, origin);
  clearPadding(reinterpret_cast<T*>(memory), 2 * ROWS);
  __syncthreads();
  auto load = [&](int pass) {
    return [&, pass](T* tile, const T* base, i64 stride) {
      loadRows(pass == 0, tile, base, stride, marks + pass * ROWS, full, origin);
    };
  };
  if constexpr (LOWER == UPPER && !JOINT && LOWER_BIAS == UPPER_BIAS && !BETA) {
    // One body for both passes keeps the code within the instruction cache.
#pragma unroll 1
    for (int pass = 0; pass < 2; pass++) {
      backwardTile<UPPER, false, false, UPPER_BIAS, true>(pass ? both.lower : both.upper, memory, marks + pass * ROWS,
                                                    scratch, full, pass, group, b, load(pass));
      if (pass == 0) clusterArrive();
    }
  } else {
    backwardTile<UPPER, JOINT, BETA, UPPER_BIAS, true>(both.upper, memory, marks, scratch, full, false, group, b, load(0));
    clusterArrive();
    backwardTile<LOWER, false, false, LOWER_BIAS, true>(both.lower, memory, marks + ROWS, scratch, full, true, group, b,
                                                  load(1));
  }
}
#endif
