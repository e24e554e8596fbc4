// The reductions that a tap makes: what they read, what they give. One table of functions for each instruction set.
#pragma once

#include <cstdint>

namespace gradflow {

enum class Type { f32, f64, bf16, f16 };

// Sums over one array. Squares of 32- and 16-bit entries all fit into `mid`; those of float64 stand in three scales, as
// in _reductions.py: `low` holds squares of entries times 2^512, `high` of entries times 2^-538.
struct Sums {
  double low = 0, mid = 0, high = 0;
  double total = 0, total_low = 0, total_high = 0;  // of the entries; of small and large blocks of float64 scaled likewise
  double largest = 0;
  int64_t nonfinite = 0, nan = 0;
  int64_t nonzero = 0, flushed = 0, dead = 0;
  double alive = 0, direction = 0;
};

struct Kernels {
  const char* name;
  // Squares and total of n entries.
  void (*sums)(const void* data, Type type, int64_t n, Sums* out);
  // The same of `examples` rows of `length`, and the squared norm of the sum of the rows, each divided by its norm.
  // `room` holds 2 `length` numbers.
  void (*examples)(const void* data, Type type, int64_t examples, int64_t length, double* room, Sums* out);
  // Squares, and counts of entries by unit; entries of magnitude <= `flush` that are not 0 are counted as flushed.
  // `room` holds `units` + 128 numbers.
  void (*backward)(const void* data, Type type, int64_t examples, int64_t units, double flush, double* room, Sums* out);
  // The largest magnitude.
  void (*largest)(const void* data, Type type, int64_t n, Sums* out);
  // How many entries have their exponent in each of 64 bins; of float64 if `wide`.
  void (*histogram)(const void* data, Type type, int64_t n, bool wide, int64_t* bins);
};

extern const Kernels kernels_baseline, kernels_avx2;

}  // namespace gradflow
