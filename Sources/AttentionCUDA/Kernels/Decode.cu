// One new token against the caches, all passes of the chain in one launch: a cluster of SPLIT blocks a query
// head, which share its keys and meet in distributed shared memory.
//
// Logits depend on q and k only, and the weighted sums of *other* tokens on cached u only, so the passes
// run side by side; their chain is closed at the end, per channel, through the token's own term:
//
//     x₀ = v(t),   x_{p+1} = (e^{M_p} Σ_{j>0} e^{z_j − M_p} u_p(t − j·s) + e^{z_0} x_p) / Z_p
//
// where z_0 is ℓ_p for joint normalization above the lowest mode. x_{p+1} is appended to the cache of the
// pass above. Route: q → registers, k rows → logits in shared memory, u rows → partial sums a warp → x.

#define LANES (D / 2 / WIDTH <= 4 ? 4 : D / 2 / WIDTH <= 8 ? 8 : D / 2 / WIDTH <= 16 ? 16 : 32)
#define WIDTH (D % (2 * VEC) == 0 ? VEC : VEC / 2)  // channels a lane takes of each half of a row
#define KEYS (32 / LANES)                            // rows a warp reads at a time

struct DecodePass {
  const T* u;
  T* next;  // the row cache of x_{p+1}; null for the last pass
  const Element* beta;
  const float* bias;
  const float2* rotary;  // [distance][D/2]
  i64 uB, uH, uN, nextB, nextH, nextN;
  int size, stride, ratioU, biasStride;
  float scale;  // of this pass's rotation, squared
  float padding;
};

struct Decode {
  const T* q;
  const T* k;
  T* out;
  float* lse;            // [B, H] of the last pass
  const int* positions;  // [B] the token's position t, or null for `position` in all sequences
  i64 qB, qH, kB, kH, kN, oB, oH;
  int heads, ratioK, passes, position;
  float scale;
  float padding;
  DecodePass pass[MODES];
};

static_assert(sizeof(DecodePass) == 112 && sizeof(Decode) == 120 + MODES * 112,
              "Swift's DecodePassParameters and DecodeArguments have these sizes");

__device__ __forceinline__ void loadRow(float (&x)[2 * WIDTH], const T* row, int channel) {
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const T* p = row + half * (D / 2) + channel;
#if DTYPE == 2
#pragma unroll
    for (int i = 0; i < WIDTH; i++) x[half * WIDTH + i] = p[i];
#else
#if D % 16 == 0
    uint4 w = *reinterpret_cast<const uint4*>(p);
    u32 y[4] = {w.x, w.y, w.z, w.w};
#else
    uint2 w = *reinterpret_cast<const uint2*>(p);
    u32 y[2] = {w.x, w.y};
#endif
#pragma unroll
    for (int i = 0; i < WIDTH / 2; i++) {
      float2 v = unpack(y[i]);
      x[half * WIDTH + 2 * i] = v.x;
      x[half * WIDTH + 2 * i + 1] = v.y;
    }
#endif
  }
}

__device__ __forceinline__ T rounded(float x) {
#if DTYPE == 2
  return x;
#else
  return (T)(pack(x, 0.f) & 0xffff);
#endif
}

// What block `rank` of the cluster holds at the place of this block's `p`.
__device__ __forceinline__ float peer(const float* p, int rank) {
#if SPLIT > 1
  u32 address;
  float x;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(address) : "r"(shared32(p)), "r"(rank));
  asm volatile("ld.shared::cluster.f32 %0, [%1];" : "=f"(x) : "r"(address));
  return x;
#else
  return *p;
#endif
}

__device__ __forceinline__ void meet() {
#if SPLIT > 1
  asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory");
#else
  __syncthreads();
#endif
}

// The keys that a token meets in a pass.
__device__ __forceinline__ int keysOf(const DecodePass& pass, int t, int& place) {
  place = t / pass.stride;
#if !SLIDING
  place %= pass.size;
#endif
  return min(pass.size, place + 1);
}

extern "C" __global__ void __launch_bounds__(THREADS, 1)
#if SPLIT > 1
    __cluster_dims__(SPLIT, 1, 1)
#endif
        decode(const __grid_constant__ Decode p) {
  followPrevious();
  extern __shared__ __align__(16) char memory[];
  float* partial = reinterpret_cast<float*>(memory);  // [passes][WARPS][D]
  float* row = partial + p.passes * WARPS * D;        // [passes][D], the block's sums
  float* own = row + p.passes * D;                    // z_0 of every pass, in block 0
  float* top = own + MODES;                           // max over the block's other keys
  float* sum = top + MODES;
  float* z = sum + MODES;                             // logits of all passes, one after another

  int rank = blockIdx.x % SPLIT, head = blockIdx.x / SPLIT, h = head % p.heads, b = head / p.heads;
  int lane = threadIdx.x & 31, warp = threadIdx.x / 32, slot = lane / LANES, channel = lane % LANES * WIDTH;
  bool active = channel < D / 2;
  if (!active) channel = 0;
  int t = p.positions ? p.positions[b] : p.position, place;
  const T* kBase = p.k + b * p.kB + h / p.ratioK * p.kH;
  // Keys are dealt to the warps of all blocks in turn.
  int start = (rank * WARPS + warp) * KEYS + slot;
  constexpr int step = SPLIT * WARPS * KEYS;

  float q[2 * WIDTH];
  loadRow(q, p.q + b * p.qB + h * p.qH, channel);
  if (!active)
#pragma unroll
    for (int i = 0; i < 2 * WIDTH; i++) q[i] = 0.f;
  int offset = 0;
  for (int m = 0; m < p.passes; m++) {
    const DecodePass& pass = p.pass[m];
    int count = keysOf(pass, t, place);
    float beta = pass.beta ? toFloat(pass.beta[h]) * LOG2E : 0.f;
    const float* bias = pass.bias ? pass.bias + (i64)h * pass.biasStride : nullptr;
#pragma unroll 2
    for (int j = start; j - slot < count; j += step) {
      // Lanes without a key read the token's own row, so that no load waits for a branch.
      int jj = j < count ? j : 0;
      float k[2 * WIDTH], dot = 0.f;
      loadRow(k, kBase + (t - (i64)jj * pass.stride) * p.kN, channel);
#if ROTARY
      const float4* turns = reinterpret_cast<const float4*>(pass.rotary + (i64)jj * (D / 2) + channel);
      float4 w[WIDTH / 2];  // cos, sin, cos, sin
#pragma unroll
      for (int i = 0; i < WIDTH / 2; i++) w[i] = __ldg(turns + i);
#endif
#pragma unroll
      for (int i = 0; i < WIDTH; i++) {
        float same = q[i] * k[i] + q[WIDTH + i] * k[WIDTH + i];
#if ROTARY
        float2 turn = i % 2 ? make_float2(w[i / 2].z, w[i / 2].w) : make_float2(w[i / 2].x, w[i / 2].y);
        same = same * turn.x + (q[i] * k[WIDTH + i] - q[WIDTH + i] * k[i]) * turn.y;
#endif
        dot += same;
      }
#pragma unroll
      for (int i = LANES / 2; i > 0; i /= 2) dot += __shfl_xor_sync(~0u, dot, i);
      if (j < count && lane % LANES == 0) {
        float x = dot * p.scale * pass.scale;
#if SLIDING
        if (bias) x += bias[j] * LOG2E;
#else
        if (bias) x += bias[(i64)place * pass.size + place - j] * LOG2E;
#endif
        if (j == 0) own[m] = x;
        z[offset + j] = j == 0 ? -INFINITE : x + beta;
      }
    }
    offset += count;
  }
  __syncthreads();
  offset = 0;
  for (int m = 0; m < p.passes; m++) {
    const DecodePass& pass = p.pass[m];
    int count = keysOf(pass, t, place);
    // Every warp forms the maximum over the block's keys for itself: cheaper than another barrier.
    auto mine = [&](int i) { return (i / (WARPS * KEYS) * SPLIT + rank) * (WARPS * KEYS) + i % (WARPS * KEYS); };
    float best = -INFINITE;
    for (int i = lane; mine(i - lane) < count; i += 32)
      if (mine(i) < count) best = fmaxf(best, z[offset + mine(i)]);
#pragma unroll
    for (int i = 16; i > 0; i /= 2) best = fmaxf(best, __shfl_xor_sync(~0u, best, i));
    float shift = best == -INFINITE ? 0.f : best, total = 0.f;
    if (warp == 0) {
      for (int i = lane; mine(i - lane) < count; i += 32)
        if (mine(i) < count) total += exp2Fast(z[offset + mine(i)] - shift);
#pragma unroll
      for (int i = 16; i > 0; i /= 2) total += __shfl_xor_sync(~0u, total, i);
      if (lane == 0) top[m] = best, sum[m] = total;
    }
    const T* uBase = pass.u + b * pass.uB + h / pass.ratioU * pass.uH;
    float acc[2 * WIDTH];
#pragma unroll
    for (int i = 0; i < 2 * WIDTH; i++) acc[i] = 0.f;
#pragma unroll 4
    for (int j = start; j - slot < count; j += step) {
      int jj = j > 0 && j < count ? j : min(1, count - 1);
      float u[2 * WIDTH], weight = j > 0 && j < count ? exp2Fast(z[offset + j] - shift) : 0.f;
      // The token's own u is not there yet: with a single key nothing is read.
      if (count > 1) {
        loadRow(u, uBase + (t - (i64)jj * pass.stride) * pass.uN, channel);
#pragma unroll
        for (int i = 0; i < 2 * WIDTH; i++) acc[i] += weight * u[i];
      }
    }
#pragma unroll
    for (int i = 0; i < 2 * WIDTH; i++)
#pragma unroll
      for (int k = LANES; k < 32; k *= 2) acc[i] += __shfl_xor_sync(~0u, acc[i], k);
    if (active && slot == 0)
#pragma unroll
      for (int i = 0; i < 2 * WIDTH; i++)
        partial[(m * WARPS + warp) * D + (i / WIDTH) * (D / 2) + channel + i % WIDTH] = acc[i];
    offset += count;
  }
  __syncthreads();
  for (int i = threadIdx.x; i < p.passes * D; i += THREADS) {
    float x = 0.f;
#pragma unroll
    for (int w = 0; w < WARPS; w++) x += partial[(i / D * WARPS + w) * D + i % D];
    row[i] = x;
  }
  meet();
  if (rank == 0) {
    // The blocks' parts of all passes are fetched at once; then the chain needs this block's memory only.
    float* merged = partial;                   // [passes][D]
    float* mergedTop = partial + p.passes * D;
    float* mergedSum = mergedTop + MODES;
    for (int i = threadIdx.x; i < p.passes * D; i += THREADS) {
      int m = i / D;
      float tops[SPLIT], sums[SPLIT], rows[SPLIT], best = -INFINITE, value = 0.f, total = 0.f;
#pragma unroll
      for (int r = 0; r < SPLIT; r++) {
        tops[r] = peer(top + m, r);
        sums[r] = peer(sum + m, r);
        rows[r] = peer(row + i, r);
      }
#pragma unroll
      for (int r = 0; r < SPLIT; r++) best = fmaxf(best, tops[r]);
      float shift = best == -INFINITE ? 0.f : best;
#pragma unroll
      for (int r = 0; r < SPLIT; r++) {
        float weight = exp2Fast(tops[r] - shift);
        value += weight * rows[r];
        total += weight * sums[r];
      }
      merged[i] = value;
      if (i % D == 0) mergedTop[m] = best, mergedSum[m] = total;
    }
    __syncthreads();
    for (int c = threadIdx.x; c < D; c += THREADS) {
      const DecodePass& lowest = p.pass[0];
      T x = lowest.u[b * lowest.uB + h / lowest.ratioU * lowest.uH + (i64)t * lowest.uN + c];
      float lse = 0.f;
      for (int m = 0; m < p.passes; m++) {
        const DecodePass& pass = p.pass[m];
        float zero = JOINT && m > 0 ? lse : own[m], best = fmaxf(mergedTop[m], zero);
        float shift = best == -INFINITE ? 0.f : best;
        float others = exp2Fast(mergedTop[m] - shift), self = exp2Fast(zero - shift);
        float total = mergedSum[m] * others + self;
        float value = total > 0.f ? (merged[m * D + c] * others + self * toFloat(x)) / total : 0.f;
        lse = total > 0.f ? best + log2f(total) : -INFINITE;
        x = rounded(value);
        if (m + 1 < p.passes) pass.next[b * pass.nextB + h * pass.nextH + (i64)t * pass.nextN + c] = x;
      }
      p.out[b * p.oB + h * p.oH + c] = x;
      if (c == 0 && p.lse) p.lse[head] = lse * LN2;
    }
  }
  meet();
}
