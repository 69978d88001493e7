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
  float beta = BETA ? p.beta[h] * LOG2E : 0.f;
#pragma unroll
  for (int n = 0; n < 4; n++) {
    int t = (blockIdx.x * 4 + n) * THREADS + threadIdx.x;
    if (t >= limit) continue;
    if (!p.out) p.dot[row + t] = (p.dot[row + t] - (p.dlseOut ? __ldg(p.dlseOut + row + t) : 0.f)) * p.rawScale;
    p.dot[rows + row + t] = inverseLog(__ldg(p.lseOut + row + t)) - beta;
  }
}
