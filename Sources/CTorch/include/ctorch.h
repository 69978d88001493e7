// The whole of libtorch that Swift sees: opaque handles, one boxed call, autograd, the runtime.
//
// Every function that can fail returns CT_OK or CT_ERROR; after CT_ERROR, ct_last_error() holds the
// sentence of this thread's failure. No C++ exception crosses this header. Handles that a function
// returns belong to the caller, who frees them with ct_tensor_free; handles passed in are borrowed.
#ifndef CTORCH_H
#define CTORCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { CT_OK = 0, CT_ERROR = -1 };

typedef struct ct_tensor_s *ct_tensor;
typedef struct ct_generator_s *ct_generator;

// Device types as in c10::DeviceType: 0 is the CPU, 1 is CUDA. Index -1 is the current device.
typedef struct {
  int32_t type;
  int32_t index;
} ct_device;

const char *ct_last_error(void);

// ---- Values and calls

typedef enum {
  CT_NONE = 0,   // Python's None; also the default generator
  CT_TENSOR,     // tensor (NULL: undefined)
  CT_INT,        // integer; also a dtype, layout or memory format by its c10 code
  CT_DOUBLE,     // real
  CT_BOOL,       // integer, 0 or 1
  CT_STRING,     // pointer to char, NUL-terminated
  CT_DEVICE,     // device
  CT_GENERATOR,  // pointer to ct_generator_s
  CT_INTS,       // pointer to count int64_t
  CT_DOUBLES,    // pointer to count double
  CT_BOOLS,      // pointer to count bool
  CT_TENSORS,    // pointer to count ct_tensor; NULL entries are None
} ct_tag;

typedef struct {
  int32_t tag;
  ct_device device;
  const char *name;  // keyword of an argument, NULL for a positional one
  int64_t integer;
  double real;
  ct_tensor tensor;
  const void *pointer;
  size_t count;
} ct_value;

// Calls the operator of this name and overload ("aten::add.Tensor"). Arguments that are not given
// take the schema's defaults. Results are tensors, numbers, booleans or malloc'ed lists of tensors,
// which are the caller's (ct_tensor_free, ct_free). `capacity` counts the entries of `results`.
int ct_call(const char *name, const ct_value *arguments, size_t count, ct_value *results,
            size_t capacity, size_t *result_count);

// A malloc'ed copy of a text, for a callback that has to return one.
char *ct_copy_string(const char *text);
void ct_free(const void *pointer);

// ---- Tensors

void ct_tensor_free(ct_tensor tensor);
// Another handle of the same tensor.
ct_tensor ct_tensor_retain(ct_tensor tensor);
// Handles that exist in the process: what leak tests watch.
int64_t ct_live_tensors(void);

// An uninitialized tensor on the CPU into which `bytes` bytes are copied.
int ct_tensor_from_bytes(const void *bytes, size_t byte_count, const int64_t *sizes, size_t rank,
                         int32_t dtype, ct_tensor *result);
// A tensor over memory of something that `release(payload)` lets go of, which is called exactly
// once: when the last tensor over the memory is gone, or at once if this fails.
int ct_tensor_from_blob(void *data, const int64_t *sizes, const int64_t *strides, size_t rank,
                        int32_t dtype, ct_device device, void (*release)(void *payload),
                        void *payload, ct_tensor *result);

size_t ct_tensor_rank(ct_tensor tensor);
const int64_t *ct_tensor_sizes(ct_tensor tensor);
const int64_t *ct_tensor_strides(ct_tensor tensor);
int64_t ct_tensor_count(ct_tensor tensor);
int64_t ct_tensor_storage_offset(ct_tensor tensor);
int32_t ct_tensor_dtype(ct_tensor tensor);
ct_device ct_tensor_device(ct_tensor tensor);
bool ct_tensor_is_contiguous(ct_tensor tensor);
// The address of the first element, which for a CUDA tensor is a device address.
int ct_tensor_data(ct_tensor tensor, void **result);
size_t ct_dtype_size(int32_t dtype);

// ---- Autograd

bool ct_grad_enabled(void);
void ct_set_grad_enabled(bool enabled);
bool ct_requires_grad(ct_tensor tensor);
int ct_set_requires_grad(ct_tensor tensor, bool requires_grad);
bool ct_is_leaf(ct_tensor tensor);
// The accumulated gradient, or NULL in *result where there is none.
int ct_tensor_grad(ct_tensor tensor, ct_tensor *result);
int ct_set_tensor_grad(ct_tensor tensor, ct_tensor grad);

// Accumulates the gradient of `roots` into the leaves. A NULL gradient stands for a scalar's one.
int ct_backward(const ct_tensor *roots, const ct_tensor *gradients, size_t count, bool retain_graph,
                bool create_graph);
// The gradients of `outputs` by `inputs`, one handle (or NULL where unused) an input.
int ct_grad(const ct_tensor *outputs, const ct_tensor *gradients, size_t output_count,
            const ct_tensor *inputs, size_t input_count, bool retain_graph, bool create_graph,
            bool allow_unused, ct_tensor *results);

// What a closure's backward receives. All handles in it belong to the closure.
typedef struct {
  const ct_tensor *saved;
  size_t saved_count;
  const ct_tensor *gradients;  // of the outputs; NULL entries are undefined, that is zero
  size_t gradient_count;
  const bool *needed;          // whether the input's gradient is asked for
  ct_tensor *input_gradients;  // to be filled with owned handles or NULL
  size_t input_count;
} ct_backward_call;

// Returns NULL, or a malloc'ed message if it failed.
typedef char *(*ct_backward_function)(void *payload, const ct_backward_call *call);

// Records `outputs` = f(`inputs`) in the graph, with `backward` as f's derivative, and returns new
// handles of the outputs in `results`. `saved` may hold inputs and outputs; they are released after
// the backward pass like those of every operator. `destroy(payload)` is called exactly once.
int ct_record_function(const ct_tensor *inputs, size_t input_count, const ct_tensor *outputs,
                       size_t output_count, const ct_tensor *saved, size_t saved_count,
                       ct_backward_function backward, void *payload, void (*destroy)(void *payload),
                       ct_tensor *results);

// ---- Random numbers

int ct_manual_seed(uint64_t seed);
int ct_generator_new(ct_device device, uint64_t seed, ct_generator *result);
// The generator that operators use when none is given.
int ct_default_generator(ct_device device, ct_generator *result);
void ct_generator_free(ct_generator generator);
int ct_generator_state(ct_generator generator, ct_tensor *result);
int ct_set_generator_state(ct_generator generator, ct_tensor state);

// ---- Threads

int ct_thread_count(void);
int ct_set_thread_count(int count);
// Runs task(payload, i) for every i < count on libtorch's own pool and returns when all are done.
// Threads take the next index as they come free, so unequal tasks balance.
void ct_parallel_for(size_t count, void (*task)(void *payload, size_t index), void *payload);

// ---- Devices and versions

const char *ct_compiled_version(void);
// The version of the library that is loaded, as major << 16 | minor, or 0 where it does not tell.
int32_t ct_loaded_version(void);
bool ct_cuda_is_available(void);
int ct_cuda_device_count(void);
int ct_synchronize(ct_device device);
// The cudaStream_t on which libtorch launches; CT_ERROR where this libtorch has no CUDA.
int ct_current_cuda_stream(int32_t device_index, void **result);

typedef struct {
  int64_t allocated;
  int64_t peak_allocated;
  int64_t reserved;
} ct_memory;

// What the caching allocator of an accelerator holds, in bytes.
int ct_memory_statistics(ct_device device, ct_memory *result);
int ct_reset_peak_memory(ct_device device);
int ct_empty_cache(ct_device device);

#ifdef __cplusplus
}
#endif

#endif
