// Adds the partial sums of dβ in a fixed order: one block a head, 256 partials at a time. The lowest mode has no β: its
// row of dβ becomes zeros here.
struct Reduction {
  const float* partials;
  void* out;     // [H] in the element type, as is `lowest`
  void* lowest;  // or null
  int count, element;
};

// A sum as an element: 0 bf16, 1 f16, 2 f32.
__device__ __forceinline__ void put(void* row, int place, int element, float x) {
  if (element == 2) {
    ((float*)row)[place] = x;
  } else {
    unsigned short y;
    if (element == 0) asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y) : "f"(x));
    else asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y) : "f"(x));
    ((unsigned short*)row)[place] = y;
  }
}

extern "C" __global__ void reducePartials(const __grid_constant__ Reduction p) {
  followPrevious();
  __shared__ double sums[256];
  double sum = 0;
  for (int i = threadIdx.x; i < p.count; i += 256) sum += p.partials[(i64)blockIdx.x * p.count + i];
  sums[threadIdx.x] = sum;
  __syncthreads();
  for (int step = 128; step > 0; step /= 2) {
    if (threadIdx.x < step) sums[threadIdx.x] += sums[threadIdx.x + step];
    __syncthreads();
  }
  if (threadIdx.x != 0) return;
  put(p.out, blockIdx.x, p.element, (float)sums[0]);
  if (p.lowest) put(p.lowest, blockIdx.x, p.element, 0.f);
}

// Adds the parts of a mode bias's gradient in a fixed order; places that the parts lack become zeros. One
// thread an entry, one row of the grid a head.
struct BiasReduction {
  const float* parts;  // [heads][count][plane], rows of `extent` entries
  float* out;          // [heads][rows][size]
  i64 plane;
  int count, extent, rows, size;
};

extern "C" __global__ void reduceBias(const __grid_constant__ BiasReduction p) {
  followPrevious();
  i64 place = (i64)blockIdx.x * 256 + threadIdx.x, places = (i64)p.rows * p.size;
  if (place >= places) return;
  i64 i = place / p.size, j = place % p.size;
  double sum = 0;
  if (i < p.extent && j < p.extent)
    for (int part = 0; part < p.count; part++)
      sum += p.parts[((i64)blockIdx.y * p.count + part) * p.plane + i * p.extent + j];
  p.out[(i64)blockIdx.y * places + place] = (float)sum;
}

// What a launch costs.
extern "C" __global__ void nothing(int) {}
