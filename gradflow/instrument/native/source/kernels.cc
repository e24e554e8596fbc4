// The reductions, for one instruction set: compiled once for each, with GRADFLOW_ISA (a name) and BYTES (of a register).
//
// Entries are added up in lanes of their own type, block by block, each block into a double. A block of float32 whose
// sum of squares leaves the range [2^-90, 2^120] is summed again in lanes of float64, in which no square of a float32 is
// lost; one of float64 is summed again at the scale that it needs.
//
// Nothing of the standard library's templates may be used in here: the linker keeps one copy of each, perhaps the one
// for an instruction set that the machine lacks.
#include "kernels.h"

#include <cmath>

#include "lanes.h"

namespace gradflow {
namespace GRADFLOW_ISA {
namespace {

constexpr int64_t BLOCK = 2048;
constexpr double LOW = 0x1p512, HIGH = 0x1p-538;

// ---------------------------------------------------------------------------------------------- sums of one block

template <class L>
inline void fast_sums(const L* p, int64_t n, L* squares, L* total) {
  using V = typename Lanes<L>::Vector;
  constexpr int64_t W = width<L>;
  V s0 = {}, s1 = {}, s2 = {}, s3 = {}, t0 = {}, t1 = {}, t2 = {}, t3 = {};
  int64_t k = 0;
  for (; k + 4 * W <= n; k += 4 * W) {
    V a = load<V>(p + k), b = load<V>(p + k + W), c = load<V>(p + k + 2 * W), d = load<V>(p + k + 3 * W);
    s0 += a * a, s1 += b * b, s2 += c * c, s3 += d * d;
    t0 += a, t1 += b, t2 += c, t3 += d;
  }
  for (; k + W <= n; k += W) {
    V a = load<V>(p + k);
    s0 += a * a, t0 += a;
  }
  if (k < n) {
    V a = Tail<L>(n, k).of(p, n);
    s1 += a * a, t1 += a;
  }
  *squares = across((s0 + s1) + (s2 + s3));
  *total = across((t0 + t1) + (t2 + t3));
}

template <class L>
void count_nonfinite(const L* p, int64_t n, Sums& sums) {
  int64_t nonfinite = 0, nan = 0;
  for (int64_t k = 0; k < n; k++) {
    nonfinite += !(p[k] - p[k] == 0);
    nan += p[k] != p[k];
  }
  sums.nonfinite += nonfinite;
  sums.nan += nan;
}

// A block of float32 in lanes of float64.
void exact_sums(const float* p, int64_t n, Sums& sums) {
  constexpr int64_t W = width<double>;
  DoubleVector s0 = {}, s1 = {}, t0 = {}, t1 = {};
  int64_t k = 0;
  for (; k + 2 * W <= n; k += 2 * W) {
    DoubleVector a = __builtin_convertvector(load<HalfOfFloats>(p + k), DoubleVector);
    DoubleVector b = __builtin_convertvector(load<HalfOfFloats>(p + k + W), DoubleVector);
    s0 += a * a, s1 += b * b, t0 += a, t1 += b;
  }
  double squares = across(s0 + s1), total = across(t0 + t1);
  for (; k < n; k++) {
    double a = p[k];
    squares += a * a, total += a;
  }
  sums.mid += squares;
  sums.total += total;
  if (!(squares - squares == 0)) count_nonfinite(p, n, sums);
}

// A block of float64 at one of the other scales.
void exact_sums(const double* p, int64_t n, Sums& sums) {
  double squares, total;
  fast_sums(p, n, &squares, &total);
  bool small = squares < 1;
  double scale = small ? LOW : HIGH, scaled = 0, scaled_total = 0;
  for (int64_t k = 0; k < n; k += 64) {
    double room[64];
    int64_t m = n - k < 64 ? n - k : 64;
    for (int64_t j = 0; j < m; j++) room[j] = p[k + j] * scale;
    double s, t;
    fast_sums(room, m, &s, &t);
    scaled += s, scaled_total += t;
  }
  if (small) {
    sums.low += scaled, sums.total_low += scaled_total;
  } else {
    sums.high += scaled, sums.total_high += scaled_total;
    if (!(scaled - scaled == 0)) count_nonfinite(p, n, sums);
  }
}

template <class L>
inline void add_block(const L* p, int64_t n, Sums& sums) {
  L squares, total;
  fast_sums(p, n, &squares, &total);
  if (squares >= Lanes<L>::least && squares <= Lanes<L>::most) {
    sums.mid += squares, sums.total += total;
  } else {
    exact_sums(p, n, sums);
  }
}

template <class T>
void add_array(const T* p, int64_t n, Sums& sums) {
  using L = typename Computed<T>::Lane;
  L room[BLOCK];
  for (int64_t k = 0; k < n; k += BLOCK) {
    int64_t m = n - k < BLOCK ? n - k : BLOCK;
    add_block(lanes_of(p + k, m, room), m, sums);
  }
}

// ------------------------------------------------------------------------------------------------------- examples

// 1/norm as two factors, the first of them 1 but for rows whose 1/norm would leave the range.
struct Inverse {
  double first, second;
};

template <class L>
Inverse inverse_norm(const Sums& row);

template <>
Inverse inverse_norm<float>(const Sums& row) {
  if (!(row.mid > 0)) return {1, 0};
  double norm = std::sqrt(row.mid);
  return norm > 0x1p120 ? Inverse{0x1p-64, 0x1p64 / norm} : Inverse{1, 1 / norm};
}

template <>
Inverse inverse_norm<double>(const Sums& row) {
  if (!(row.low + row.mid + row.high > 0)) return {1, 0};
  if (row.high > 0) return {HIGH, 1 / std::sqrt(row.high + row.mid * HIGH * HIGH)};
  if (row.mid > 0x1p-800) return {1, 1 / std::sqrt(row.mid)};
  return {LOW, 1 / std::sqrt(row.low + row.mid * LOW * LOW)};
}

// sum[j] += weights[0] rows[0][j] + ... + weights[3] rows[3][j]
template <class L>
void add_four(const L* const rows[4], const L weights[4], int64_t n, L* sum) {
  using V = typename Lanes<L>::Vector;
  constexpr int64_t W = width<L>;
  const L *a = rows[0], *b = rows[1], *c = rows[2], *d = rows[3];
  V wa = spread(weights[0]), wb = spread(weights[1]), wc = spread(weights[2]), wd = spread(weights[3]);
  int64_t k = 0;
  for (; k + W <= n; k += W) {
    V left = load<V>(a + k) * wa + load<V>(b + k) * wb, right = load<V>(c + k) * wc + load<V>(d + k) * wd;
    store(sum + k, load<V>(sum + k) + (left + right));
  }
  if (k >= n) return;
  Tail<L> tail(n, k);
  V left = tail.of(a, n) * wa + tail.of(b, n) * wb, right = tail.of(c, n) * wc + tail.of(d, n) * wd, both = left + right;
  if (tail.is_short) {
    for (int64_t j = 0; j < n; j++) sum[j] += both[j];
  } else {
    store(sum + tail.start, load<V>(sum + tail.start) + both);
  }
}

template <class L>
void add_in_two_steps(const L* row, Inverse inverse, int64_t n, L* sum) {
  for (int64_t k = 0; k < n; k++) sum[k] += (L)(row[k] * (L)inverse.first) * (L)inverse.second;
}

// Rows whose sum is kept in lanes before it is added to doubles.
constexpr int64_t FOURS = 64, CHUNK = 1024;

template <class T>
void add_examples(const T* p, int64_t examples, int64_t length, double* room_for_sums, Sums& sums) {
  using L = typename Computed<T>::Lane;
  double* doubles = room_for_sums;
  L* lanes = (L*)(room_for_sums + length);
  for (int64_t k = 0; k < length; k++) doubles[k] = 0, lanes[k] = 0;
  L room[4][CHUNK];
  for (int64_t first = 0, fours = 0; first < examples; first += 4) {
    int64_t count = examples - first < 4 ? examples - first : 4;
    Inverse inverses[4] = {};
    L weights[4] = {};
    for (int64_t r = 0; r < count; r++) {
      Sums row;
      add_array(p + (first + r) * length, length, row);
      sums.low += row.low, sums.mid += row.mid, sums.high += row.high;
      sums.total += row.total, sums.total_low += row.total_low, sums.total_high += row.total_high;
      sums.nonfinite += row.nonfinite, sums.nan += row.nan;
      sums.alive += row.low + row.mid + row.high > 0;
      inverses[r] = inverse_norm<L>(row);
      weights[r] = inverses[r].first == 1 ? (L)inverses[r].second : 0;
    }
    for (int64_t k = 0; k < length; k += CHUNK) {
      int64_t m = length - k < CHUNK ? length - k : CHUNK;
      const L* rows[4];
      for (int64_t r = 0; r < 4; r++) {
        rows[r] = r < count ? lanes_of(p + (first + r) * length + k, m, room[r]) : rows[0];
        if (inverses[r].first != 1 && r < count) add_in_two_steps(rows[r], inverses[r], m, lanes + k);
      }
      add_four(rows, weights, m, lanes + k);
    }
    if (++fours == FOURS) {
      for (int64_t k = 0; k < length; k++) doubles[k] += lanes[k], lanes[k] = 0;
      fours = 0;
    }
  }
  double direction = 0;
  for (int64_t k = 0; k < length; k++) {
    double entry = doubles[k] + lanes[k];
    direction += entry * entry;
  }
  sums.direction = direction;
}

// ------------------------------------------------------------------------------------------------------- backward

// Rows of `length` <= BLOCK entries, `stride` apart: squares, counts, and for each place whether any entry is not 0.
template <class L>
void add_rows(const L* p, int64_t rows, int64_t length, int64_t stride, L flush, typename Lanes<L>::Int* alive,
              Sums& sums) {
  using V = typename Lanes<L>::Vector;
  using M = typename Lanes<L>::Mask;
  constexpr int64_t W = width<L>;
  V s0 = {}, s1 = {}, most = spread(flush), least = spread((L)-flush);
  M nonzero = {}, flushed = {};
  auto see = [&](V v, V& s, M& any) {
    s += v * v;
    M here = v != 0;
    nonzero -= here;
    flushed -= here & (v <= most) & (v >= least);
    any |= here;
  };
  int64_t k = 0;
  for (; k + W <= length; k += W) {
    M any = load<M>(alive + k);
    const L* q = p + k;
    int64_t r = 0;
    for (; r + 2 <= rows; r += 2, q += 2 * stride) {
      see(load<V>(q), s0, any);
      see(load<V>(q + stride), s1, any);
    }
    if (r < rows) see(load<V>(q), s0, any);
    store(alive + k, any);
  }
  if (k < length) {
    Tail<L> tail(length, k);
    M any = {};
    for (int64_t r = 0; r < rows; r++) see(tail.of(p + r * stride, length), s1, any);
    for (int64_t j = k; j < length; j++) alive[j] |= any[j - tail.start];
  }
  sums.nonzero += across(nonzero), sums.flushed += across(flushed);
  L squares = across(s0 + s1);
  if (squares >= Lanes<L>::least && squares <= Lanes<L>::most) {
    sums.mid += squares;
  } else {
    for (int64_t r = 0; r < rows; r++) exact_sums(p + r * stride, length, sums);
  }
}

template <class T>
void add_backward(const T* p, int64_t examples, int64_t units, double flush, double* room_for_units, Sums& sums) {
  using L = typename Computed<T>::Lane;
  typename Lanes<L>::Int* alive = (typename Lanes<L>::Int*)room_for_units;
  if (!examples || !units) {
    sums.dead = units;  // of no example any is other than 0
    return;
  }
  // Short rows are laid side by side, so that few lanes stay empty.
  int64_t fold = units >= 64 ? 1 : (64 + units - 1) / units;
  fold = fold < examples ? fold : examples;
  int64_t length = units * fold, rows = examples / fold;
  for (int64_t k = 0; k < length; k++) alive[k] = 0;
  L room[BLOCK], limit = sizeof(T) < 4 ? -1 : (L)flush;
  int64_t chunk = length < 1024 ? length : 1024, several = BLOCK / chunk;
  for (int64_t k = 0; k < length; k += chunk) {
    int64_t m = length - k < chunk ? length - k : chunk;
    for (int64_t r = 0; r < rows; r += several) {
      int64_t count = rows - r < several ? rows - r : several;
      const T* block = p + r * length + k;
      if (sizeof(T) >= 4) {
        add_rows((const L*)block, count, m, length, limit, alive + k, sums);
      } else {
        for (int64_t j = 0; j < count; j++) lanes_of(block + j * length, m, room + j * m);
        add_rows((const L*)room, count, m, m, limit, alive + k, sums);
      }
    }
  }
  if (int64_t rest = (examples - rows * fold) * units) {
    add_rows(lanes_of(p + rows * length, rest, room), 1, rest, rest, limit, alive, sums);
  }
  for (int64_t k = 0; k < units; k++) {
    typename Lanes<L>::Int any = 0;
    for (int64_t j = k; j < length; j += units) any |= alive[j];
    sums.dead += !any;
  }
}

// ------------------------------------------------------------------------------- largest entry, histogram of exponents

template <class T>
void add_largest(const T* p, int64_t n, Sums& sums) {
  using L = typename Computed<T>::Lane;
  L room[BLOCK], largest = 0;
  bool nan = false;
  for (int64_t k = 0; k < n; k += BLOCK) {
    int64_t m = n - k < BLOCK ? n - k : BLOCK;
    const L* q = lanes_of(p + k, m, room);
    for (int64_t j = 0; j < m; j++) {
      L size = std::fabs(q[j]);
      largest = size > largest ? size : largest;
      nan |= size != size;
    }
  }
  sums.largest = nan ? NAN : largest;
}

inline int bin_of(float size) {
  uint32_t bits;
  __builtin_memcpy(&bits, &size, 4);
  return ((bits >> 23) + 1) * 64 / 256;
}

inline int bin_of(double size) {
  uint64_t bits;
  __builtin_memcpy(&bits, &size, 8);
  return ((bits >> 52) + 1) * 64 / 2048;
}

template <class T>
void add_histogram(const T* p, int64_t n, bool wide, int64_t* bins) {
  using L = typename Computed<T>::Lane;
  L room[BLOCK];
  for (int64_t k = 0; k < n; k += BLOCK) {
    int64_t m = n - k < BLOCK ? n - k : BLOCK;
    const L* q = lanes_of(p + k, m, room);
    for (int64_t j = 0; j < m; j++) {
      L size = std::fabs(q[j]);
      if (size != 0 && size - size == 0) bins[wide ? bin_of((double)size) : bin_of(size)]++;
    }
  }
}

// --------------------------------------------------------------------------------------------------- by type of entry

template <class F>
inline void by_type(const void* data, Type type, F f) {
  switch (type) {
    case Type::f32: return f((const float*)data);
    case Type::f64: return f((const double*)data);
    case Type::bf16: return f((const Brain*)data);
    case Type::f16: return f((const Half*)data);
  }
}

void sums(const void* data, Type type, int64_t n, Sums* out) {
  by_type(data, type, [=](auto p) { add_array(p, n, *out); });
}

void examples(const void* data, Type type, int64_t examples, int64_t length, double* room, Sums* out) {
  by_type(data, type, [=](auto p) { add_examples(p, examples, length, room, *out); });
}

void backward(const void* data, Type type, int64_t examples, int64_t units, double flush, double* room, Sums* out) {
  by_type(data, type, [=](auto p) { add_backward(p, examples, units, flush, room, *out); });
}

void largest(const void* data, Type type, int64_t n, Sums* out) {
  by_type(data, type, [=](auto p) { add_largest(p, n, *out); });
}

void histogram(const void* data, Type type, int64_t n, bool wide, int64_t* bins) {
  by_type(data, type, [=](auto p) { add_histogram(p, n, wide, bins); });
}

}  // namespace
}  // namespace GRADFLOW_ISA

#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)
#define NAME_(x) #x
#define NAME(x) NAME_(x)
const Kernels JOIN(kernels_, GRADFLOW_ISA) = {NAME(GRADFLOW_ISA),        GRADFLOW_ISA::sums,    GRADFLOW_ISA::examples,
                                              GRADFLOW_ISA::backward,    GRADFLOW_ISA::largest, GRADFLOW_ISA::histogram};

}  // namespace gradflow
