// Runs every kernel of every instruction set of this machine on arrays of exactly their size, and holds the sums against
// long double. Built with sanitizers, it shows reads beyond the ends, overflow and misaligned access.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <limits>

#include "kernels.h"

using namespace gradflow;

static int failures = 0;
static uint64_t state = 88172645463325252ull;

static uint64_t bits() {
  state ^= state << 13, state ^= state >> 7, state ^= state << 17;
  return state;
}

static void expect(bool holds, const Kernels& kernels, const char* what, Type type, int64_t n, int64_t m, int kind) {
  if (holds) return;
  failures++;
  std::printf("%s: %s, type %d, %ld x %ld, kind %d\n", kernels.name, what, (int)type, (long)n, (long)m, kind);
}

static bool close(long double got, long double want, long double size) {
  return std::fabs(got - want) <= 3e-6L * size || (std::isnan((double)got) && std::isnan((double)want));
}

static int64_t bytes_of(Type type) { return type == Type::f64 ? 8 : type == Type::f32 ? 4 : 2; }

static long double decode(Type type, const char* p) {
  if (type == Type::f64) {
    double x;
    std::memcpy(&x, p, 8);
    return x;
  }
  if (type == Type::f32) {
    float x;
    std::memcpy(&x, p, 4);
    return x;
  }
  uint16_t h;
  std::memcpy(&h, p, 2);
  if (type == Type::bf16) {
    uint32_t wide = (uint32_t)h << 16;
    float x;
    std::memcpy(&x, &wide, 4);
    return x;
  }
  int exponent = h >> 10 & 31, fraction = h & 1023;
  long double x = exponent == 31 ? (fraction ? NAN : INFINITY)
                  : exponent     ? std::ldexp(1024.0L + fraction, exponent - 25)
                                 : std::ldexp((long double)fraction, -24);
  return h & 0x8000 ? -x : x;
}

// One entry: 0 anything finite; 1 near 1; 2 mostly 0; 3 tiny; 4 huge.
static void encode(Type type, int kind, char* p) {
  int exponent_bits = type == Type::f64 ? 11 : type == Type::f16 ? 5 : 8;
  int fraction_bits = type == Type::f64 ? 52 : type == Type::f32 ? 23 : type == Type::f16 ? 10 : 7;
  uint64_t top = (1ull << exponent_bits) - 2, bias = top / 2, exponent = bias - 2 + bits() % 4;
  if (kind == 0) exponent = 1 + bits() % top;
  if (kind == 3) exponent = 1 + bits() % 3;
  if (kind == 4) exponent = top - bits() % 3;
  uint64_t word = (bits() & ((1ull << fraction_bits) - 1)) | exponent << fraction_bits |
                  (bits() & 1) << (exponent_bits + fraction_bits);
  if (kind == 2 && bits() % 8) word = 0;
  std::memcpy(p, &word, bytes_of(type));
}

static void check(const Kernels& kernels, Type type, int64_t n, int64_t m, int kind, int shift) {
  int64_t size = n * m, width = bytes_of(type);
  char* block = (char*)std::malloc(size * width + shift * width + (size == 0));
  char* data = block + shift * width;  // aligned to its entries, and to nothing more
  long double squares = 0, total = 0, absolute = 0, largest = 0;
  int64_t nonzero = 0, flushed = 0, dead = 0, alive = 0;
  for (int64_t k = 0; k < size; k++) {
    encode(type, kind, data + k * width);
    long double x = decode(type, data + k * width);
    squares += x * x, total += x, absolute += std::fabs(x);
    largest = std::fabs(x) > largest ? std::fabs(x) : largest;
    nonzero += x != 0, flushed += width >= 4 && x != 0 && std::fabs(x) <= 0x1p-25L;
  }
  for (int64_t j = 0; j < m; j++) {
    bool any = false;
    for (int64_t i = 0; i < n; i++) any |= decode(type, data + (i * m + j) * width) != 0;
    dead += !any;
  }
  long double* units = (long double*)std::calloc(m + 1, sizeof(long double));
  for (int64_t i = 0; i < n; i++) {
    long double row = 0;
    for (int64_t j = 0; j < m; j++) row += std::pow(decode(type, data + (i * m + j) * width), 2);
    alive += row > 0;
    for (int64_t j = 0; j < m && row > 0; j++) units[j] += decode(type, data + (i * m + j) * width) / std::sqrt(row);
  }
  long double direction = 0;
  for (int64_t j = 0; j < m; j++) direction += units[j] * units[j];
  auto right_sums = [&](const Sums& s, const char* what, bool totals) {
    long double got = s.mid + std::ldexp((long double)s.low, -1024) + std::ldexp((long double)s.high, 1076);
    expect(close(got, squares, squares), kernels, what, type, n, m, kind);
    got = s.total + std::ldexp((long double)s.total_low, -512) + std::ldexp((long double)s.total_high, 538);
    expect(!totals || close(got, total, absolute), kernels, "total", type, n, m, kind);
    expect(s.nonfinite == 0 && s.nan == 0, kernels, "nonfinite", type, n, m, kind);
  };
  Sums plain, compared, back, most;
  kernels.sums(data, type, size, &plain);
  right_sums(plain, "sums", true);
  double* room = (double*)std::malloc(8 * (2 * m + 128));
  if (size) {
    double* exact = (double*)std::malloc(16 * m);
    kernels.examples(data, type, n, m, exact, &compared);
    right_sums(compared, "examples", true);
    expect(compared.alive == alive, kernels, "alive", type, n, m, kind);
    expect(close(compared.direction, direction, n * (long double)n), kernels, "direction", type, n, m, kind);
    std::free(exact);
  }
  kernels.backward(data, type, n, m, 0x1p-25, room, &back);
  right_sums(back, "backward", false);
  expect(back.nonzero == nonzero && back.flushed == flushed && back.dead == dead, kernels, "counts", type, n, m, kind);
  kernels.largest(data, type, size, &most);
  expect(most.largest == (double)largest, kernels, "largest", type, n, m, kind);
  int64_t bins[64] = {}, counted = 0;
  kernels.histogram(data, type, size, type == Type::f64, bins);
  for (int64_t b : bins) counted += b;
  expect(counted == nonzero, kernels, "histogram", type, n, m, kind);
  std::free(room), std::free(units), std::free(block);
}

// One entry that is not finite, at each place of a small array.
static void check_nonfinite(const Kernels& kernels, float value) {
  for (int64_t m : {1, 7, 16, 33}) {
    for (int64_t at = 0; at < 5 * m; at++) {
      float* data = (float*)std::malloc(5 * m * 4);
      for (int64_t k = 0; k < 5 * m; k++) data[k] = k == at ? value : 1;
      double* room = (double*)std::malloc(8 * (2 * m + 128));
      Sums s, e, b;
      kernels.sums(data, Type::f32, 5 * m, &s);
      kernels.examples(data, Type::f32, 5, m, room, &e);
      kernels.backward(data, Type::f32, 5, m, 0, room, &b);
      bool nan = std::isnan(value);
      for (const Sums& x : {s, e, b}) {
        bool shows = nan ? std::isnan(x.mid) : std::isinf(x.mid);
        expect(shows && x.nonfinite == 1 && x.nan == nan, kernels, "not finite", Type::f32, 5, m, (int)at);
      }
      expect(std::isnan(e.direction), kernels, "direction of what is not finite", Type::f32, 5, m, (int)at);
      std::free(data), std::free(room);
    }
  }
}

int main() {
  const Kernels* sets[2] = {&kernels_baseline, nullptr};
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) sets[1] = &kernels_avx2;
  for (const Kernels* kernels : sets) {
    if (!kernels) continue;
    for (Type type : {Type::f32, Type::f64, Type::bf16, Type::f16}) {
      for (int64_t n : {0, 1, 2, 3, 5, 8, 65, 261}) {
        for (int64_t m : {0, 1, 7, 10, 63, 64, 65, 100, 1030, 2500}) {
          if (n * m > 70000) continue;
          for (int kind = 0; kind < 5; kind++) check(*kernels, type, n, m, kind, kind % 2);
        }
      }
    }
    for (float value : {NAN, INFINITY, -INFINITY}) check_nonfinite(*kernels, value);
    std::printf("%s: run\n", kernels->name);
  }
  std::printf("%d failures\n", failures);
  return failures != 0;
}
