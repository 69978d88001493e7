// How blocks of a cluster hand each other rows: stores that are counted in a barrier of the block that receives
// them, and the order of channels in which neither side exchanges words.

// The address of what block `rank` of the cluster holds at this block's `p`.
__device__ __forceinline__ u32 peer(const void* p, int rank) {
  u32 address;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(address) : "r"(shared32(p)), "r"(rank));
  return address;
}
// Stores to another block's shared memory that count their bytes in its barrier when they arrive.
__device__ __forceinline__ void send(u32 address, u32 barrier, u32 x) {
  asm volatile("st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.b32 [%0], %1, [%2];" ::"r"(address),
               "r"(x), "r"(barrier)
               : "memory");
}
__device__ __forceinline__ void send(u32 address, u32 barrier, u32 x, u32 y) {
  asm volatile("st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v2.b32 [%0], {%1, %2}, [%3];" ::"r"(address),
               "r"(x), "r"(y), "r"(barrier)
               : "memory");
}
__device__ __forceinline__ void send(u32 address, u32 barrier, const u32 (&x)[4]) {
  asm volatile("st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v4.b32 [%0], {%1, %2, %3, %4}, [%5];" ::"r"(
                   address),
               "r"(x[0]), "r"(x[1]), "r"(x[2]), "r"(x[3]), "r"(barrier)
               : "memory");
}

// Writes one of a lane's two rows of a product with sent rows: of every 32 channels, words 4t … 4t + 3 are in lane t.
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
