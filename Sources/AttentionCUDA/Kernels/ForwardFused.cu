// The passes of the two lowest modes in one launch: u'' = P₂·(P₁·v), with q, k and v read from memory once.
//
// A cluster of CLUSTER blocks owns n_{m−1}·n_m consecutive tokens: the whole fibers of both modes. In the lower
// pass a block owns 64 rows of fibers along the tokens, in the upper one 64 rows of fibers across them. What
// the lower pass returns goes from registers to the shared memory of the block that needs it, so neither u'
// nor ℓ' meets device memory unless the gradients want them (SAVE). q and k are read a second time, in the
// other order, while the blocks beside this one read them for the first: these reads are served by L2.
//
// Three tiles of 64 rows: q and k of the lower pass and v; then q of the upper pass takes the place of q, its
// k that of v, and u' arrives where k was. Three tiles rather than five leave room for four blocks a
// multiprocessor, whose loads cover each other's waits.
//
// Macros besides those of Prelude.cu: LOWER and UPPER, the packed fibers of the two modes; JOINT and BETA
// speak of the upper pass (the lowest mode has neither), LOWER_BIAS and UPPER_BIAS of the mode biases.

#define ROWS (WARPS * 16)
#define SPAN_OF(fiber) (fiber < 16 ? 16 : fiber)  // key rows that a warp meets

__device__ __forceinline__ void expect(u64* barrier, u32 bytes) {
  u32 address = shared32(barrier);
  asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(address) : "memory");
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(address), "r"(bytes) : "memory");
}
__device__ __forceinline__ void awaitArrival(u64* barrier) {
  u32 done = 0;
  while (!done)
    asm volatile(
        "{\n.reg .pred p;\n"
        "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 p, [%1], 0;\n"
        "selp.u32 %0, 1, 0, p;\n}"
        : "=r"(done)
        : "r"(shared32(barrier))
        : "memory");
}

// Writes one of a lane's two accumulator rows to a tile row of another block, padding channels included. With
// 16-bit types the lane's words go side by side as they are: of every 32 channels, word j of lane t stands in
// place 4t + j instead of 4j + t. The product of such a tile leaves words 4t … 4t + 3 in lane t: 16 contiguous
// bytes of its row, so that neither side has to exchange words between lanes.
__device__ __forceinline__ void sendRow(u32 row, u32 barrier, const float (&c)[ND][4], int half, float factor, bool valid) {
  int t = threadIdx.x & 3;
#if DTYPE == 2
#pragma unroll
  for (int n = 0; n < ND; n++)
    if (valid)
      send(row + (n * 8 + 2 * t) * 4, barrier, __float_as_uint(c[n][half * 2] * factor),
           __float_as_uint(c[n][half * 2 + 1] * factor));
#else
#pragma unroll
  for (int n = 0; n < D / 32; n++) {
    u32 x[4];
#pragma unroll
    for (int i = 0; i < 4; i++) x[i] = pack(c[n * 4 + i][half * 2] * factor, c[n * 4 + i][half * 2 + 1] * factor);
    if (valid) send(row + (n * 4 + t) * 16, barrier, x);
  }
#pragma unroll
  for (int n = D / 32 * 4; n < ND; n++)
    if (valid) send(row + (n * 8 + 2 * t) * 2, barrier, pack(c[n][half * 2] * factor, c[n][half * 2 + 1] * factor));
#endif
}

// Writes one of a lane's two rows of such a product.
__device__ __forceinline__ void storeSent(T* row, const float (&c)[ND][4], int half, float factor, bool valid) {
#if DTYPE == 2
  storeRow(row, c, half, factor, valid, false);
#else
  int t = threadIdx.x & 3;
#pragma unroll
  for (int n = 0; n < D / 32; n++) {
    u32 x[4];
#pragma unroll
    for (int i = 0; i < 4; i++) x[i] = pack(c[n * 4 + i][half * 2] * factor, c[n * 4 + i][half * 2 + 1] * factor);
    if (valid) *reinterpret_cast<uint4*>(row + n * 32 + t * 8) = make_uint4(x[0], x[1], x[2], x[3]);
  }
#pragma unroll
  for (int n = D / 32 * 4; n < D / 8; n++)
    if (valid)
      *reinterpret_cast<u32*>(row + n * 8 + 2 * t) = pack(c[n][half * 2] * factor, c[n][half * 2 + 1] * factor);
#endif
}

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) __cluster_dims__(CLUSTER, 1, 1)
    forwardFused(const __grid_constant__ Fused both) {
  followPrevious();
  const Pass& p = both.lower;
  const Pass& up = both.upper;
  extern __shared__ __align__(16) char memory[];
  T* q = reinterpret_cast<T*>(memory);
  T* k = q + ROWS * LD;
  T* v = k + ROWS * LD;
  int* lowerMark = reinterpret_cast<int*>(v + ROWS * LD);
  int* upperMark = lowerMark + ROWS;
  float* arrived = reinterpret_cast<float*>(upperMark + ROWS);  // ℓ' of the lower pass for the upper one's rows
  u64* sent = reinterpret_cast<u64*>(arrived + ROWS);           // counts the bytes of what others send

  int h = blockIdx.y % p.heads, b = blockIdx.y / p.heads, rank = blockIdx.x % CLUSTER;
  constexpr int tokens = LOWER_SIZE * UPPER_SIZE, lowerFibers = ROWS / LOWER, upperFibers = ROWS / UPPER;
  constexpr int sentBytes = DP * (int)sizeof(T) + (JOINT ? 4 : 0);
  int origin = blockIdx.x / CLUSTER * tokens, limit = p.lengths ? min(p.lengths[b], p.tokens) : p.tokens;
  // Where every row of the cluster is a token, rows need no marks and keys no check.
  bool full = tokens == CLUSTER * ROWS && origin + tokens <= limit;
  const T* qHead = p.q + b * p.qB + h * p.qH;
  const T* kHead = p.k + b * p.kB + (GROUPED ? h / p.ratioK : h) * p.kH;
  const T* vHead = p.u + b * p.uB + (GROUPED ? h / p.ratioU : h) * p.uH;
  clearPadding(q, 3 * ROWS);
  int rows = ROWS;
  if (!full || !isStrided) {
    markRows(p, lowerMark, upperMark, limit, origin);
    rows = __syncthreads_count(threadIdx.x < ROWS && upperMark[threadIdx.x % ROWS] != -1);
  }
  if (threadIdx.x == 0) expect(sent, rows * sentBytes);
  loadRows(false, q, qHead, p.qN, lowerMark, full, origin);
  loadRows(false, k, kHead, p.kN, lowerMark, full, origin);
  commit();
  loadRows(false, v, vHead, p.uN, lowerMark, full, origin);
  commit();

  int lane = threadIdx.x & 31, g = lane >> 2, first = threadIdx.x / 32 * 16;
  i64 lseRow = (i64)(b * p.heads + h) * p.lseN;
  float o[ND][4], top[2], sum[2], carried[2] = {0.f, 0.f}, beta = 0.f;
#if BETA
  beta = toFloat(up.beta[h]) * LOG2E;
#endif

  {
    constexpr int NB = SPAN_OF(LOWER) / 8;
    int span = first / SPAN_OF(LOWER) * SPAN_OF(LOWER);
    const float* bias = p.bias ? p.bias + (i64)h * p.biasStride : nullptr;
    float z[NB][4];
    await<1>();
    __syncthreads();
#if ROTARY
    rotateTile(q, 2 * ROWS, p.rotary, [](int row) { return row % LOWER; });
    __syncthreads();
#endif
    clear(z);
    multiplyByTransposed<NB>(z, q + first * LD, k + span * LD);
    __syncthreads();
    // From here on the memory of this block's k takes what others send, first of all zeros for the rows that
    // nobody sends.
    if (!full)
      for (int i = threadIdx.x; i < ROWS * DP; i += THREADS)
        if (upperMark[i / DP] == -1) k[i / DP * LD + i % DP] = 0;
    clusterArriveRelaxed();
    loadRows(true, q, qHead, p.qN, upperMark, full, origin);
    commit();
    exponentiate<LOWER, false, false, LOWER_BIAS>(p, z, top, sum, first, span, lowerMark, full, 0.f, carried, bias);
    await<1>();
    __syncthreads();
    clear(o);
    multiply<NB>(o, z, v + span * LD);
  }
  __syncthreads();
  loadRows(true, v, kHead, p.kN, upperMark, full, origin);
  commit();
  clusterWait();
#pragma unroll
  for (int half = 0; half < 2; half++) {
    int row = first + g + half * 8, mark = full ? tokenOf(false, row, origin) : lowerMark[row];
    int token = mark < -1 ? -2 - mark : mark;
    float total = quadSum(sum[half]);
    bool live = mark >= 0 && total > 0.f;
    float factor = live ? 1.f / total : 0.f, lse = live ? (top[half] + log2f(total)) * LN2 : -INFINITE;
    // Token (x, y) of the block meets the upper pass in row x of fiber y.
    int x = rank * lowerFibers + row / LOWER, y = row % LOWER;
    int owner = mark == -1 ? rank : y / upperFibers, place = y % upperFibers * UPPER + x;
    u32 there = peer(sent, owner);
    sendRow(peer(k + place * LD, owner), there, o, half, factor, mark != -1);
#if JOINT
    if (mark != -1 && (lane & 3) == 0) send(peer(arrived + place, owner), there, __float_as_uint(lse));
#endif
#if SAVE
    storeRow(p.out + b * p.oB + h * p.oH + (token < 0 ? 0 : token) * p.oN, o, half, factor, token >= 0, false);
    if (token >= 0 && (lane & 3) == 0) p.lseOut[lseRow + token] = lse;
#endif
  }

  constexpr int NB = SPAN_OF(UPPER) / 8;
  int span = first / SPAN_OF(UPPER) * SPAN_OF(UPPER);
  const float* bias = up.bias ? up.bias + (i64)h * up.biasStride : nullptr;
  float z[NB][4];
  await<0>();
  __syncthreads();
#if ROTARY
  rotateTile(q, ROWS, up.rotary, [](int row) { return row % UPPER; });
  rotateTile(v, ROWS, up.rotary, [](int row) { return row % UPPER; });
  __syncthreads();
#endif
  clear(z);
  multiplyByTransposed<NB>(z, q + first * LD, v + span * LD);
#if JOINT
  awaitArrival(sent);
#pragma unroll
  for (int half = 0; half < 2; half++) carried[half] = arrived[first + g + half * 8] * LOG2E;
#endif
  exponentiate<UPPER, JOINT, BETA, UPPER_BIAS>(up, z, top, sum, first, span, upperMark, full, beta, carried, bias);
#if !JOINT
  awaitArrival(sent);
#endif
  clear(o);
  multiply<NB>(o, z, k + span * LD);
#pragma unroll
  for (int half = 0; half < 2; half++) {
    int row = first + g + half * 8, mark = full ? tokenOf(true, row, origin) : upperMark[row];
    int token = mark < -1 ? -2 - mark : mark;
    float total = quadSum(sum[half]);
    bool live = mark >= 0 && total > 0.f;
    storeSent(up.out + b * up.oB + h * up.oH + (token < 0 ? 0 : token) * up.oN, o, half, live ? 1.f / total : 0.f,
              token >= 0);
    if (token >= 0 && (lane & 3) == 0 && up.lseOut)
      up.lseOut[lseRow + token] = live ? (top[half] + log2f(total)) * LN2 : -INFINITE;
  }
}
