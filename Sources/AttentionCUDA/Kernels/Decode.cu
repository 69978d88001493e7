// One new token against the caches, all passes of the chain in one launch: one block a query head.
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
  const float* beta;
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
  const int* positions;  // [B] the token's position t
  i64 qB, qH, kB, kH, kN, oB, oH;
  int heads, ratioK, passes, reserved;
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

extern "C" __global__ void __launch_bounds__(THREADS, 1) decode(const __grid_constant__ Decode p) {
  extern __shared__ __align__(16) char memory[];
  float* partial = reinterpret_cast<float*>(memory);     // [MODES][WARPS][D]
  float* own = partial + p.passes * WARPS * D;              // z_0 of every pass
  float* top = own + MODES;                              // max over the other keys
  float* sum = top + MODES;
  float* z = sum + MODES;                                // the logits of all passes, one after another

  int h = blockIdx.x % p.heads, b = blockIdx.x / p.heads;
  int lane = threadIdx.x & 31, warp = threadIdx.x / 32, slot = lane / LANES, channel = lane % LANES * WIDTH;
  bool active = channel < D / 2;
  int t = p.positions[b];
  const T* kBase = p.k + b * p.kB + h / p.ratioK * p.kH;

  float q[2 * WIDTH];
  if (active) loadRow(q, p.q + b * p.qB + h * p.qH, channel);
  int offset = 0;
  for (int m = 0; m < p.passes; m++) {
    const DecodePass& pass = p.pass[m];
    int place = t / pass.stride;
#if !SLIDING
    place %= pass.size;
#endif
    int count = min(pass.size, place + 1);
    const T* uBase = pass.u + b * pass.uB + h / pass.ratioU * pass.uH;
    for (int i = threadIdx.x; i < count * (int)((D * sizeof(T) + 127) / 128); i += THREADS) {
      int row = i % count, line = i / count;
      const char* address = reinterpret_cast<const char*>(uBase + (t - (i64)row * pass.stride) * pass.uN) + line * 128;
      asm volatile("prefetch.global.L2 [%0];" ::"l"(address));
    }
    float beta = pass.beta ? pass.beta[h] * LOG2E : 0.f;
    const float* bias = pass.bias ? pass.bias + (i64)h * pass.biasStride : nullptr;
#pragma unroll 4
    for (int j = warp * KEYS + slot; j < (count + KEYS - 1) / KEYS * KEYS; j += WARPS * KEYS) {
      float dot = 0.f;
      if (active && j < count) {
        float k[2 * WIDTH];
        loadRow(k, kBase + (t - (i64)j * pass.stride) * p.kN, channel);
#pragma unroll
        for (int i = 0; i < WIDTH; i++) {
          float same = q[i] * k[i] + q[WIDTH + i] * k[WIDTH + i];
#if ROTARY
          float2 turn = __ldg(pass.rotary + (i64)j * (D / 2) + channel + i);
          same = same * turn.x + (q[i] * k[WIDTH + i] - q[WIDTH + i] * k[i]) * turn.y;
#endif
          dot += same;
        }
      }
#pragma unroll
      for (int step = LANES / 2; step > 0; step /= 2) dot += __shfl_xor_sync(~0u, dot, step);
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
    int place = t / pass.stride;
#if !SLIDING
    place %= pass.size;
#endif
    int count = min(pass.size, place + 1);
    // Every warp forms the maximum for itself: cheaper than another barrier.
    float best = -INFINITE;
    for (int j = lane; j < count; j += 32) best = fmaxf(best, z[offset + j]);
#pragma unroll
    for (int step = 16; step > 0; step /= 2) best = fmaxf(best, __shfl_xor_sync(~0u, best, step));
    float shift = best == -INFINITE ? 0.f : best, total = 0.f;
    if (warp == 0) {
      for (int j = lane; j < count; j += 32) total += exp2Fast(z[offset + j] - shift);
#pragma unroll
      for (int step = 16; step > 0; step /= 2) total += __shfl_xor_sync(~0u, total, step);
      if (lane == 0) top[m] = best, sum[m] = total;
    }
    const T* uBase = pass.u + b * pass.uB + h / pass.ratioU * pass.uH;
    float acc[2 * WIDTH];
#pragma unroll
    for (int i = 0; i < 2 * WIDTH; i++) acc[i] = 0.f;
#pragma unroll 4
    for (int j = 1 + warp * KEYS + slot; j < count; j += WARPS * KEYS) {
      if (!active) continue;
      float u[2 * WIDTH], weight = exp2Fast(z[offset + j] - shift);
      loadRow(u, uBase + (t - (i64)j * pass.stride) * pass.uN, channel);
#pragma unroll
      for (int i = 0; i < 2 * WIDTH; i++) acc[i] += weight * u[i];
    }
#pragma unroll
    for (int i = 0; i < 2 * WIDTH; i++)
#pragma unroll
      for (int step = LANES; step < 32; step *= 2) acc[i] += __shfl_xor_sync(~0u, acc[i], step);
    if (active && slot == 0)
#pragma unroll
      for (int i = 0; i < 2 * WIDTH; i++)
        partial[(m * WARPS + warp) * D + (i / WIDTH) * (D / 2) + channel + i % WIDTH] = acc[i];
    offset += count;
  }
  __syncthreads();
  for (int c = threadIdx.x; c < D; c += THREADS) {
    const DecodePass& lowest = p.pass[0];
    T x = lowest.u[b * lowest.uB + h / lowest.ratioU * lowest.uH + (i64)t * lowest.uN + c];
    float lse = 0.f;
    for (int m = 0; m < p.passes; m++) {
      const DecodePass& pass = p.pass[m];
      float zero = JOINT && m > 0 ? lse : own[m];
      float best = fmaxf(top[m], zero), shift = best == -INFINITE ? 0.f : best;
      float others = exp2Fast(top[m] - shift), self = exp2Fast(zero - shift);
      float value = 0.f;
      for (int w = 0; w < WARPS; w++) value += partial[(m * WARPS + w) * D + c];
      float total = sum[m] * others + self;
      value = total > 0.f ? (value * others + self * toFloat(x)) / total : 0.f;
      lse = total > 0.f ? best + log2f(total) : -INFINITE;
      x = rounded(value);
      if (m + 1 < p.passes) pass.next[b * pass.nextB + h * pass.nextH + (i64)t * pass.nextN + c] = x;
    }
    p.out[b * p.oB + h * p.oH + c] = x;
    if (c == 0 && p.lse) p.lse[blockIdx.x] = lse * LN2;
  }
}
