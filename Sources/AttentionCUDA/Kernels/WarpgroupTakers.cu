// The warps that take results to memory where two forward passes share a launch.

#if BOTH
// Takes results to memory: those of the upper pass, or those of the lower pass of one consumer, and then tells that they
// are there.
__device__ __forceinline__ void takeRows(const PairedForward& both, u32 memory, const Gates& gates, int upper, int own) {
  int lane = threadIdx.x & 31, parity = 0;
  u64 policy = upper ? dropPolicy() : keepPolicy();
  Walk<FORWARD> walk;
  walk.begin(both);
  while (walk.next(both)) {
    if (walk.upper != upper) continue;
    const WalkedForward& p = passOf(both, upper);
    for (int block = walk.first; block < walk.live; block++) {
      int group = (block ^ walk.turn) & 1, which = group * 2 + upper;
      if (!upper && group != own) continue;
      u32 stage = memory + STAGES * SLOT + (2 + which) * TILE;
      waitFor(gates.staged(which), parity >> group & 1);
      parity ^= 1 << group;
      if (walk.isBox(p, block)) {
        if (lane == 0) {
          int line = divide(walk.origin, p.byStride);
#pragma unroll
          for (int panel = 0; panel < D / 64; panel++)
            asm volatile(
                "cp.async.bulk.tensor.5d.global.shared::cta.bulk_group.L2::cache_hint [%0, {%1, %2, %3, %4, %5}], [%6], "
                "%7;" ::"l"(&p.outMap),
                "r"(panel * 64), "r"(line + block * 64), "r"(walk.origin - line * p.stride), "r"(walk.h), "r"(walk.b),
                "r"(stage + panel * PANEL), "l"(policy)
                : "memory");
          asm volatile("cp.async.bulk.commit_group;" ::: "memory");
        }
        i64 row = (i64)(walk.b * p.heads + walk.h) * p.lseN + walk.origin + (i64)(block * 64 + lane) * p.stride;
#pragma unroll
        for (int half = 0; half < 2; half++) {
          float lse;
          asm volatile("ld.shared.f32 %0, [%1];" : "=f"(lse) : "r"(gates.leaving(which) + (half * 32 + lane) * 4) : "memory");
          if (p.lseOut) p.lseOut[row + half * 32 * p.stride] = lse;
        }
        if (lane == 0) asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory");
      }
      __syncwarp();
      if (lane == 0) arrive(gates.taken(which));
    }
    if (!upper && lane == 0) {
      asm volatile("cp.async.bulk.wait_group 0;" ::: "memory");
      asm volatile("fence.proxy.async;" ::: "memory");
      asm volatile("red.release.gpu.global.add.u32 [%0], 1;" ::"l"(both.finished + walk.unit) : "memory");
    }
    __syncwarp();
  }
  if (lane == 0) asm volatile("cp.async.bulk.wait_group 0;" ::: "memory");
}
#endif
