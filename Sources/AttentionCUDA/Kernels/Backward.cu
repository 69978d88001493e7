// One pass over a mode, backward, from the saved u and ℓ' and the gradients du' and dℓ':
//
//     p = exp(z − ℓ'),  dp = du'·uᵀ,  D = Σ p·dp − dℓ' = ⟨du', u'⟩ − dℓ',  dz = p·(dp − D)
//     dq = scale·dz·k,  dk = scale·dzᵀ·q,  du = pᵀ·du',  dβ = Σ off-diagonal dz,  dℓ(t) = dz(t, t) in joint
//
// No probability is stored and no sum is left to atomics: every output element has one owner.
//
// backwardShort owns whole fibers of up to 64 positions: q, k, u, du' → shared memory → z, p, dp, dz in
// registers → dq; p and dz → the memory of u and k → du, dk. Grouped-query heads are a loop inside.
// backwardLongQuery owns 16·WARPS queries and streams their keys: dq, dℓ, dβ and D.
// backwardLongKey owns 16·WARPS keys and streams the queries that see them: dk, du, from transposed products.

#ifdef SHORT
#define ROWS (WARPS * 16)
#define SPAN (FIBER < 16 ? 16 : FIBER)
#if DTYPE == 2
#define PLD (SPAN + 4)
#else
#define PLD (SPAN + 8)
#endif
#define WIDE (LD > PLD ? LD : PLD)

// c[16 keys, D] += pᵀ[16, SPAN queries] · x[SPAN, D]; p lies in shared memory, one row a query.
__device__ __forceinline__ void multiplyTransposed(float (&c)[ND][4], const T* p, const T* x) {
  int lane = threadIdx.x & 31;
#if DTYPE == 2
  int g = lane >> 2, t = lane & 3;
#pragma unroll
  for (int k = 0; k < SPAN; k += 8) {
    u32 ah[4], al[4];
    split(p[(k + t) * PLD + g], ah[0], al[0]);
    split(p[(k + t) * PLD + g + 8], ah[1], al[1]);
    split(p[(k + t + 4) * PLD + g], ah[2], al[2]);
    split(p[(k + t + 4) * PLD + g + 8], ah[3], al[3]);
#pragma unroll
    for (int n = 0; n < ND; n++)
      mma3(c[n], ah, al, x[(k + t) * LD + n * 8 + g], x[(k + t + 4) * LD + n * 8 + g]);
  }
#else
  const T* pLane = p + ((lane & 7) + (lane >> 4) * 8) * PLD + ((lane >> 3) & 1) * 8;
  const T* xLane = x + (lane & 15) * LD + (lane >> 4) * 8;
#pragma unroll
  for (int k = 0; k < SPAN; k += 16) {
    u32 a[4];
    loadMatrixTransposed(a, pLane + k * PLD);
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

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) backwardShort(const __grid_constant__ Pass p) {
  extern __shared__ __align__(16) char memory[];
  T* q = reinterpret_cast<T*>(memory);
  T* dout = q + ROWS * LD;
  T* k = dout + ROWS * LD;
  T* u = k + ROWS * WIDE;
  int* keyToken = reinterpret_cast<int*>(u + ROWS * WIDE);
  float* scratch = reinterpret_cast<float*>(keyToken + ROWS);

  int groups = p.heads / p.ratioK, group = blockIdx.y % groups, b = blockIdx.y / groups;
  int limit = p.lengths ? min(p.lengths[b], p.tokens) : p.tokens;
  for (int row = threadIdx.x; row < ROWS; row += THREADS) {
    int fiber = blockIdx.x * (ROWS / FIBER) + row / FIBER, j = row % FIBER, t = -1;
    if (fiber < p.fibers) {
      int origin = fiberOrigin(p, fiber);
      if (j < fiberLength(p, origin, p.tokens)) t = origin + j * p.stride;
    }
    // A padded token keeps its row (its gradients are zero) but is no key: −2 − t.
    keyToken[row] = t < limit ? t : -2 - t;
  }
  clearPadding(q, 2 * ROWS);
  bool full = __syncthreads_and(threadIdx.x >= ROWS || keyToken[threadIdx.x % ROWS] >= 0);
  if (p.accumulate) prefetchRows(p.dk + b * p.dkB + group * p.dkH, p.dkN, keyToken, ROWS);

  constexpr int NB = SPAN / 8;
  int lane = threadIdx.x & 31, g = lane >> 2, c = (lane & 3) * 2;
  int first = threadIdx.x / 32 * 16, span = first / SPAN * SPAN;
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
    loadTile<ROWS>(q, p.q + b * p.qB + h * p.qH, p.qN, keyToken, full);
    loadTile<ROWS>(k, p.k + b * p.kB + group * p.kH, p.kN, keyToken, full);
    commit();
    loadTile<ROWS>(u, p.u + b * p.uB + h / p.ratioU * p.uH, p.uN, keyToken, full);
    loadTile<ROWS>(dout, p.dout + b * p.doB + h * p.doH, p.doN, keyToken, full);
    commit();
    if (p.accumulate) prefetchRows(p.dq + b * p.dqB + h * p.dqH, p.dqN, keyToken, ROWS);
    i64 lseRow = (i64)(b * p.heads + h) * p.lseN;
    int mark[2] = {keyToken[first + g], keyToken[first + g + 8]}, token[2];
    float carried[2], total[2], dlse[2], beta = 0.f;
#pragma unroll
    for (int half = 0; half < 2; half++) {
      token[half] = mark[half] < -1 ? -2 - mark[half] : mark[half];
      bool live = mark[half] >= 0;
      total[half] = live ? inverseLog(p.lseOut[lseRow + token[half]]) : INFINITE;
      carried[half] = JOINT && live ? p.lseIn[lseRow + token[half]] * LOG2E : 0.f;
      dlse[half] = live && p.dlseOut ? p.dlseOut[lseRow + token[half]] : 0.f;
    }
#if BETA
    beta = p.beta[h] * LOG2E;
#endif
    const float* bias = p.bias ? p.bias + (i64)h * p.biasStride : nullptr;
    await<1>();
    __syncthreads();
#if ROTARY
    rotateTile(q, ROWS, p.rotary, [](int row) { return row % FIBER; });
    rotateTile(k, ROWS, p.rotary, [](int row) { return row % FIBER; });
    __syncthreads();
#endif
    float z[NB][4], dz[NB][4], dot[2] = {0.f, 0.f}, dbeta = 0.f;
    clear(z);
    multiplyByTransposed<NB>(z, q + first * LD, k + span * LD);
#pragma unroll
    for (int n = 0; n < NB; n++)
#pragma unroll
      for (int e = 0; e < 4; e++) {
        int query = first + g + (e >> 1) * 8, key = span + n * 8 + c + (e & 1);
        float x = logit(p, z[n][e], query - key, key % FIBER, beta, carried[e >> 1], bias);
        bool seen = (full || keyToken[key] >= 0) && (FIBER >= 16 || query / FIBER == key / FIBER);
        z[n][e] = seen ? exp2Fast(x - total[e >> 1]) : 0.f;
      }
    await<0>();
    __syncthreads();
    clear(dz);
    multiplyByTransposed<NB>(dz, dout + first * LD, u + span * LD);
#pragma unroll
    for (int n = 0; n < NB; n++)
#pragma unroll
      for (int e = 0; e < 4; e++) dot[e >> 1] += z[n][e] * dz[n][e];
    dot[0] = quadSum(dot[0]) - dlse[0];
    dot[1] = quadSum(dot[1]) - dlse[1];
#pragma unroll
    for (int n = 0; n < NB; n++)
#pragma unroll
      for (int e = 0; e < 4; e++) {
        bool diagonal = first + g + (e >> 1) * 8 == span + n * 8 + c + (e & 1);
        float x = z[n][e] * (dz[n][e] - dot[e >> 1]);
        if (!diagonal) dbeta += x;
#if JOINT
        if (diagonal) {
          if (token[e >> 1] >= 0) p.dlseIn[lseRow + token[e >> 1]] = x;
          x = 0.f;
        }
#endif
        dz[n][e] = x * p.rawScale;
      }
    {
      float dq[ND][4];
      clear(dq);
      multiply<NB>(dq, dz, k + span * LD);
#if ROTARY
      rotateBack(dq, p.rotary, (first + g) % FIBER, (first + g + 8) % FIBER);
#endif
#pragma unroll
      for (int half = 0; half < 2; half++)
        storeRow(p.dq + b * p.dqB + h * p.dqH + (token[half] < 0 ? 0 : token[half]) * p.dqN, dq, half, 1.f,
                 token[half] >= 0, p.accumulate);
    }
    __syncthreads();
    // p takes the memory of u, dz that of k.
#pragma unroll
    for (int n = 0; n < NB; n++)
#pragma unroll
      for (int half = 0; half < 2; half++) {
        int at = (first + g + half * 8) * PLD + n * 8 + c;
#if DTYPE == 2
        *reinterpret_cast<float2*>(u + at) = make_float2(z[n][half * 2], z[n][half * 2 + 1]);
        *reinterpret_cast<float2*>(k + at) = make_float2(dz[n][half * 2], dz[n][half * 2 + 1]);
#else
        *reinterpret_cast<u32*>(u + at) = pack(z[n][half * 2], z[n][half * 2 + 1]);
        *reinterpret_cast<u32*>(k + at) = pack(dz[n][half * 2], dz[n][half * 2 + 1]);
#endif
      }
#if BETA
    storePartial(dbeta, scratch, p.dbeta + (i64)h * p.batch * gridDim.x + b * gridDim.x + blockIdx.x);
#endif
    __syncthreads();
    multiplyTransposed(du, u + span * PLD + first - span, dout + span * LD);
    if (p.ratioU == 1 || r == p.ratioK - 1) {
#pragma unroll
      for (int half = 0; half < 2; half++)
        storeRow(p.du + b * p.duB + h / p.ratioU * p.duH + (token[half] < 0 ? 0 : token[half]) * p.duN, du, half,
                 1.f, token[half] >= 0, false);
      clear(du);
    }
    multiplyTransposed(dk, k + span * PLD + first - span, q + span * LD);
#if GROUPED
    if (r == p.ratioK - 1)
#endif
    {
#if ROTARY
      rotateBack(dk, p.rotary, (first + g) % FIBER, (first + g + 8) % FIBER);
#endif
#pragma unroll
      for (int half = 0; half < 2; half++)
        storeRow(p.dk + b * p.dkB + group * p.dkH + (token[half] < 0 ? 0 : token[half]) * p.dkN, dk, half, 1.f,
                 token[half] >= 0, p.accumulate);
    }
  }
}
#endif
