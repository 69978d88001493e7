// The process: seeds, threads, devices, versions.
#include "internal.h"

#include <ATen/Context.h>
#include <ATen/DeviceAccelerator.h>
#include <ATen/Parallel.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <dlfcn.h>

#if __has_include(<c10/core/CachingDeviceAllocator.h>)
#include <c10/core/CachingDeviceAllocator.h>
#define CTORCH_HAS_DEVICE_STATISTICS (TORCH_VERSION_MAJOR == 2 && TORCH_VERSION_MINOR >= 9)
#else
#define CTORCH_HAS_DEVICE_STATISTICS 0
#endif

#include <algorithm>
#include <mutex>

namespace {

template <typename Function>
Function symbol(const char *name) {
  return reinterpret_cast<Function>(dlsym(RTLD_DEFAULT, name));
}

struct Tasks {
  std::atomic<size_t> next{0};
  size_t count;
  void (*task)(void *, size_t);
  void *payload;

  void run() {
    for (size_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < count;) task(payload, i);
  }
};

// at::parallel_for is a header template that runs serially unless the including file is compiled
// with OpenMP, so the pool is reached through what the library exports: its C entry point since
// 2.10, and the OpenMP runtime that it carries before that.
using TorchParallelFor = int32_t (*)(int64_t, int64_t, int64_t, void (*)(int64_t, int64_t, void *),
                                     void *);
using OpenMPParallel = void (*)(void (*)(void *), void *, unsigned, unsigned);

void run_on_pool(Tasks &tasks, int workers) {
  static const auto torch_parallel = symbol<TorchParallelFor>("torch_parallel_for");
  static const auto openmp_parallel = symbol<OpenMPParallel>("GOMP_parallel");
  if (torch_parallel) {
    auto worker = [](int64_t, int64_t, void *context) { static_cast<Tasks *>(context)->run(); };
    if (torch_parallel(0, workers, 1, worker, &tasks) == 0) return;
  } else if (openmp_parallel && !at::in_parallel_region()) {
    openmp_parallel([](void *context) { static_cast<Tasks *>(context)->run(); }, &tasks,
                    static_cast<unsigned>(workers), 0);
  }
  tasks.run();  // whatever is left, which is nothing when the pool ran
}

#if CTORCH_HAS_DEVICE_STATISTICS
c10::DeviceAllocator *allocator(ct_device device) {
  return c10::getDeviceAllocator(static_cast<c10::DeviceType>(device.type));
}

ct_memory memory_statistics(ct_device device) {
  auto statistics = allocator(device)->getDeviceStats(static_cast<c10::DeviceIndex>(device.index));
  const auto &allocated = statistics.allocated_bytes[0];
  return {allocated.current, allocated.peak, statistics.reserved_bytes[0].current};
}

void reset_peak_memory(ct_device device) {
  allocator(device)->resetPeakStats(static_cast<c10::DeviceIndex>(device.index));
}

void empty_cache(ct_device device) { allocator(device)->emptyCache(); }
#else
[[noreturn]] void no_statistics() {
  TORCH_CHECK(false, "the allocator's statistics need libtorch 2.9 or later");
}

ct_memory memory_statistics(ct_device) { no_statistics(); }

void reset_peak_memory(ct_device) { no_statistics(); }

void empty_cache(ct_device) { no_statistics(); }
#endif

}  // namespace

int ct_manual_seed(uint64_t seed) {
  CT_PROTECT({ at::manual_seed(seed); })
}

int ct_generator_new(ct_device device, uint64_t seed, ct_generator *result) {
  CT_PROTECT({
    auto generator = at::globalContext().defaultGenerator(ctorch::device(device)).clone();
    generator.set_current_seed(seed);
    *result = new ct_generator_s{std::move(generator)};
  })
}

int ct_default_generator(ct_device device, ct_generator *result) {
  CT_PROTECT({
    *result = new ct_generator_s{at::globalContext().defaultGenerator(ctorch::device(device))};
  })
}

void ct_generator_free(ct_generator generator) { delete generator; }

int ct_generator_state(ct_generator generator, ct_tensor *result) {
  CT_PROTECT({
    std::lock_guard<std::mutex> lock(generator->value.mutex());
    *result = ctorch::make_handle(generator->value.get_state());
  })
}

int ct_set_generator_state(ct_generator generator, ct_tensor state) {
  CT_PROTECT({
    std::lock_guard<std::mutex> lock(generator->value.mutex());
    generator->value.set_state(state->value);
  })
}

int ct_thread_count(void) { return at::get_num_threads(); }

int ct_set_thread_count(int count) {
  CT_PROTECT({ at::set_num_threads(count); })
}

void ct_parallel_for(size_t count, void (*task)(void *payload, size_t index), void *payload) {
  Tasks tasks;
  tasks.count = count;
  tasks.task = task;
  tasks.payload = payload;
  auto workers = std::min<size_t>(count, static_cast<size_t>(at::get_num_threads()));
  if (workers > 1) {
    run_on_pool(tasks, static_cast<int>(workers));
  } else {
    tasks.run();
  }
}

const char *ct_compiled_version(void) { return TORCH_VERSION; }

int32_t ct_loaded_version(void) {
  auto abi_version = symbol<uint64_t (*)()>("aoti_torch_abi_version");
  if (!abi_version) return 0;
  auto encoded = abi_version();  // a byte each for major, minor and patch, from the top
  return static_cast<int32_t>((encoded >> 56) << 16 | ((encoded >> 48) & 0xff));
}

bool ct_cuda_is_available(void) { return ct_cuda_device_count() > 0; }

int ct_cuda_device_count(void) {
  try {
    return at::globalContext().hasCUDA()
               ? static_cast<int>(at::detail::getCUDAHooks().deviceCount())
               : 0;
  } catch (...) {
    return 0;
  }
}

int ct_synchronize(ct_device device) {
  CT_PROTECT({
    if (device.type != static_cast<int32_t>(c10::DeviceType::CPU)) {
      auto index = device.index < 0 ? at::accelerator::getDeviceIndex()
                                    : static_cast<c10::DeviceIndex>(device.index);
      at::accelerator::synchronizeDevice(index);
    }
  })
}

int ct_current_cuda_stream(int32_t device_index, void **result) {
  CT_PROTECT({
    auto stream = symbol<int32_t (*)(int32_t, void **)>("aoti_torch_get_current_cuda_stream");
    TORCH_CHECK(stream, "this libtorch is built without CUDA");
    TORCH_CHECK(stream(device_index, result) == 0, "no CUDA stream for device ", device_index);
  })
}

int ct_memory_statistics(ct_device device, ct_memory *result) {
  CT_PROTECT({ *result = memory_statistics(device); })
}

int ct_reset_peak_memory(ct_device device) {
  CT_PROTECT({ reset_peak_memory(device); })
}

int ct_empty_cache(ct_device device) {
  CT_PROTECT({ empty_cache(device); })
}
