// Any operator by its name, through the dispatcher's boxed interface.
//
// The operator's schema decides what a value becomes: an int given for a Scalar, a float or an
// int[2] turns into that, and an argument that is not given takes the schema's default.
#include "internal.h"

#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/ivalue.h>
#include <ATen/core/jit_type.h>

#include <cstdlib>
#include <cstring>
#include <optional>

namespace {

using c10::IValue;
using c10::TypeKind;

template <typename T>
const T *array(const ct_value &value) {
  return static_cast<const T *>(value.pointer);
}

template <typename T, typename Source>
IValue list(const ct_value &value) {
  c10::List<T> result;
  result.reserve(value.count);
  for (size_t i = 0; i < value.count; ++i)
    result.push_back(static_cast<T>(array<Source>(value)[i]));
  return result;
}

// One number for a list argument stands for the list of it: a kernel size of 3 is [3, 3].
template <typename T>
IValue repeated(T number, const c10::Argument &argument) {
  c10::List<T> result;
  for (int32_t i = 0; i < argument.N().value_or(1); ++i) result.push_back(number);
  return result;
}

std::optional<IValue> scalar_list(const ct_value &value) {
  c10::List<at::Scalar> result;
  for (size_t i = 0; i < value.count; ++i) {
    if (value.tag == CT_DOUBLES) {
      result.push_back(at::Scalar(array<double>(value)[i]));
    } else if (value.tag == CT_INTS) {
      result.push_back(at::Scalar(array<int64_t>(value)[i]));
    } else {
      return std::nullopt;
    }
  }
  return IValue(result);
}

IValue optional_tensor_list(const ct_value &value) {
  c10::List<std::optional<at::Tensor>> result;
  for (size_t i = 0; i < value.count; ++i) {
    auto handle = array<ct_tensor>(value)[i];
    result.push_back(handle ? std::optional<at::Tensor>(handle->value) : std::nullopt);
  }
  return result;
}

std::optional<IValue> list_value(const ct_value &value, const c10::TypePtr &element,
                                 const c10::Argument &argument) {
  switch (element->kind()) {
    case TypeKind::IntType:
      if (value.tag == CT_INTS) return list<int64_t, int64_t>(value);
      if (value.tag == CT_INT) return repeated<int64_t>(value.integer, argument);
      break;
    case TypeKind::FloatType:
      if (value.tag == CT_DOUBLES) return list<double, double>(value);
      if (value.tag == CT_INTS) return list<double, int64_t>(value);
      if (value.tag == CT_DOUBLE) return repeated<double>(value.real, argument);
      break;
    case TypeKind::BoolType:
      if (value.tag == CT_BOOLS) return list<bool, bool>(value);
      break;
    case TypeKind::NumberType:
      return scalar_list(value);
    case TypeKind::TensorType:
      if (value.tag == CT_TENSORS)
        return c10::List<at::Tensor>(ctorch::tensors(array<ct_tensor>(value), value.count));
      break;
    case TypeKind::OptionalType:
      if (value.tag == CT_TENSORS) return optional_tensor_list(value);
      break;
    default:
      break;
  }
  return std::nullopt;
}

// The value as the argument's type, or nothing if it cannot be one.
std::optional<IValue> convert(const ct_value &value, const c10::Argument &argument) {
  c10::TypePtr type = argument.type();
  bool optional = type->kind() == TypeKind::OptionalType;
  if (optional) type = type->expectRef<c10::OptionalType>().getElementType();
  if (value.tag == CT_NONE || (value.tag == CT_TENSOR && !value.tensor)) {
    if (optional) return IValue();
    if (type->kind() == TypeKind::TensorType) return IValue(at::Tensor());
    return std::nullopt;
  }
  switch (type->kind()) {
    case TypeKind::TensorType:
      if (value.tag == CT_TENSOR) return IValue(value.tensor->value);
      break;
    case TypeKind::NumberType:
      if (value.tag == CT_INT) return IValue(value.integer);
      if (value.tag == CT_DOUBLE) return IValue(value.real);
      if (value.tag == CT_BOOL) return IValue(value.integer != 0);
      break;
    case TypeKind::IntType:
      if (value.tag == CT_INT) return IValue(value.integer);
      break;
    case TypeKind::FloatType:
      if (value.tag == CT_DOUBLE) return IValue(value.real);
      if (value.tag == CT_INT) return IValue(static_cast<double>(value.integer));
      break;
    case TypeKind::BoolType:
      if (value.tag == CT_BOOL) return IValue(value.integer != 0);
      break;
    case TypeKind::StringType:
      if (value.tag == CT_STRING) return IValue(std::string(array<char>(value)));
      break;
    case TypeKind::DeviceObjType:
      if (value.tag == CT_DEVICE) return IValue(ctorch::device(value.device));
      break;
    case TypeKind::GeneratorType:
      if (value.tag == CT_GENERATOR) return IValue(array<ct_generator_s>(value)->value);
      break;
    case TypeKind::ListType:
      return list_value(value, type->expectRef<c10::ListType>().getElementType(), argument);
    default:
      break;
  }
  return std::nullopt;
}

torch::jit::Stack make_stack(const c10::FunctionSchema &schema, const ct_value *values,
                             size_t count) {
  const auto &arguments = schema.arguments();
  std::vector<const ct_value *> given(arguments.size(), nullptr);
  size_t position = 0;
  for (size_t i = 0; i < count; ++i) {
    size_t index = position;
    if (values[i].name) {
      auto found = schema.argumentIndexWithName(values[i].name);
      TORCH_CHECK(found, "no argument is called '", values[i].name, "' in ", schema);
      index = static_cast<size_t>(*found);
    } else {
      ++position;
    }
    TORCH_CHECK(index < given.size(), "too many arguments for ", schema);
    TORCH_CHECK(!given[index], "two values for '", arguments[index].name(), "' in ", schema);
    given[index] = &values[i];
  }
  torch::jit::Stack stack;
  stack.reserve(arguments.size());
  for (size_t i = 0; i < arguments.size(); ++i) {
    if (!given[i]) {
      TORCH_CHECK(arguments[i].default_value(), "no value for '", arguments[i].name(), "' in ",
                  schema);
      stack.push_back(*arguments[i].default_value());
      continue;
    }
    auto converted = convert(*given[i], arguments[i]);
    TORCH_CHECK(converted, "the value for '", arguments[i].name(), "' is not of type ",
                arguments[i].real_type()->repr_str(), " in ", schema);
    stack.push_back(std::move(*converted));
  }
  return stack;
}

void set_tensors(ct_value &result, const std::vector<at::Tensor> &tensors) {
  auto *handles = static_cast<ct_tensor *>(std::calloc(tensors.size() + 1, sizeof(ct_tensor)));
  TORCH_CHECK(handles, "out of memory");
  for (size_t i = 0; i < tensors.size(); ++i) handles[i] = ctorch::make_handle(tensors[i]);
  result.tag = CT_TENSORS;
  result.pointer = handles;
  result.count = tensors.size();
}

ct_value make_result(const IValue &value) {
  ct_value result{};
  if (value.isTensor()) {
    result.tag = CT_TENSOR;
    result.tensor = ctorch::make_handle(value.toTensor());
  } else if (value.isTensorList()) {
    set_tensors(result, value.toTensorVector());
  } else if (value.isInt()) {
    result.tag = CT_INT;
    result.integer = value.toInt();
  } else if (value.isDouble()) {
    result.tag = CT_DOUBLE;
    result.real = value.toDouble();
  } else if (value.isBool()) {
    result.tag = CT_BOOL;
    result.integer = value.toBool();
  } else {
    TORCH_CHECK(value.isNone(), "a result of type ", value.tagKind(), " cannot be returned");
  }
  return result;
}

c10::OperatorHandle find(const char *name) {
  const char *dot = std::strchr(name, '.');
  if (!dot) return c10::Dispatcher::singleton().findSchemaOrThrow(name, "");
  std::string base(name, dot);
  return c10::Dispatcher::singleton().findSchemaOrThrow(base.c_str(), dot + 1);
}

}  // namespace

int ct_call(const char *name, const ct_value *arguments, size_t count, ct_value *results,
            size_t capacity, size_t *result_count) {
  CT_PROTECT({
    auto op = find(name);
    auto stack = make_stack(op.schema(), arguments, count);
    op.callBoxed(&stack);
    TORCH_CHECK(stack.size() <= capacity, op.schema(), " returns more than ", capacity, " values");
    for (size_t i = 0; i < stack.size(); ++i) results[i] = make_result(stack[i]);
    *result_count = stack.size();
  })
}
