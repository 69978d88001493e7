// Handles: their making from memory, their freeing, and what they tell about themselves.
#include "internal.h"

#include <cstdlib>
#include <cstring>
#include <memory>

namespace {

std::atomic<int64_t> live_tensors{0};
thread_local std::string last_error;

at::IntArrayRef shape(const int64_t *sizes, size_t rank) { return {sizes, rank}; }

at::TensorOptions options(int32_t dtype) {
  return at::TensorOptions().dtype(static_cast<at::ScalarType>(dtype));
}

}  // namespace

namespace ctorch {

void set_last_error(std::string message) { last_error = std::move(message); }

ct_tensor make_handle(at::Tensor tensor) {
  if (!tensor.defined()) return nullptr;
  auto *handle = new ct_tensor_s{std::move(tensor)};
  live_tensors.fetch_add(1, std::memory_order_relaxed);
  return handle;
}

}  // namespace ctorch

const char *ct_last_error(void) { return last_error.c_str(); }

char *ct_copy_string(const char *text) { return strdup(text); }

void ct_free(const void *pointer) { std::free(const_cast<void *>(pointer)); }

void ct_tensor_free(ct_tensor tensor) {
  if (!tensor) return;
  live_tensors.fetch_sub(1, std::memory_order_relaxed);
  delete tensor;
}

ct_tensor ct_tensor_retain(ct_tensor tensor) { return ctorch::make_handle(tensor->value); }

int64_t ct_live_tensors(void) { return live_tensors.load(std::memory_order_relaxed); }

int ct_tensor_from_bytes(const void *bytes, size_t byte_count, const int64_t *sizes, size_t rank,
                         int32_t dtype, ct_tensor *result) {
  CT_PROTECT({
    auto tensor = at::empty(shape(sizes, rank), options(dtype));
    TORCH_CHECK(tensor.nbytes() == byte_count, "a tensor of shape ", tensor.sizes(), " takes ",
                tensor.nbytes(), " bytes, not ", byte_count);
    if (byte_count > 0) std::memcpy(tensor.data_ptr(), bytes, byte_count);
    *result = ctorch::make_handle(std::move(tensor));
  })
}

int ct_tensor_from_blob(void *data, const int64_t *sizes, const int64_t *strides, size_t rank,
                        int32_t dtype, ct_device device, void (*release)(void *payload),
                        void *payload, ct_tensor *result){CT_PROTECT({
  // Released once: by the tensor's end, or by a failure before it exists.
  std::shared_ptr<void> owner(payload, release);
  auto forget = [owner](void *) mutable { owner.reset(); };
  auto on = ctorch::device(device);
  *result = ctorch::make_handle(at::from_blob(data, shape(sizes, rank), shape(strides, rank),
                                              forget, options(dtype).device(on), on));
})}

size_t ct_tensor_rank(ct_tensor tensor) {
  return tensor->value.sizes().size();
}

const int64_t *ct_tensor_sizes(ct_tensor tensor) { return tensor->value.sizes().data(); }

const int64_t *ct_tensor_strides(ct_tensor tensor) { return tensor->value.strides().data(); }

int64_t ct_tensor_count(ct_tensor tensor) { return tensor->value.numel(); }

int64_t ct_tensor_storage_offset(ct_tensor tensor) { return tensor->value.storage_offset(); }

int32_t ct_tensor_dtype(ct_tensor tensor) {
  return static_cast<int32_t>(tensor->value.scalar_type());
}

ct_device ct_tensor_device(ct_tensor tensor) {
  auto device = tensor->value.device();
  return {static_cast<int32_t>(device.type()), static_cast<int32_t>(device.index())};
}

bool ct_tensor_is_contiguous(ct_tensor tensor) { return tensor->value.is_contiguous(); }

int ct_tensor_data(ct_tensor tensor,
                   void **result){CT_PROTECT({ *result = tensor->value.data_ptr(); })}

size_t ct_dtype_size(int32_t dtype) {
  return c10::elementSize(static_cast<at::ScalarType>(dtype));
}
