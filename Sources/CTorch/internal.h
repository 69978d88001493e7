// What the files of the shim share: the handles' contents and the exception barrier.
#ifndef CTORCH_INTERNAL_H
#define CTORCH_INTERNAL_H

// Included first everywhere, so that these sentences come before any failure that follows.
#if !__has_include(<ATen/ATen.h>)
#error "libtorch was not found: run `make setup`, or let LIBTORCH name a torch installation."
#endif
#include <torch/version.h>
#if TORCH_VERSION_MAJOR != 2 || TORCH_VERSION_MINOR < 6
#error "libtorch 2.6 or a later 2.x is needed: run `make setup`, or let LIBTORCH name such a one."
#endif

#include <ATen/ATen.h>

#include <atomic>
#include <exception>
#include <string>
#include <utility>
#include <vector>

#include "include/ctorch.h"

struct ct_tensor_s {
  at::Tensor value;
};

struct ct_generator_s {
  at::Generator value;
};

namespace ctorch {

void set_last_error(std::string message);

// A new handle, or NULL for an undefined tensor.
ct_tensor make_handle(at::Tensor tensor);

inline at::Tensor tensor_or_undefined(ct_tensor handle) {
  return handle ? handle->value : at::Tensor();
}

inline std::vector<at::Tensor> tensors(const ct_tensor *handles, size_t count) {
  std::vector<at::Tensor> result;
  result.reserve(count);
  for (size_t i = 0; i < count; ++i) result.push_back(tensor_or_undefined(handles[i]));
  return result;
}

inline c10::Device device(ct_device device) {
  return c10::Device(static_cast<c10::DeviceType>(device.type),
                     static_cast<c10::DeviceIndex>(device.index));
}

}  // namespace ctorch

// Runs the statements and turns every exception into this thread's last error.
#define CT_PROTECT(...)                                     \
  try {                                                     \
    __VA_ARGS__                                             \
    return CT_OK;                                           \
  } catch (const c10::Error &error) {                       \
    ctorch::set_last_error(error.what_without_backtrace()); \
  } catch (const std::exception &error) {                   \
    ctorch::set_last_error(error.what());                   \
  } catch (...) {                                           \
    ctorch::set_last_error("an unknown C++ exception");     \
  }                                                         \
  return CT_ERROR;

#endif
