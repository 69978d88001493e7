// Gradients: the engine's two entry points, and functions whose derivative is a caller's closure.
#include "internal.h"

#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>

#include <cstdlib>
#include <memory>

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// A closure of the caller's: function pointer, payload, destructor.
struct Closure : torch::CustomClassHolder {
  Closure(ct_backward_function function, void *payload, void (*destroy)(void *))
      : function(function), payload(payload), destroy(destroy) {}
  ~Closure() override {
    if (destroy) destroy(payload);
  }

  ct_backward_function function;
  void *payload;
  void (*destroy)(void *);
};

std::vector<ct_tensor> handles(const variable_list &tensors) {
  std::vector<ct_tensor> result;
  result.reserve(tensors.size());
  for (const auto &tensor : tensors) result.push_back(ctorch::make_handle(tensor));
  return result;
}

variable_list call(const Closure &closure, const variable_list &saved,
                   const variable_list &gradients, const std::vector<char> &needed) {
  auto saved_handles = handles(saved);
  auto gradient_handles = handles(gradients);
  std::vector<ct_tensor> results(needed.size(), nullptr);
  static_assert(sizeof(bool) == sizeof(char), "the mask is passed as bool");
  ct_backward_call arguments{saved_handles.data(),
                             saved_handles.size(),
                             gradient_handles.data(),
                             gradient_handles.size(),
                             reinterpret_cast<const bool *>(needed.data()),
                             results.data(),
                             results.size()};
  char *message = closure.function(closure.payload, &arguments);
  variable_list input_gradients = ctorch::tensors(results.data(), results.size());
  for (auto handle : results) ct_tensor_free(handle);
  if (message) {
    std::string text(message);
    std::free(message);
    TORCH_CHECK(false, text);
  }
  return input_gradients;
}

// Hangs `results` on every tensor they depend on, so that a second derivative, which a closure
// cannot give, is an error and not a silent zero.
struct Once : torch::autograd::Function<Once> {
  static variable_list forward(AutogradContext *, at::TensorList, const variable_list *results) {
    return *results;
  }

  static variable_list backward(AutogradContext *, const variable_list &) {
    TORCH_CHECK(false, "a custom function is differentiable once: its backward has no derivative");
  }
};

struct Recorded {
  const variable_list &outputs;
  const variable_list &saved;
  c10::intrusive_ptr<Closure> closure;
};

struct ClosureFunction : torch::autograd::Function<ClosureFunction> {
  static variable_list forward(AutogradContext *context, at::TensorList inputs,
                               const Recorded *recorded) {
    context->saved_data["closure"] = c10::IValue::make_capsule(recorded->closure);
    context->saved_data["inputs"] = static_cast<int64_t>(inputs.size());
    context->save_for_backward(recorded->saved);
    context->set_materialize_grads(false);
    variable_list constants;
    for (const auto &output : recorded->outputs)
      if (!torch::autograd::isDifferentiableType(output.scalar_type())) constants.push_back(output);
    context->mark_non_differentiable(constants);
    return recorded->outputs;
  }

  static variable_list backward(AutogradContext *context, const variable_list &gradients) {
    auto saved = context->get_saved_variables();
    auto holder = context->saved_data["closure"].toCapsule();
    std::vector<char> needed(context->saved_data["inputs"].toInt());
    for (size_t i = 0; i < needed.size(); ++i) needed[i] = context->needs_input_grad(i);
    variable_list results;
    {
      at::AutoGradMode guard(false);
      results = call(static_cast<const Closure &>(*holder), saved, gradients, needed);
    }
    if (at::GradMode::is_enabled()) results = once(results, gradients, saved);
    results.emplace_back();  // for the argument of forward that is no tensor
    return results;
  }

  static variable_list once(const variable_list &results, const variable_list &gradients,
                            const variable_list &saved) {
    variable_list sources;
    for (const auto *list : {&gradients, &saved})
      for (const auto &tensor : *list)
        if (tensor.defined()) sources.push_back(tensor);
    variable_list defined;
    for (const auto &tensor : results)
      if (tensor.defined()) defined.push_back(tensor);
    auto marked = Once::apply(at::TensorList(sources), &defined);
    variable_list all;
    size_t next = 0;
    for (const auto &tensor : results)
      all.push_back(tensor.defined() ? marked[next++] : at::Tensor());
    return all;
  }
};

}  // namespace

bool ct_grad_enabled(void) { return at::GradMode::is_enabled(); }

void ct_set_grad_enabled(bool enabled) { at::GradMode::set_enabled(enabled); }

bool ct_requires_grad(ct_tensor tensor) { return tensor->value.requires_grad(); }

int ct_set_requires_grad(ct_tensor tensor, bool requires_grad) {
  CT_PROTECT({ tensor->value.requires_grad_(requires_grad); })
}

bool ct_is_leaf(ct_tensor tensor) { return tensor->value.is_leaf(); }

int ct_tensor_grad(ct_tensor tensor, ct_tensor *result) {
  CT_PROTECT({ *result = ctorch::make_handle(tensor->value.grad()); })
}

int ct_set_tensor_grad(ct_tensor tensor, ct_tensor grad) {
  CT_PROTECT({ tensor->value.mutable_grad() = ctorch::tensor_or_undefined(grad); })
}

int ct_backward(const ct_tensor *roots, const ct_tensor *gradients, size_t count, bool retain_graph,
                bool create_graph) {
  CT_PROTECT({
    variable_list given;
    if (gradients) given = ctorch::tensors(gradients, count);
    torch::autograd::backward(ctorch::tensors(roots, count), given, retain_graph, create_graph);
  })
}

int ct_grad(const ct_tensor *outputs, const ct_tensor *gradients, size_t output_count,
            const ct_tensor *inputs, size_t input_count, bool retain_graph, bool create_graph,
            bool allow_unused, ct_tensor *results) {
  CT_PROTECT({
    variable_list given;
    if (gradients) given = ctorch::tensors(gradients, output_count);
    auto found = torch::autograd::grad(ctorch::tensors(outputs, output_count),
                                       ctorch::tensors(inputs, input_count), given, retain_graph,
                                       create_graph, allow_unused);
    for (size_t i = 0; i < input_count; ++i) results[i] = ctorch::make_handle(found[i]);
  })
}

int ct_record_function(const ct_tensor *inputs, size_t input_count, const ct_tensor *outputs,
                       size_t output_count, const ct_tensor *saved, size_t saved_count,
                       ct_backward_function backward, void *payload, void (*destroy)(void *payload),
                       ct_tensor *results) {
  CT_PROTECT({
    auto closure = c10::make_intrusive<Closure>(backward, payload, destroy);
    auto input_list = ctorch::tensors(inputs, input_count);
    auto output_list = ctorch::tensors(outputs, output_count);
    auto saved_list = ctorch::tensors(saved, saved_count);
    Recorded recorded{output_list, saved_list, closure};
    auto found = ClosureFunction::apply(at::TensorList(input_list), &recorded);
    for (size_t i = 0; i < output_count; ++i) results[i] = ctorch::make_handle(found[i]);
  })
}
