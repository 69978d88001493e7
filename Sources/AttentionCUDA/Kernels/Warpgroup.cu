// What Hopper's warpgroup kernels share: barriers in shared memory, products of 64 rows (wgmma), and tiles in
// the 128-byte swizzle that those read.
//
// A tile is 64 token rows. It lies in panels of 64 channels, a row of a panel being 128 bytes whose
// eight 16-byte chunks are permuted by the row's number, so that eight rows of a chunk meet all banks. Tiles
// start at multiples of 1024 bytes.

#define PANEL 8192
#define TILE (D / 64 * PANEL)
#define SLOT (2 * TILE)  // a tile of keys and one of values

__device__ __forceinline__ void initialize(u32 barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}
__device__ __forceinline__ void arrive(u32 barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}
__device__ __forceinline__ void waitFor(u32 barrier, int parity) {
  asm volatile(
      "{ .reg .pred p;\n"
      "again: mbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1;\n"
      "@p bra done;\n"
      "bra again;\n"
      "done: }" ::"r"(barrier),
      "r"(parity)
      : "memory");
}
// Makes this thread's stores to shared memory visible to wgmma.
__device__ __forceinline__ void publish() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// A warp's rows begin at a multiple of sixteen: of two tiles at the same place, a row's own score can only be one of half
// the lane's.
__device__ __forceinline__ constexpr bool mayBeOwn(int n, int e) { return (n & 1) == e >> 1; }

// What L2 should keep until a later pass has read it, what is read soon, and what nobody reads again.
__device__ __forceinline__ u64 keepPolicy() {
  u64 policy;
  asm volatile("createpolicy.fractional.L2::evict_last.b64 %0, 1.0;" : "=l"(policy));
  return policy;
}
__device__ __forceinline__ u64 usualPolicy() {
  u64 policy;
  asm volatile("createpolicy.fractional.L2::evict_normal.b64 %0, 1.0;" : "=l"(policy));
  return policy;
}
__device__ __forceinline__ u64 dropPolicy() {
  u64 policy;
  asm volatile("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
  return policy;
}

// Where chunk `chunk` of row `row` lies in a tile.
__device__ __forceinline__ u32 swizzled(int row, int chunk) {
  return chunk / 8 * PANEL + row * 128 + (((chunk ^ row) & 7) << 4);
}

// The first word of a tile's descriptor as the B operand of wgmma: 64 rows in groups of eight, 1024 bytes
// apart. `leading` bytes separate the panels where the rows are the inner dimension of the product. An operand
// `n` bytes on has n / 16 more in this word.
__device__ __forceinline__ u32 descriptor(u32 address, u32 leading) { return leading >> 4 << 16 | address >> 4; }

__device__ __forceinline__ void beginProducts() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void commitProducts() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int PENDING>
__device__ __forceinline__ void awaitProducts() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory");
}

#if DTYPE == 0
#define WGMMA(N) "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32.bf16.bf16 "
#else
#define WGMMA(N) "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32.f16.f16 "
#endif
#define QUAD(x, n) x(c[n][0]), x(c[n][1]), x(c[n][2]), x(c[n][3])
#define OCTET(x, n)                                                             \
  QUAD(x, n), QUAD(x, n + 1), QUAD(x, n + 2), QUAD(x, n + 3), QUAD(x, n + 4), \
      QUAD(x, n + 5), QUAD(x, n + 6), QUAD(x, n + 7)
#define OUT "=f"
#define INOUT "+f"
#define OCTETS_8(x) OCTET(x, 0)
#define OCTETS_16(x) OCTET(x, 0), OCTET(x, 8)
#define LANES_8                                                                                              \
  "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27," \
  "%28,%29,%30,%31}"
#define NAMES_8 LANES_8 ", {%32,%33,%34,%35}"
#define NAMES_16                                                                                               \
  "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,"   \
  "%28,%29,%30,%31,%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53," \
  "%54,%55,%56,%57,%58,%59,%60,%61,%62,%63}, {%64,%65,%66,%67}"

// c[64, 8·BLOCKS] (+)= a[64, 16] · b: a warp's sixteen rows of a and c in registers; b a tile's rows (TRANSPOSED 0:
// c's columns are rows of the tile) or its channels (1). `start` forgets what c was.
#define PRODUCT(NAME, BLOCKS, N, ADD, KIND, B, T)                                                              \
  template <int TRANSPOSED>                                                                                    \
  __device__ __forceinline__ void NAME(float (&c)[BLOCKS][4], const u32 (&a)[4], u32 b) {                      \
    asm volatile("{ .reg .pred p; .reg .b64 b; setp.ne.b32 p, " ADD ", 0; mov.b64 b, {%" B ", 0x40000040};\n"  \
                 WGMMA(N) NAMES_##BLOCKS ", b, p, 1, 1, %" T "; }"                                             \
                 : OCTETS_##BLOCKS(KIND)                                                                       \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b), "n"(TRANSPOSED));                       \
  }
PRODUCT(start, 8, 64, "0", OUT, "36", "37")
PRODUCT(add, 8, 64, "1", INOUT, "36", "37")
PRODUCT(start, 16, 128, "0", OUT, "68", "69")
PRODUCT(add, 16, 128, "1", INOUT, "68", "69")

// c[64, 64] = a[64, D] · b[64, D]ᵀ of two tiles, given by their descriptors.
__device__ __forceinline__ void startTiles(float (&c)[8][4], u32 a, u32 b) {
  asm volatile("{ .reg .b64 a, b; mov.b64 a, {%32, 0x40000040}; mov.b64 b, {%33, 0x40000040};\n" WGMMA(64) LANES_8
               ", a, b, 0, 1, 1, 0, 0; }"
               : OCTETS_8(OUT)
               : "r"(a), "r"(b));
#pragma unroll
  for (int k = 1; k < D / 16; k++) {
    u32 offset = (k / 4 * PANEL + k % 4 * 32) / 16;
    asm volatile("{ .reg .b64 a, b; mov.b64 a, {%32, 0x40000040}; mov.b64 b, {%33, 0x40000040};\n" WGMMA(64) LANES_8
                 ", a, b, 1, 1, 1, 0, 0; }"
                 : OCTETS_8(INOUT)
                 : "r"(a + offset), "r"(b + offset));
  }
}

// Keeps the compiler from moving arithmetic on `c` across this point: which products run beside it is decided here.
__device__ __forceinline__ void pin(float (&c)[8][4]) { asm volatile("" : OCTETS_8(INOUT)::"memory"); }
__device__ __forceinline__ void pin(float (&c)[16][4]) { asm volatile("" : OCTETS_16(INOUT)::"memory"); }

// A product's result as the next one's operand.
__device__ __forceinline__ void packScores(u32 (&a)[4][4], const float (&s)[8][4]) {
#pragma unroll
  for (int k = 0; k < 4; k++)
#pragma unroll
    for (int i = 0; i < 4; i++) a[k][i] = pack(s[2 * k + i / 2][i % 2 * 2], s[2 * k + i / 2][i % 2 * 2 + 1]);
}

// The thread's number, held in a register: the compiler would read it again wherever it is needed, behind loads and stores
// in their queue.
__device__ __forceinline__ int heldThread() {
  int x;
  asm volatile("mov.u32 %0, %%tid.x;" : "=r"(x));
  return x;
}

// A value that the compiler takes for the same in all lanes of a warp.
__device__ __forceinline__ int uniform(int x) { return __shfl_sync(~0u, x, 0); }

__device__ __forceinline__ float reciprocal(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
__device__ __forceinline__ float log2Fast(float x) {
  float y;
  asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

__device__ __forceinline__ uint4 loadShared(u32 address) {
  uint4 x;
  asm volatile("ld.shared.v4.u32 {%0,%1,%2,%3}, [%4];"
               : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w)
               : "r"(address)
               : "memory");
  return x;
}
__device__ __forceinline__ void storeShared(u32 address, const u32 (&x)[4]) {
  asm volatile("st.shared.v4.u32 [%0], {%1,%2,%3,%4};" ::"r"(address), "r"(x[0]), "r"(x[1]), "r"(x[2]), "r"(x[3])
               : "memory");
}
__device__ __forceinline__ void storeGlobal(T* place, uint4 x) {
  asm volatile("st.global.v4.u32 [%0], {%1,%2,%3,%4};" ::"l"(place), "r"(x.x), "r"(x.y), "r"(x.z), "r"(x.w) : "memory");
}
__device__ __forceinline__ void loadMatrices(u32 (&x)[4], u32 address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
               : "r"(address)
               : "memory");
}
__device__ __forceinline__ void storeMatrices(u32 address, u32 a, u32 b, u32 c, u32 d) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1,%2,%3,%4};" ::"r"(address), "r"(a), "r"(b), "r"(c),
               "r"(d)
               : "memory");
}

// A tensor as tensor memory access sees it: channels, positions along fibers, neighboring fibers, heads, sequences; in
// boxes of 64 channels of some rows in the 128-byte swizzle. Must match `TensorMap`.
struct alignas(64) Map {
  u64 words[16];
};
