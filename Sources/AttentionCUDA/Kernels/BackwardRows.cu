// What the backward pass of long fibers needs of every row before its products (see Backward.cu): scale·D =
// scale·(⟨du', u'⟩ − dℓ') and ℓ' − β in base 2, one after the other in the workspace. Also clears the parts of dβ.
// Where there is no u', the pass above has left ⟨du', u'⟩ in D's place.
// A row is D/8 lanes with 16 bytes each.
#define LANES (D / 8)
#define STEP (THREADS / LANES)

extern "C" __global__ void __launch_bounds__(THREADS) backwardRows(const __grid_constant__ Pass p) {
  followPrevious();
  int h = blockIdx.y % p.heads, b = blockIdx.y / p.heads;
  int limit = p.lengths ? min(p.lengths[b], p.tokens) : p.tokens;
  int chunk = threadIdx.x % LANES, t0 = blockIdx.x * (4 * STEP) + threadIdx.x / LANES;
#if BETA
  i64 part = ((i64)blockIdx.y * gridDim.x + blockIdx.x) * THREADS + threadIdx.x;
  if (part < (i64)p.heads * p.batch * p.fibers * p.tilesPerFiber * 4) p.dbeta[part] = 0.f;
#endif
  const T* out = p.out + b * p.oB + h * p.oH + chunk * 8;
  const T* dout = p.dout + b * p.doB + h * p.doH + chunk * 8;
  i64 row = (i64)blockIdx.y * p.lseN, rows = (i64)p.batch * p.heads * p.lseN;
  if (!p.out) {
#pragma unroll
    for (int n = 0; n < 4; n++) {
      int t = (blockIdx.x * 4 + n) * THREADS + threadIdx.x;
      if (t >= limit) continue;
      float dlse = p.dlseOut ? __ldg(p.dlseOut + row + t) : 0.f;
      p.dot[row + t] = (p.dot[row + t] - dlse) * p.rawScale;
      p.dot[rows + row + t] = inverseLog(__ldg(p.lseOut + row + t)) - (BETA ? p.beta[h] * LOG2E : 0.f);
    }
    return;
  }
  uint4 x[4], y[4];
  float lse[4], dlse[4];
#pragma unroll
  for (int n = 0; n < 4; n++) {
    int t = t0 + n * STEP;
    x[n] = y[n] = make_uint4(0, 0, 0, 0);
    if (t < limit) {
      x[n] = __ldg(reinterpret_cast<const uint4*>(out + t * p.oN));
      y[n] = __ldg(reinterpret_cast<const uint4*>(dout + t * p.doN));
    }
    lse[n] = t < limit ? __ldg(p.lseOut + row + t) : 0.f;
    dlse[n] = t < limit && p.dlseOut ? __ldg(p.dlseOut + row + t) : 0.f;
  }
#pragma unroll
  for (int n = 0; n < 4; n++) {
    u32 a[4] = {x[n].x, x[n].y, x[n].z, x[n].w}, c[4] = {y[n].x, y[n].y, y[n].z, y[n].w};
    float sum = 0.f;
#pragma unroll
    for (int i = 0; i < 4; i++) {
      float2 v = unpack(a[i]), w = unpack(c[i]);
      sum += v.x * w.x + v.y * w.y;
    }
#pragma unroll
    for (int step = LANES / 2; step > 0; step /= 2) sum += __shfl_xor_sync(~0u, sum, step);
    int t = t0 + n * STEP;
    if (chunk == 0 && t < limit) {
      p.dot[row + t] = (sum - dlse[n]) * p.rawScale;
      p.dot[rows + row + t] = inverseLog(lse[n]) - (BETA ? p.beta[h] * LOG2E : 0.f);
    }
  }
}
