// Vectors of the width of one instruction set's registers (BYTES), and how entries of each type get into them.
#pragma once

#include <cfloat>
#include <cstdint>
#include <cstring>
#if defined(__F16C__)
#include <immintrin.h>
#endif

namespace gradflow {
namespace GRADFLOW_ISA {

typedef float FloatVector __attribute__((vector_size(BYTES)));
typedef double DoubleVector __attribute__((vector_size(BYTES)));
typedef int32_t Int32Vector __attribute__((vector_size(BYTES)));
typedef int64_t Int64Vector __attribute__((vector_size(BYTES)));
typedef float HalfOfFloats __attribute__((vector_size(BYTES / 2)));

template <class L>
struct Lanes;

template <>
struct Lanes<float> {
  using Vector = FloatVector;
  using Mask = Int32Vector;
  using Int = int32_t;
  // Outside of these a sum of squares is formed again: below, squares of single entries may have been lost.
  static constexpr float least = 0x1p-90f, most = 0x1p120f;
};

template <>
struct Lanes<double> {
  using Vector = DoubleVector;
  using Mask = Int64Vector;
  using Int = int64_t;
  static constexpr double least = 0x1p-900, most = 0x1p900;
};

template <class L>
constexpr int64_t width = BYTES / sizeof(L);

template <class V, class L>
static inline V load(const L* p) {
  V v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}

template <class V, class L>
static inline void store(L* p, V v) {
  __builtin_memcpy(p, &v, sizeof v);
}

template <class L>
static inline typename Lanes<L>::Vector spread(L x) {
  return x - typename Lanes<L>::Vector{};
}

template <class V>
static inline auto across(V v) {
  decltype(v[0] + v[0]) sum = 0;
  for (unsigned k = 0; k < sizeof v / sizeof v[0]; k++) sum += v[k];
  return sum;
}

// As many zeros as a vector has lanes, then as many -1.
template <class I>
struct Edge {
  static constexpr int64_t W = BYTES / sizeof(I);
  I entries[2 * W];
  constexpr Edge() : entries{} {
    for (int64_t k = W; k < 2 * W; k++) entries[k] = -1;
  }
};

template <class I>
constexpr Edge<I> edge;

// The vector that holds the last `n - at` < width entries: the last full vector, so that nothing behind the end is read,
// with 0 in the lanes before `at`. Of an array shorter than a vector it is a copy.
template <class L>
struct Tail {
  typename Lanes<L>::Mask counts;
  int64_t start;
  bool is_short;

  Tail(int64_t n, int64_t at)
      : counts(load<typename Lanes<L>::Mask>(edge<typename Lanes<L>::Int>.entries + (n - at))),
        start(n < width<L> ? 0 : n - width<L>),
        is_short(n < width<L>) {}

  typename Lanes<L>::Vector of(const L* p, int64_t n) const {
    using V = typename Lanes<L>::Vector;
    if (is_short) {
      V v = {};
      for (int64_t k = 0; k < n; k++) v[k] = p[k];
      return v;
    }
    return (V)((typename Lanes<L>::Mask)load<V>(p + start) & counts);
  }
};

struct Half {
  uint16_t bits;
};
struct Brain {
  uint16_t bits;
};

static inline float widened(Brain x) {
  uint32_t bits = (uint32_t)x.bits << 16;
  float out;
  __builtin_memcpy(&out, &bits, 4);
  return out;
}

static inline float widened(Half x) {
#if defined(__F16C__)
  return _cvtsh_ss(x.bits);
#else
  // Subnormals by way of an integer: as bits of a float32 they would be subnormal, too, and flushed.
  uint32_t sign = (uint32_t)(x.bits & 0x8000) << 16, rest = x.bits & 0x7fff;
  float small = (float)(int32_t)rest * 0x1p-24f;
  uint32_t bits = (rest << 13) + (rest >= 0x7c00 ? 0x70000000u : 0x38000000u), low;
  __builtin_memcpy(&low, &small, 4);
  bits = sign | (rest < 0x400 ? low : bits);
  float out;
  __builtin_memcpy(&out, &bits, 4);
  return out;
#endif
}

// The type in which entries are computed with.
template <class T>
struct Computed {
  using Lane = float;
};
template <>
struct Computed<double> {
  using Lane = double;
};

// Return n entries as lanes: where they lie, or converted into `room`.
static inline const float* lanes_of(const float* p, int64_t, float*) { return p; }
static inline const double* lanes_of(const double* p, int64_t, double*) { return p; }

static inline const float* lanes_of(const Brain* p, int64_t n, float* room) {
  for (int64_t k = 0; k < n; k++) room[k] = widened(p[k]);
  return room;
}

static inline const float* lanes_of(const Half* p, int64_t n, float* room) {
  int64_t k = 0;
#if defined(__F16C__)
  for (; k + 8 <= n; k += 8) _mm256_storeu_ps(room + k, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)(p + k))));
#endif
  for (; k < n; k++) room[k] = widened(p[k]);
  return room;
}

}  // namespace GRADFLOW_ISA
}  // namespace gradflow
