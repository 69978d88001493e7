// How blocks of a cluster hand each other rows: stores that are counted in a barrier of the block that receives them.

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
