// Adds the partial sums of dβ in a fixed order: one block a head, 256 partials at a time.
struct Reduction {
  const float* partials;
  float* out;
  int count, reserved;
};

extern "C" __global__ void reducePartials(const __grid_constant__ Reduction p) {
  __shared__ double sums[256];
  double sum = 0;
  for (int i = threadIdx.x; i < p.count; i += 256) sum += p.partials[(i64)blockIdx.x * p.count + i];
  sums[threadIdx.x] = sum;
  __syncthreads();
  for (int step = 128; step > 0; step /= 2) {
    if (threadIdx.x < step) sums[threadIdx.x] += sums[threadIdx.x + step];
    __syncthreads();
  }
  if (threadIdx.x == 0) p.out[blockIdx.x] = (float)sums[0];
}

// What a launch costs.
extern "C" __global__ void nothing(int) {}
