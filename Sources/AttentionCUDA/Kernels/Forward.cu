// One pass over a mode, forward: u'(t) = Σ softmax(z(t, ·)) u(·) and ℓ'(t) = logsumexp z(t, ·).
//
// Route of the data: q, k, u rows → shared memory (cp.async) → rotated in place → z on the tensor cores →
// softmax in registers → times u on the tensor cores → u' rows and ℓ'. Nothing else touches memory.
//
// forwardShort packs whole fibers of up to 64 positions into one tile of 16·WARPS rows whose keys are its
// own rows. forwardLong gives a block 16·WARPS queries of one fiber and streams the keys they see through
// two stages of KT rows with a running maximum.

#ifdef SHORT
#define ROWS (WARPS * 16)
#define SPAN (FIBER < 16 ? 16 : FIBER)  // key rows that a warp meets

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) forwardShort(const __grid_constant__ Pass p) {
  followPrevious();
  extern __shared__ __align__(16) char memory[];
  T* q = reinterpret_cast<T*>(memory);
  T* k = q + ROWS * LD;
  T* u = k + ROWS * LD;
  int* keyToken = reinterpret_cast<int*>(u + ROWS * LD);
  int* queryToken = keyToken + ROWS;

  int h = blockIdx.y % p.heads, b = blockIdx.y / p.heads;
  int limit = p.lengths ? min(p.lengths[b], p.tokens) : p.tokens;
  for (int row = threadIdx.x; row < ROWS; row += THREADS) {
    int fiber = p.firstFiber + blockIdx.x * (ROWS / FIBER) + row / FIBER, j = row % FIBER, t = -1;
    if (fiber < p.fibers) {
      int origin = fiberOrigin(p, fiber);
      if (j < fiberLength(p, origin, p.tokens)) t = origin + j * p.stride;
    }
    keyToken[row] = t < limit ? t : -1;
    // A padded token keeps its row, which becomes zeros, but is not read: −2 − t.
    queryToken[row] = t < p.firstQuery ? -1 : t < limit ? t : -2 - t;
  }
  clearPadding(q, 3 * ROWS);
  // A full tile needs no check of its keys.
  bool full = __syncthreads_and(threadIdx.x >= ROWS || keyToken[threadIdx.x % ROWS] >= 0);
  loadTile<ROWS>(q, p.q + b * p.qB + h * p.qH, p.qN, queryToken, full && p.firstQuery == 0);
  loadTile<ROWS>(k, p.k + b * p.kB + h / p.ratioK * p.kH, p.kN, keyToken, full);
  commit();
  loadTile<ROWS>(u, p.u + b * p.uB + h / p.ratioU * p.uH, p.uN, keyToken, full);
  commit();

  constexpr int NB = SPAN / 8;
  int lane = threadIdx.x & 31, g = lane >> 2;
  int first = threadIdx.x / 32 * 16, span = first / SPAN * SPAN;
  int mark[2] = {queryToken[first + g], queryToken[first + g + 8]}, token[2];
#pragma unroll
  for (int half = 0; half < 2; half++) token[half] = mark[half] < -1 ? -2 - mark[half] : mark[half];
  i64 lseRow = (i64)(b * p.heads + h) * p.lseN;
  float carried[2] = {0.f, 0.f}, beta = 0.f;
#if JOINT
#pragma unroll
  for (int half = 0; half < 2; half++)
    if (mark[half] >= 0) carried[half] = p.lseIn[lseRow + token[half]] * LOG2E;
#endif
#if BETA
  beta = toFloat(p.beta[h]) * LOG2E;
#endif
  const float* bias = p.bias ? p.bias + (i64)h * p.biasStride : nullptr;

  await<1>();
  __syncthreads();
#if ROTARY
  rotateTile(q, 2 * ROWS, p.rotary, [](int row) { return row % FIBER; });
  __syncthreads();
#endif
  float z[NB][4];
  clear(z);
  multiplyByTransposed<NB>(z, q + first * LD, k + span * LD);
  float top[2], sum[2];
  exponentiate<FIBER, JOINT, BETA, BIAS>(p, z, top, sum, first, span, keyToken, full, beta, carried, bias);
  await<0>();
  __syncthreads();
  float o[ND][4];
  clear(o);
  multiply<NB>(o, z, u + span * LD);
#pragma unroll
  for (int half = 0; half < 2; half++) {
    float total = quadSum(sum[half]);
    bool live = mark[half] >= 0 && total > 0.f;
    T* row = p.out + b * p.oB + h * p.oH + (token[half] < 0 ? 0 : token[half]) * p.oN;
    storeRow(row, o, half, live ? 1.f / total : 0.f, token[half] >= 0, false);
    if (token[half] >= 0 && (lane & 3) == 0 && p.lseOut)
      p.lseOut[lseRow + token[half]] = live ? (top[half] + log2f(total)) * LN2 : -INFINITE;
  }
}
#endif

#ifdef LONG
#define ROWS (WARPS * 16)

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) forwardLong(const __grid_constant__ Pass p) {
  followPrevious();
  extern __shared__ __align__(16) char memory[];
  T* q = reinterpret_cast<T*>(memory);
  T* k = q + ROWS * LD;
  T* u = k + 2 * KT * LD;
  constexpr int NB = KT / 8;

  int h = blockIdx.y % p.heads, b = blockIdx.y / p.heads;
  int limit = p.lengths ? min(p.lengths[b], p.tokens) : p.tokens;
  int fibers = p.fibers - p.firstFiber;
  int origin = fiberOrigin(p, p.firstFiber + blockIdx.x % fibers);
  // Later queries of a causal block support see more keys, so they start first.
  int q0 = p.firstPosition + (p.tilesPerFiber - 1 - (int)(blockIdx.x / fibers)) * ROWS;
  int length = fiberLength(p, origin, p.tokens), keys = fiberLength(p, origin, limit);
  if (q0 >= length) return;
  int kFirst = SLIDING ? max(0, q0 - p.size) : 0;  // whole tiles: one key more than is seen
  int kEnd = CAUSAL ? min(keys, q0 + ROWS) : keys;
  int tiles = kEnd > kFirst ? (kEnd - kFirst + KT - 1) / KT : 0;
  const T* qLine = p.q + b * p.qB + h * p.qH + origin * p.qN;
  const T* kLine = p.k + b * p.kB + h / p.ratioK * p.kH + origin * p.kN;
  const T* uLine = p.u + b * p.uB + h / p.ratioU * p.uH + origin * p.uN;
  i64 qStep = p.qN * p.stride, kStep = p.kN * p.stride, uStep = p.uN * p.stride;

  clearPadding(q, ROWS + 4 * KT);
  int firstRow = p.firstQuery > origin ? (p.firstQuery - origin + p.stride - 1) / p.stride : 0;
  loadLine<ROWS>(q, qLine, qStep, q0, firstRow, keys);
#pragma unroll
  for (int stage = 0; stage < 2; stage++) {
    if (stage < tiles) {
      loadLine<KT>(k + stage * KT * LD, kLine, kStep, kFirst + stage * KT, 0, kEnd);
      loadLine<KT>(u + stage * KT * LD, uLine, uStep, kFirst + stage * KT, 0, kEnd);
    }
    commit();
  }

  int lane = threadIdx.x & 31, g = lane >> 2, c = (lane & 3) * 2, first = threadIdx.x / 32 * 16;
  i64 lseRow = (i64)(b * p.heads + h) * p.lseN;
  int position[2] = {q0 + first + g, q0 + first + g + 8};
  bool live[2], written[2];
  float carried[2] = {0.f, 0.f}, beta = 0.f;
#pragma unroll
  for (int half = 0; half < 2; half++) {
    written[half] = position[half] >= firstRow && position[half] < length;
    live[half] = written[half] && position[half] < keys;
#if JOINT
    if (live[half]) carried[half] = p.lseIn[lseRow + origin + (i64)position[half] * p.stride] * LOG2E;
#endif
  }
#if BETA
  beta = toFloat(p.beta[h]) * LOG2E;
#endif
  const float* bias = p.bias ? p.bias + (i64)h * p.biasStride : nullptr;

  float o[ND][4], top[2] = {-INFINITE, -INFINITE}, sum[2] = {0.f, 0.f};
  clear(o);
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
    // A warp skips keys that lie after its last query or before its first query's window.
    bool seen = !(CAUSAL && k0 > q0 + first + 15) && !(SLIDING && k0 + KT - 1 <= q0 + first - p.size);
    if (seen) {
      float z[NB][4];
      clear(z);
      multiplyByTransposed<NB>(z, q + first * LD, kTile);
      // Only tiles that touch a mask, the diagonal or the end of the keys need the full logit.
      bool inner = !BIAS && k0 + KT <= keys && k0 + KT - 1 < q0 + first &&
                   !(SLIDING && q0 + first + 15 - k0 >= p.size);
      bool inside = k0 + KT <= keys;
      float best[2] = {-INFINITE, -INFINITE};
      if (inner) {
#pragma unroll
        for (int n = 0; n < NB; n++)
#pragma unroll
          for (int e = 0; e < 4; e++) {
            z[n][e] = z[n][e] * p.scale + (BETA ? beta : 0.f);
            best[e >> 1] = fmaxf(best[e >> 1], z[n][e]);
          }
      } else {
#pragma unroll
        for (int n = 0; n < NB; n++)
#pragma unroll
          for (int e = 0; e < 4; e++) {
            int j = k0 + n * 8 + c + (e & 1);
            float x = logit(p, z[n][e], position[e >> 1] - j, j, beta, carried[e >> 1], bias);
            z[n][e] = inside || j < keys ? x : -INFINITE;
            best[e >> 1] = fmaxf(best[e >> 1], z[n][e]);
          }
      }
#pragma unroll
      for (int half = 0; half < 2; half++) {
        float next = fmaxf(top[half], quadMax(best[half]));
        float shift = next == -INFINITE ? 0.f : next;
        float factor = exp2Fast(top[half] - shift);
        top[half] = next;
        best[half] = shift;
        sum[half] *= factor;
#pragma unroll
        for (int n = 0; n < ND; n++) o[n][half * 2] *= factor, o[n][half * 2 + 1] *= factor;
      }
#pragma unroll
      for (int n = 0; n < NB; n++)
#pragma unroll
        for (int e = 0; e < 4; e++) {
          z[n][e] = exp2Fast(z[n][e] - best[e >> 1]);
          sum[e >> 1] += z[n][e];
        }
      multiply<NB>(o, z, uTile);
    }
    __syncthreads();
    if (tile + 2 < tiles) {
      loadLine<KT>(kTile, kLine, kStep, k0 + 2 * KT, 0, kEnd);
      loadLine<KT>(uTile, uLine, uStep, k0 + 2 * KT, 0, kEnd);
    }
    commit();
  }
#pragma unroll
  for (int half = 0; half < 2; half++) {
    float total = quadSum(sum[half]);
    bool any = live[half] && total > 0.f;
    i64 t = origin + (i64)(written[half] ? position[half] : 0) * p.stride;
    storeRow(p.out + b * p.oB + h * p.oH + t * p.oN, o, half, any ? 1.f / total : 0.f, written[half], false);
    if (written[half] && (lane & 3) == 0 && p.lseOut)
      p.lseOut[lseRow + t] = any ? (top[half] + log2f(total)) * LN2 : -INFINITE;
  }
}
#endif
