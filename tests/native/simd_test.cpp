// Tests the vector layer of the instruction set whose compiler flags this is built with: every function of simd.inc
// against plain C++, and the register tile of gemm.inc against a triple loop in double.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

#include "common/intrinsics.inc"

namespace isa {
#include "common/simd.inc"

#include "common/bfloat16.inc"

#include "common/gemm.inc"
}  // namespace isa

namespace {

using namespace isa;

void require(bool holds, const char* what, double actual, double expected) {
  if (holds) return;
  std::fprintf(stderr, "failed: %s: %.9g, expected %.9g\n", what, actual, expected);
  std::exit(1);
}

void same(const char* what, float actual, float expected) {
  require(memcmp(&actual, &expected, sizeof actual) == 0, what, actual, expected);
}

void near(const char* what, double actual, double expected, double tolerance) {
  require(std::fabs(actual - expected) <= tolerance, what, actual, expected);
}

template <typename Function>
float lane(Function function, const float* a, int i) {
  float out[kLanes];
  vstore(out, function(vload(a)));
  return out[i];
}

void arithmetic() {
  std::mt19937 random(1);
  std::uniform_real_distribution<float> distribution(-100.0f, 100.0f);
  for (int round = 0; round < 1000; ++round) {
    float a[kLanes], b[kLanes], c[kLanes];
    double sum = 0.0;
    float largest = -1e30f;
    for (int i = 0; i < kLanes; ++i) {
      a[i] = distribution(random), b[i] = distribution(random), c[i] = distribution(random);
      sum += a[i];
      largest = std::fmax(largest, a[i]);
    }
    const vf vb = vload(b), vc = vload(c);
    for (int i = 0; i < kLanes; ++i) {
      same("vadd", lane([&](vf x) { return vadd(x, vb); }, a, i), a[i] + b[i]);
      same("vsub", lane([&](vf x) { return vsub(x, vb); }, a, i), a[i] - b[i]);
      same("vmul", lane([&](vf x) { return vmul(x, vb); }, a, i), a[i] * b[i]);
      same("vdiv", lane([&](vf x) { return vdiv(x, vb); }, a, i), a[i] / b[i]);
      near("vfma", lane([&](vf x) { return vfma(x, vb, vc); }, a, i), double(a[i]) * b[i] + c[i], 2e-3);
      same("vmax", lane([&](vf x) { return vmax(x, vb); }, a, i), std::fmax(a[i], b[i]));
      same("vmin", lane([&](vf x) { return vmin(x, vb); }, a, i), std::fmin(a[i], b[i]));
      same("vabs", lane([](vf x) { return vabs(x); }, a, i), std::fabs(a[i]));
      same("vsqrt", lane([](vf x) { return vsqrt(vabs(x)); }, a, i), std::sqrt(std::fabs(a[i])));
      near("vround", lane([](vf x) { return vround(x); }, a, i), std::nearbyint(a[i]), 0.0);
      const float power = std::nearbyint(b[i]);
      same("vldexp", lane([&](vf x) { return vldexp(x, vset(power)); }, a, i), std::ldexp(a[i], int(power)));
    }
    near("vsum", vsum(vload(a)), sum, 1e-3);
    same("vhmax", vhmax(vload(a)), largest);
  }
  for (const float tie : {0.5f, 1.5f, 2.5f, -0.5f, -1.5f}) {
    float out[kLanes];
    vstore(out, vround(vset(tie)));
    near("vround of a tie", out[0], std::nearbyint(tie), 0.0);
  }
}

template <typename Function>
float apply_scalar(Function function, float x) {
  float out[kLanes];
  vstore(out, function(vset(x)));
  for (int i = 1; i < kLanes; ++i) same("equal lanes", out[i], out[0]);
  return out[0];
}

// Packs two floats, each truncated to bfloat16, into the bits of one float: the first in the low half.
float pair(float first, float second) {
  uint32_t a, b;
  memcpy(&a, &first, sizeof a), memcpy(&b, &second, sizeof b);
  const uint32_t bits = (b & 0xffff0000u) | a >> 16;
  float both;
  memcpy(&both, &bits, sizeof both);
  return both;
}

float truncate_to_bfloat16(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  bits &= 0xffff0000u;
  memcpy(&x, &bits, sizeof x);
  return x;
}

void dot_products() {
  std::mt19937 random(2);
  std::uniform_real_distribution<float> distribution(-100.0f, 100.0f);
  for (int round = 0; round < 1000; ++round) {
    const float a0 = distribution(random), a1 = distribution(random), a = pair(a0, a1);
    float b[kLanes], c[kLanes], out[kLanes];
    double expected[kLanes];
    for (int i = 0; i < kLanes; ++i) {
      const float b0 = distribution(random), b1 = distribution(random);
      b[i] = pair(b0, b1), c[i] = distribution(random);
      expected[i] = double(truncate_to_bfloat16(a0)) * truncate_to_bfloat16(b0) +
                    double(truncate_to_bfloat16(a1)) * truncate_to_bfloat16(b1) + c[i];
    }
    vstore(out, vdot(&a, vload(b), vload(c)));
    for (int i = 0; i < kLanes; ++i) near("vdot", out[i], expected[i], 4e-3);
  }
}

// vpair rounds both numbers to bfloat16, to nearest even; the expected values are rounded in double.
void pair_rounding() {
  std::mt19937 random(3);
  std::uniform_real_distribution<float> distribution(-4.0f, 4.0f);
  for (int round = 0; round < 4000; ++round) {
    float a[kLanes], b[kLanes], out[kLanes];
    for (int i = 0; i < kLanes; ++i) {
      a[i] = distribution(random), b[i] = distribution(random);
      // Includes ties halfway between two neighbours, which round to the even one.
      if (round % 4 == 0) a[i] = 1.0f + static_cast<float>(random() % 512) / 256.0f;
    }
    vstore(out, vpair(vload(a), vload(b)));
    for (int i = 0; i < kLanes; ++i) {
      const auto rounded = [](float x) {
        int exponent;
        const double mantissa = std::frexp(double(x), &exponent);
        return static_cast<float>(std::ldexp(std::nearbyint(std::ldexp(mantissa, 8)), exponent - 8));
      };
      same("vpair", out[i], pair(rounded(a[i]), rounded(b[i])));
    }
  }
  vf nan_vector = vset(NAN);
  float out[kLanes];
  vstore(out, vpair(nan_vector, vset(INFINITY)));
  uint32_t bits;
  memcpy(&bits, out, sizeof bits);
  require((bits & 0x7fffu) > 0x7f80u && bits >> 16 == 0x7f80u, "vpair keeps NaN and infinity", bits, 0.0);
}

void transcendental() {
  const auto exp_of = [](vf x) { return vexp(x); };
  const auto erf_of = [](vf x) { return verf(x); };
  const auto gelu_of = [](vf x) { return vgelu(x); };
  const auto gelu_bfloat16 = [](vf x) { return vgelu_bfloat16(x); };
  for (int i = -870000; i <= 880000; ++i) {
    const float x = static_cast<float>(i) * 1e-4f;
    const double expected = std::exp(double(x));
    near("vexp", apply_scalar(exp_of, x), expected, 3e-7 * expected);
  }
  for (int i = -60000; i <= 60000; ++i) {
    const float x = static_cast<float>(i) * 1e-4f;
    near("verf", apply_scalar(erf_of, x), std::erf(double(x)), 5e-7);
    const double expected = 0.5 * double(x) * (1.0 + std::erf(double(x) / std::sqrt(2.0)));
    near("vgelu", apply_scalar(gelu_of, x), expected, 1e-6 * (1.0 + std::fabs(x)));
    near("vgelu_bfloat16", apply_scalar(gelu_bfloat16, x), expected, 1.3e-4);
  }
  same("vgelu_bfloat16 of 0", apply_scalar(gelu_bfloat16, 0.0f), 0.0f);
  same("vgelu_bfloat16 far above", apply_scalar(gelu_bfloat16, 3e38f), 3e38f);
  same("vgelu_bfloat16 far below", apply_scalar(gelu_bfloat16, -INFINITY), 0.0f);
  require(std::isnan(apply_scalar(gelu_bfloat16, NAN)), "vgelu_bfloat16 keeps NaN", apply_scalar(gelu_bfloat16, NAN),
          NAN);
  for (const float x : {-1000.0f, -88.0f, -INFINITY}) near("vexp far below", apply_scalar(exp_of, x), 0.0, 2e-38);
  require(std::isfinite(apply_scalar(exp_of, 1000.0f)), "vexp far above is finite", apply_scalar(exp_of, 1000.0f), 0.0);
  same("verf of infinity", apply_scalar(erf_of, INFINITY) > 0.9999995f ? 1.0f : 0.0f, 1.0f);
  same("vexp of 0", apply_scalar(exp_of, 0.0f), 1.0f);
}

template <int ROWS, int PANELS>
void tile(int64_t k, bool slivers) {
  std::mt19937 random(static_cast<unsigned>(k));
  std::uniform_real_distribution<float> distribution(-1.0f, 1.0f);
  const int64_t columns = int64_t{kPanel} * PANELS, row_stride = slivers ? 1 : k + 3, k_stride = slivers ? ROWS : 1;
  std::vector<float> a(static_cast<size_t>(ROWS * (k + 3))), panels(static_cast<size_t>(k * columns));
  std::vector<float> c(static_cast<size_t>(ROWS * (columns + 5)));
  for (std::vector<float>* values : {&a, &panels, &c}) {
    for (float& value : *values) value = distribution(random);
  }
  const std::vector<float> before = c;
  for (const bool add : {false, true}) {
    Tile<ROWS, PANELS> sums;
    if (add) {
      load_tile(sums, before.data(), columns + 5);
    } else {
      clear(sums);
    }
    multiply_add(sums, a.data(), row_stride, k_stride, panels.data(), k * kPanel, k);
    store_tile(sums, c.data(), columns + 5);
    for (int64_t r = 0; r < ROWS; ++r) {
      for (int64_t n = 0; n < columns + 5 && r * (columns + 5) + n < static_cast<int64_t>(c.size()); ++n) {
        const auto at = static_cast<size_t>(r * (columns + 5) + n);
        if (n >= columns) {
          same("gemm doesn't write beside the tile", c[at], before[at]);
          continue;
        }
        double expected = add ? before[at] : 0.0;
        for (int64_t i = 0; i < k; ++i) {
          expected += double(a[static_cast<size_t>(r * row_stride + i * k_stride)]) *
                      panels[static_cast<size_t>((n / kPanel * k + i) * kPanel + n % kPanel)];
        }
        near("gemm", c[at], expected, 1e-5 + 1e-6 * static_cast<double>(k));
      }
    }
  }
}

}  // namespace

int main() {
  arithmetic();
  dot_products();
  pair_rounding();
  transcendental();
  for (const int64_t k : {0, 1, 2, 7, 64, 384}) {
    for (const bool slivers : {false, true}) {
      tile<kTileRows, kTilePanels>(k, slivers);
      tile<1, 1>(k, slivers);
      tile<2, kTilePanels>(k, slivers);
    }
  }
  std::printf("simd, %d lanes: ok\n", kLanes);
  return 0;
}
