// What the long backward kernels need of every row (see Backward.cu): where the pass above has left ⟨du', u'⟩ in the
// workspace, scale·D = scale·(⟨du', u'⟩ − dℓ') in its place (else the query role forms it); behind it ℓ' − β in base 2.
// Also clears the parts of dβ. A thread has four rows.

extern "C" __global__ void __launch_bounds__(THREADS) backwardRows(const __grid_constant__ Pass p) {
  followPrevious();
  int h = blockIdx.y % p.heads, b = blockIdx.y / p.heads;
  int limit = p.lengths ? min(p.lengths[b], p.tokens) : p.tokens;
  i64 row = (i64)blockIdx.y * p.lseN, rows = (i64)p.batch * p.heads * p.lseN;
#if BETA
  i64 part = ((i64)blockIdx.y * gridDim.x + blockIdx.x) * THREADS + threadIdx.x;
  if (part < (i64)p.heads * p.batch * p.fibers * p.tilesPerFiber * 4) p.dbeta[part] = 0.f;
#endif
  float beta = BETA ? toFloat(p.beta[h]) * LOG2E : 0.f;
#pragma unroll
  for (int n = 0; n < 4; n++) {
    int t = (blockIdx.x * 4 + n) * THREADS + threadIdx.x;
    if (t >= limit) continue;
    if (!p.out) p.dot[row + t] = (p.dot[row + t] - (p.dlseOut ? __ldg(p.dlseOut + row + t) : 0.f)) * p.rawScale;
    p.dot[rows + row + t] = inverseLog(__ldg(p.lseOut + row + t)) - beta;
  }
}

#if ROTARY
// Turns rows of dq, which BackwardWhole.cu leaves as turned as the keys are, back to what they were turned from. A thread
// has eight channels of either half of four rows.
extern "C" __global__ void __launch_bounds__(THREADS) turnQueriesBack(const __grid_constant__ Pass p) {
  followPrevious();
  constexpr int PARTS = D / 16, ROWS = THREADS / PARTS, COUNT = 4;
  int h = blockIdx.y % p.heads, b = blockIdx.y / p.heads, part = threadIdx.x % PARTS;
  int first = blockIdx.x * ROWS * COUNT + threadIdx.x / PARTS;
  T* line = p.dq + b * p.dqB + h * p.dqH + part * 8;
  uint4 low[COUNT], high[COUNT];
#pragma unroll
  for (int n = 0; n < COUNT; n++) {
    const uint4* row = reinterpret_cast<const uint4*>(line + (i64)min(first + n * ROWS, p.tokens - 1) * p.dqN);
    low[n] = row[0], high[n] = row[D / 16];
  }
#pragma unroll
  for (int n = 0; n < COUNT; n++) {
    int t = first + n * ROWS, position = SLIDING ? t / p.stride : t / p.stride % p.size;
    if (t >= p.tokens) continue;
    const float4* turns = reinterpret_cast<const float4*>(p.rotary + (i64)position * (D / 2) + part * 8);
    u32 x[4] = {low[n].x, low[n].y, low[n].z, low[n].w}, y[4] = {high[n].x, high[n].y, high[n].z, high[n].w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
      float4 w = __ldg(turns + i);
      float2 l = unpack(x[i]), m = unpack(y[i]);
      x[i] = pack(l.x * w.x + m.x * w.y, l.y * w.z + m.y * w.w);
      y[i] = pack(m.x * w.x - l.x * w.y, m.y * w.z - l.y * w.w);
    }
    uint4* row = reinterpret_cast<uint4*>(line + (i64)t * p.dqN);
    row[0] = make_uint4(x[0], x[1], x[2], x[3]);
    row[D / 16] = make_uint4(y[0], y[1], y[2], y[3]);
  }
}
#endif
