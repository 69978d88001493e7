// The two kernels of a long fiber's backward pass; Backward.cu states the formulas. D is formed from the
// saved u' by the query kernel and read by the key kernel.
#define ROWS (WARPS * 16)

#ifdef QUERY
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) backwardLongQuery(const __grid_constant__ Pass p) {
  followPrevious();
  extern __shared__ __align__(16) char memory[];
  T* q = reinterpret_cast<T*>(memory);
  T* dout = q + ROWS * LD;
  T* k = dout + ROWS * LD;
  T* u = k + 2 * KT * LD;
  float* scratch = reinterpret_cast<float*>(u + 2 * KT * LD);
  constexpr int NB = KT / 8;

  int h = blockIdx.y % p.heads, b = blockIdx.y / p.heads;
  int limit = p.lengths ? min(p.lengths[b], p.tokens) : p.tokens;
  int origin = fiberOrigin(p, blockIdx.x % p.fibers);
  int q0 = (p.tilesPerFiber - 1 - (int)(blockIdx.x / p.fibers)) * ROWS;
  int length = fiberLength(p, origin, p.tokens), keys = fiberLength(p, origin, limit);
  int kFirst = SLIDING ? max(0, q0 - p.size) : 0;  // whole tiles: one key more than is seen
  int kEnd = CAUSAL ? min(keys, q0 + ROWS) : keys;
  if (q0 >= keys) kEnd = kFirst;
  int tiles = kEnd > kFirst ? (kEnd - kFirst + KT - 1) / KT : 0;
  const T* kLine = p.k + b * p.kB + h / p.ratioK * p.kH + origin * p.kN;
  const T* uLine = p.u + b * p.uB + h / p.ratioU * p.uH + origin * p.uN;
  i64 kStep = p.kN * p.stride, uStep = p.uN * p.stride;

  clearPadding(q, 2 * ROWS + 4 * KT);
  loadLine<ROWS>(q, p.q + b * p.qB + h * p.qH + origin * p.qN, p.qN * p.stride, q0, 0, keys);
  loadLine<ROWS>(dout, p.dout + b * p.doB + h * p.doH + origin * p.doN, p.doN * p.stride, q0, 0, keys);
#pragma unroll
  for (int stage = 0; stage < 2; stage++) {
    if (stage < tiles) {
      loadLine<KT>(k + stage * KT * LD, kLine, kStep, kFirst + stage * KT, 0, kEnd);
      loadLine<KT>(u + stage * KT * LD, uLine, uStep, kFirst + stage * KT, 0, kEnd);
    }
    commit();
  }
  await<1>();
  __syncthreads();

  int lane = threadIdx.x & 31, g = lane >> 2, c = (lane & 3) * 2, first = threadIdx.x / 32 * 16;
  i64 lseRow = (i64)(b * p.heads + h) * p.lseN + origin;
  int position[2] = {q0 + first + g, q0 + first + g + 8};
  float carried[2], total[2], dot[2], beta = 0.f, dbeta = 0.f;
#pragma unroll
  for (int half = 0; half < 2; half++) {
    bool live = position[half] < keys;
    i64 t = (i64)(live ? position[half] : 0) * p.stride;
    total[half] = live ? inverseLog(p.lseOut[lseRow + t]) : INFINITE;
    carried[half] = JOINT && live ? p.lseIn[lseRow + t] * LOG2E : 0.f;
    // ⟨du', u'⟩: the four lanes of a row take every fourth chunk.
    const T* out = p.out + b * p.oB + h * p.oH + (origin + t) * p.oN;
    const T* row = dout + (first + g + half * 8) * LD;
    float x = 0.f;
    if (live)
      for (int chunk = lane & 3; chunk < D / 4; chunk += 4) {
#if DTYPE == 2
        float4 a = *reinterpret_cast<const float4*>(out + chunk * 4);
        float4 y = *reinterpret_cast<const float4*>(row + chunk * 4);
        x += a.x * y.x + a.y * y.y + a.z * y.z + a.w * y.w;
#else
        uint2 a = *reinterpret_cast<const uint2*>(out + chunk * 4);
        uint2 y = *reinterpret_cast<const uint2*>(row + chunk * 4);
        float2 a0 = unpack(a.x), a1 = unpack(a.y), y0 = unpack(y.x), y1 = unpack(y.y);
        x += a0.x * y0.x + a0.y * y0.y + a1.x * y1.x + a1.y * y1.y;
#endif
      }
    float dlse = live && p.dlseOut ? p.dlseOut[lseRow + t] : 0.f;
    dot[half] = quadSum(x) - dlse;
    // A row of dz sums to dℓ', so what lies off the diagonal is dℓ' − dz(t, t): exact, where the sum itself
    // would carry the rounding of the saved u'.
    if ((lane & 3) == 0 && total[half] < INFINITE) dbeta += dlse;
    if (live && (lane & 3) == 0) p.dot[lseRow + t] = dot[half];
#if JOINT
    if (!live && position[half] < length && (lane & 3) == 0)
      p.dlseIn[lseRow + (i64)position[half] * p.stride] = 0.f;
#endif
  }
#if BETA
  beta = toFloat(p.beta[h]) * LOG2E;
#endif
  const float* bias = p.bias ? p.bias + (i64)h * p.biasStride : nullptr;

  float dq[ND][4];
  clear(dq);
  for (int tile = 0; tile < tiles; tile++) {
    T* kTile = k + (tile & 1) * KT * LD;
    T* uTile = u + (tile & 1) * KT * LD;
    int k0 = kFirst + tile * KT;
    await<1>();
    __syncthreads();
#if ROTARY
    if (tile == 0) rotateTile(q, ROWS, p.rotary, [&](int row) { return q0 - kFirst + row; });
    rotateTile(kTile, KT, p.rotary, [&](int row) { return k0 - kFirst + row; });
    __syncthreads();
#endif
    bool seen = !(CAUSAL && k0 > q0 + first + 15) && !(SLIDING && k0 + KT - 1 <= q0 + first - p.size);
    if (seen) {
      float z[NB][4], dz[NB][4];
      clear(z);
      clear(dz);
      bool inside = k0 + KT <= keys;
      multiplyByTransposed<NB>(z, q + first * LD, kTile);
      multiplyByTransposed<NB>(dz, dout + first * LD, uTile);
#pragma unroll
      for (int n = 0; n < NB; n++)
#pragma unroll
        for (int e = 0; e < 4; e++) {
          int half = e >> 1, j = k0 + n * 8 + c + (e & 1);
          float x = logit(p, z[n][e], position[half] - j, j, beta, carried[half], bias);
          x = inside || j < keys ? exp2Fast(x - total[half]) * (dz[n][e] - dot[half]) : 0.f;
          bool diagonal = position[half] == j;
          if (diagonal) dbeta -= x;
#if JOINT
          if (diagonal) {
            if (j < keys) p.dlseIn[lseRow + (i64)j * p.stride] = x;
            x = 0.f;
          }
#endif
          dz[n][e] = x * p.rawScale;
        }
      multiply<NB>(dq, dz, kTile);
    }
    __syncthreads();
    if (tile + 2 < tiles) {
      loadLine<KT>(kTile, kLine, kStep, k0 + 2 * KT, 0, kEnd);
      loadLine<KT>(uTile, uLine, uStep, k0 + 2 * KT, 0, kEnd);
    }
    commit();
  }
#if ROTARY
  if (tiles > 0) rotateBack(dq, p.rotary, position[0] - kFirst, position[1] - kFirst);
#endif
#pragma unroll
  for (int half = 0; half < 2; half++) {
    bool inside = position[half] < length;
    i64 t = origin + (i64)(inside ? position[half] : 0) * p.stride;
    storeRow(p.dq + b * p.dqB + h * p.dqH + t * p.dqN, dq, half, 1.f, inside, p.accumulate);
  }
#if BETA
  storePartial(dbeta, scratch, p.dbeta + (i64)h * p.batch * gridDim.x + b * gridDim.x + blockIdx.x);
#endif
}
#endif

#ifdef KEY
// PART 0 forms du and dk together; 1 and 2 form one of them, for head widths whose two accumulators
// would not fit the registers.
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) backwardLongKey(const __grid_constant__ Pass p) {
  followPrevious();
  extern __shared__ __align__(16) char memory[];
  T* k = reinterpret_cast<T*>(memory);
  T* u = k + ROWS * LD;
  T* q = u + ROWS * LD;
  T* dout = q + 2 * KT * LD;
  float* total = reinterpret_cast<float*>(dout + 2 * KT * LD);
  float* dot = total + KT;
  float* carried = dot + KT;
  constexpr int NB = KT / 8;

  int groups = p.heads / p.ratioK, group = blockIdx.y % groups, b = blockIdx.y / groups;
  int limit = p.lengths ? min(p.lengths[b], p.tokens) : p.tokens;
  int origin = fiberOrigin(p, blockIdx.x % p.fibers), k0 = blockIdx.x / p.fibers * ROWS;
  int length = fiberLength(p, origin, p.tokens), keys = fiberLength(p, origin, limit);
  int qFirst = CAUSAL ? k0 : 0;
  int qEnd = SLIDING ? min(keys, k0 + ROWS + p.size) : keys;
  if (k0 >= keys) qEnd = qFirst;
  int tiles = qEnd > qFirst ? (qEnd - qFirst + KT - 1) / KT : 0;
  i64 qStep = p.qN * p.stride, dStep = p.doN * p.stride;
  int lane = threadIdx.x & 31, g = lane >> 2, c = (lane & 3) * 2, first = threadIdx.x / 32 * 16;
  int position[2] = {k0 + first + g, k0 + first + g + 8};

  clearPadding(k, 2 * ROWS + 4 * KT);
  loadLine<ROWS>(k, p.k + b * p.kB + group * p.kH + origin * p.kN, p.kN * p.stride, k0, 0, keys);
  commit();
  await<0>();
  __syncthreads();
#if ROTARY
  rotateTile(k, ROWS, p.rotary, [&](int row) { return k0 - qFirst + row; });
#endif
#if PART != 2
  float du[ND][4];
  clear(du);
#endif
#if PART != 1
  float dk[ND][4];
  clear(dk);
#endif
  for (int r = 0; r < p.ratioK; r++) {
    int h = group * p.ratioK + r;
    const T* qLine = p.q + b * p.qB + h * p.qH + origin * p.qN;
    const T* dLine = p.dout + b * p.doB + h * p.doH + origin * p.doN;
    i64 lseRow = (i64)(b * p.heads + h) * p.lseN + origin;
    float beta = 0.f;
#if BETA
    beta = toFloat(p.beta[h]) * LOG2E;
#endif
    const float* bias = p.bias ? p.bias + (i64)h * p.biasStride : nullptr;
    if (r == 0 || p.ratioU == 1)
      loadLine<ROWS>(u, p.u + b * p.uB + h / p.ratioU * p.uH + origin * p.uN, p.uN * p.stride, k0, 0, keys);
#pragma unroll
    for (int stage = 0; stage < 2; stage++) {
      if (stage < tiles) {
        loadLine<KT>(q + stage * KT * LD, qLine, qStep, qFirst + stage * KT, 0, qEnd);
        loadLine<KT>(dout + stage * KT * LD, dLine, dStep, qFirst + stage * KT, 0, qEnd);
      }
      commit();
    }
    for (int tile = 0; tile < tiles; tile++) {
      T* qTile = q + (tile & 1) * KT * LD;
      T* dTile = dout + (tile & 1) * KT * LD;
      int q0 = qFirst + tile * KT;
      for (int i = threadIdx.x; i < KT; i += THREADS) {
        bool live = q0 + i < qEnd;
        i64 t = lseRow + (i64)(live ? q0 + i : 0) * p.stride;
        total[i] = live ? inverseLog(p.lseOut[t]) : INFINITE;
        dot[i] = live ? p.dot[t] : 0.f;
        carried[i] = JOINT && live ? p.lseIn[t] * LOG2E : 0.f;
      }
      await<1>();
      __syncthreads();
#if ROTARY
      rotateTile(qTile, KT, p.rotary, [&](int row) { return q0 - qFirst + row; });
      __syncthreads();
#endif
      bool seen = !(CAUSAL && q0 + KT - 1 < k0 + first) && !(SLIDING && q0 - (k0 + first + 15) >= p.size);
      if (seen) {
        float z[NB][4];
        clear(z);
        multiplyByTransposed<NB>(z, k + first * LD, qTile);
#pragma unroll
        for (int n = 0; n < NB; n++)
#pragma unroll
          for (int e = 0; e < 4; e++) {
            int half = e >> 1, column = n * 8 + c + (e & 1);
            float x = logit(p, z[n][e], q0 + column - position[half], position[half], beta, carried[column], bias);
            z[n][e] = position[half] < keys ? exp2Fast(x - total[column]) : 0.f;
          }
#if PART != 2
        multiply<NB>(du, z, dTile);
#endif
#if PART != 1
        float dz[NB][4];
        clear(dz);
        multiplyByTransposed<NB>(dz, u + first * LD, dTile);
#pragma unroll
        for (int n = 0; n < NB; n++)
#pragma unroll
          for (int e = 0; e < 4; e++) {
            int half = e >> 1, column = n * 8 + c + (e & 1);
            float x = z[n][e] * (dz[n][e] - dot[column]) * p.rawScale;
            if (JOINT && position[half] == q0 + column) x = 0.f;
            dz[n][e] = x;
          }
        multiply<NB>(dk, dz, qTile);
#endif
      }
      __syncthreads();
      if (tile + 2 < tiles) {
        loadLine<KT>(qTile, qLine, qStep, q0 + 2 * KT, 0, qEnd);
        loadLine<KT>(dTile, dLine, dStep, q0 + 2 * KT, 0, qEnd);
      }
      commit();
    }
    await<0>();
    __syncthreads();
#if PART != 2
    if (p.ratioU == 1 || r == p.ratioK - 1) {
#pragma unroll
      for (int half = 0; half < 2; half++) {
        bool inside = position[half] < length;
        i64 t = origin + (i64)(inside ? position[half] : 0) * p.stride;
        storeRow(p.du + b * p.duB + h / p.ratioU * p.duH + t * p.duN, du, half, 1.f, inside, false);
      }
      clear(du);
    }
#endif
  }
#if PART != 1
#if ROTARY
  if (tiles > 0) rotateBack(dk, p.rotary, position[0] - qFirst, position[1] - qFirst);
#endif
#pragma unroll
  for (int half = 0; half < 2; half++) {
    bool inside = position[half] < length;
    i64 t = origin + (i64)(inside ? position[half] : 0) * p.stride;
    storeRow(p.dk + b * p.dkB + group * p.dkH + t * p.dkN, dk, half, 1.f, inside, p.accumulate);
  }
#endif
}
#endif
