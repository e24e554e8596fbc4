// What XLA calls: each handler checks what it is given, and writes one row of columns for each element of the batch.
//
// The batch is what `jax.vmap` put in front, as many axes as the result has before its columns. An operand that is not
// mapped has axes of length 1 there, and is read again for each element.
#include <cmath>
#include <cstdlib>

#include "frame.h"
#include "kernels.h"

namespace gradflow {
namespace {

// Which columns are wanted; calls.py holds the same list.
enum Flag : int64_t {
  SQUARES = 1, SIMILARITY = 2, EXAMPLES = 4, TOTAL = 8, NONFINITE = 16, INPUT = 32, COUNTS = 64, LARGEST = 128,
  HISTOGRAM = 256, CALLS = 512,
};
constexpr int64_t BINS = 64;

const Kernels& best_kernels() {
  __builtin_cpu_init();
  bool wide = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");  // such a processor converts float16, too
  return wide ? kernels_avx2 : kernels_baseline;
}

const Kernels& kernels = best_kernels();

// Memory for the time of one call.
struct Room {
  double* numbers;
  explicit Room(int64_t count) : numbers(static_cast<double*>(std::malloc(8 * (count ? count : 1)))) {}
  Room(const Room&) = delete;
  ~Room() { std::free(numbers); }
};

// One operand: its type, and the shape of one element of the batch.
struct Operand {
  const char* data = nullptr;
  Type type = Type::f32;
  int64_t bytes = 4, size = 1, rank = 0;
  const int64_t* dims = nullptr;

  int64_t product(int64_t from, int64_t to) const {
    int64_t out = 1;
    for (int64_t k = from; k < to; k++) out *= dims[k];
    return out;
  }
};

struct Call {
  XLA_FFI_CallFrame* frame;
  const XLA_FFI_Buffer* out = nullptr;
  int64_t flags = 0, axes = 0, elements = 1, columns = 0;
  bool wide = false;

  // Reads result and flags. Returns an error, or null.
  XLA_FFI_Error* open(int64_t operands) {
    out = result(frame);
    if (!out || out->rank < 1) return error(frame, "gradflow: expected one result, an array of columns");
    if (frame->args.size < operands) return error(frame, "gradflow: too few operands");
    wide = out->dtype == XLA_FFI_DataType_F64;
    if (!wide && out->dtype != XLA_FFI_DataType_F32) return error(frame, "gradflow: columns are float32 or float64");
    if (!attribute(frame, "flags", XLA_FFI_DataType_S64, &flags)) return error(frame, "gradflow: attribute flags missing");
    axes = out->rank - 1;
    columns = out->dims[axes];
    for (int64_t k = 0; k < axes; k++) elements *= out->dims[k];
    return nullptr;
  }

  XLA_FFI_Error* read(int64_t number, Operand& operand) const {
    const XLA_FFI_Buffer* buffer = argument(frame, number);
    if (!buffer) return error(frame, "gradflow: an operand is not an array");
    switch (buffer->dtype) {
      case XLA_FFI_DataType_F32: operand.type = Type::f32, operand.bytes = 4; break;
      case XLA_FFI_DataType_F64: operand.type = Type::f64, operand.bytes = 8; break;
      case XLA_FFI_DataType_BF16: operand.type = Type::bf16, operand.bytes = 2; break;
      case XLA_FFI_DataType_F16: operand.type = Type::f16, operand.bytes = 2; break;
      default: return error(frame, "gradflow: operands are float32, float64, bfloat16 or float16");
    }
    if (operand.type == Type::f64 && !wide) return error(frame, "gradflow: float64 needs columns of float64");
    if (buffer->rank < axes) return error(frame, "gradflow: an operand has fewer axes than the batch");
    for (int64_t k = 0; k < axes; k++) {
      if (buffer->dims[k] != 1 && buffer->dims[k] != out->dims[k]) {
        return error(frame, "gradflow: an operand does not have the shape of the batch");
      }
    }
    operand.data = static_cast<const char*>(buffer->data);
    operand.dims = buffer->dims + axes;
    operand.rank = buffer->rank - axes;
    operand.size = operand.product(0, operand.rank);
    return nullptr;
  }

  // Where an operand's part for one element of the batch begins.
  const void* at(const Operand& operand, int64_t element) const {
    int64_t offset = 0, step = 1;
    const int64_t* dims = operand.dims - axes;
    for (int64_t k = axes - 1; k >= 0; k--) {
      offset += dims[k] == 1 ? 0 : element % out->dims[k] * step;
      step *= dims[k];
      element /= out->dims[k];
    }
    return operand.data + offset * operand.size * operand.bytes;
  }
};

// Writes the columns of one element, one after the other.
struct Row {
  void* to;
  bool wide;
  int64_t written = 0;

  void put(double x) {
    if (wide) {
      static_cast<double*>(to)[written++] = x;
    } else {
      static_cast<float*>(to)[written++] = static_cast<float>(x);
    }
  }

  void put_zeros(int64_t n) {
    while (n--) put(0);
  }

  // A sum of squares, into that one of the columns low, sum, high in which it, and sums of many such, are in the range.
  void put_squares(const Sums& sums) {
    if (wide) {
      put(sums.low), put(sums.mid), put(sums.high);
    } else if (sums.mid < 0x1p-70) {
      put(sums.mid * 0x1p128), put_zeros(2);
    } else if (sums.mid < 0x1p100) {
      put(0), put(sums.mid), put(0);
    } else {
      put_zeros(2), put(sums.mid * 0x1p-180);
    }
  }

  // The sum of the entries, times the scales `middle` and `high` of _reductions.py; Inf in place of what leaves the range.
  void put_total(const Sums& sums) {
    double middle, high, ceiling;
    if (wide) {
      middle = sums.total * 0x1p255 + sums.total_low * 0x1p-257 + sums.total_high * 0x1p400 * 0x1p393;
      high = sums.total * 0x1p-538 + sums.total_high, ceiling = 0x1p996;
    } else {
      middle = sums.total * 0x1p31, high = sums.total * 0x1p-90, ceiling = 0x1p100;
    }
    put(std::fabs(middle) < ceiling ? middle : INFINITY), put(high);
  }
};

// Results of one element lie one after the other.
Row row_of(const Call& call, int64_t element) {
  int64_t bytes = call.wide ? 8 : 4;
  return Row{static_cast<char*>(call.out->data) + element * call.columns * bytes, call.wide};
}

int64_t width_of(int64_t flags) {
  auto columns = [flags](int64_t flag, int64_t count) { return flags & flag ? count : 0; };
  return columns(SQUARES, 3) + columns(INPUT, 3) + columns(SIMILARITY, 2) + columns(TOTAL, 2) + columns(NONFINITE, 1) +
         columns(COUNTS, 4) + columns(LARGEST, 1) + columns(HISTOGRAM, BINS) + columns(CALLS, 1);
}

const char* WRONG_WIDTH = "gradflow: the result has another number of columns than the flags name";
const char* NO_MEMORY = "gradflow: no memory for the sums of one row";

// (output, input of the layer if INPUT is wanted and there is one) -> statistics.Layout.forward
XLA_FFI_Error* forward(XLA_FFI_CallFrame* frame) {
  Call call{frame};
  Operand y, x;
  if (XLA_FFI_Error* e = call.open(1)) return e;
  if (XLA_FFI_Error* e = call.read(0, y)) return e;
  bool has_input = frame->args.size > 1;
  if (has_input) {
    if (XLA_FFI_Error* e = call.read(1, x)) return e;
  }
  int64_t flags = call.flags;
  if (call.columns != width_of(flags)) return error(frame, WRONG_WIDTH);
  bool compares = flags & SIMILARITY && flags & EXAMPLES;
  if (compares && y.rank < 1) return error(frame, "gradflow: a scalar has no examples");
  compares = compares && y.size;
  Room room(compares ? 2 * (y.size / y.dims[0]) : 0);
  if (!room.numbers) return error(frame, NO_MEMORY);
  for (int64_t element = 0; element < call.elements; element++) {
    Sums of_y, of_x;
    if (compares) {
      kernels.examples(call.at(y, element), y.type, y.dims[0], y.size / y.dims[0], room.numbers, &of_y);
    } else if (flags & (SQUARES | TOTAL | NONFINITE)) {
      kernels.sums(call.at(y, element), y.type, y.size, &of_y);
    }
    if (has_input && flags & INPUT) kernels.sums(call.at(x, element), x.type, x.size, &of_x);
    Row row = row_of(call, element);
    if (flags & CALLS) row.put(1);
    if (flags & INPUT) row.put_squares(of_x);
    if (flags & SQUARES) row.put_squares(of_y);
    if (flags & SIMILARITY) row.put(of_y.alive), row.put(of_y.direction);
    if (flags & TOTAL) row.put_total(of_y);
    if (flags & NONFINITE) row.put(of_y.nonfinite);
  }
  return nullptr;
}

// (cotangent of the output) -> statistics.Layout.backward
XLA_FFI_Error* backward(XLA_FFI_CallFrame* frame) {
  Call call{frame};
  Operand g;
  int64_t unit_axes;
  double flush;
  if (XLA_FFI_Error* e = call.open(1)) return e;
  if (XLA_FFI_Error* e = call.read(0, g)) return e;
  int64_t flags = call.flags;
  if (call.columns != width_of(flags)) return error(frame, WRONG_WIDTH);
  if (!attribute(frame, "unit_axes", XLA_FFI_DataType_S64, &unit_axes) ||
      !attribute(frame, "flush", XLA_FFI_DataType_F64, &flush)) {
    return error(frame, "gradflow: attributes unit_axes or flush missing");
  }
  if (unit_axes < 0 || unit_axes > g.rank) return error(frame, "gradflow: more axes of units than axes");
  int64_t units = g.product(g.rank - unit_axes, g.rank), examples = g.product(0, g.rank - unit_axes);
  Room room(units + 128);
  if (!room.numbers) return error(frame, NO_MEMORY);
  for (int64_t element = 0; element < call.elements; element++) {
    const void* data = call.at(g, element);
    Sums sums;
    int64_t bins[BINS] = {};
    if (flags & COUNTS) {
      kernels.backward(data, g.type, examples, units, flush, room.numbers, &sums);
    } else if (flags & SQUARES) {
      kernels.sums(data, g.type, g.size, &sums);
    }
    if (flags & LARGEST) kernels.largest(data, g.type, g.size, &sums);
    if (flags & HISTOGRAM) kernels.histogram(data, g.type, g.size, call.wide, bins);
    Row row = row_of(call, element);
    if (flags & CALLS) row.put(1);
    if (flags & SQUARES) row.put_squares(sums);
    if (flags & COUNTS) {
      row.put(g.size - sums.nonzero), row.put(sums.flushed), row.put(sums.dead), row.put(sums.nonfinite);
    }
    if (flags & LARGEST) row.put(sums.largest);
    for (int64_t k = 0; flags & HISTOGRAM && k < BINS; k++) row.put(bins[k]);
  }
  return nullptr;
}

// (arrays...) -> a sum of squares in three columns for each
XLA_FFI_Error* squares(XLA_FFI_CallFrame* frame) {
  Call call{frame};
  if (XLA_FFI_Error* e = call.open(0)) return e;
  int64_t count = frame->args.size, before = call.flags & CALLS ? 1 : 0;
  if (call.columns != before + 3 * count) return error(frame, WRONG_WIDTH);
  for (int64_t k = 0; k < count; k++) {
    Operand x;
    if (XLA_FFI_Error* e = call.read(k, x)) return e;
    for (int64_t element = 0; element < call.elements; element++) {
      Sums sums;
      kernels.sums(call.at(x, element), x.type, x.size, &sums);
      Row row = row_of(call, element);
      if (before) row.put(1);
      row.written = before + 3 * k;
      row.put_squares(sums);
    }
  }
  return nullptr;
}

}  // namespace
}  // namespace gradflow

extern "C" {

#define HANDLER(name)                                                  \
  __attribute__((visibility("default"))) XLA_FFI_Error* gradflow_##name( \
      XLA_FFI_CallFrame* frame) {                                      \
    return gradflow::answered(frame) ? nullptr : gradflow::name(frame); \
  }

HANDLER(forward)
HANDLER(backward)
HANDLER(squares)

// What the library was built from: build.py looks here.
__attribute__((visibility("default"))) const char* gradflow_sources() { return GRADFLOW_SOURCES; }
__attribute__((visibility("default"))) const char* gradflow_instruction_set() { return gradflow::kernels.name; }

}
