// Tests warp and block operations, atomics, bit functions and half precision on the emulator and on a GPU. Built by
// tests/test_cuda_emulator.py and tests/test_gpu.py.
#include <cmath>
#include <cstring>

#include "cuda_program.h"

namespace {

using namespace fastsam::cuda;

std::string at(const char* what, size_t i) { return std::string(what) + " at " + std::to_string(i); }

// ---- shuffles ----

template <typename T>
__global__ void shuffle_kernel(const T* in, T* out, int width) {
  const int lane = static_cast<int>(threadIdx.x);
  const T value = in[lane];
  out[lane] = __shfl_sync(kAllLanes, value, lane * 7 + 3, width);
  out[32 + lane] = __shfl_up_sync(kAllLanes, value, 3, width);
  out[64 + lane] = __shfl_down_sync(kAllLanes, value, 5, width);
  out[96 + lane] = __shfl_xor_sync(kAllLanes, value, 9, width);
}

template <typename T>
void shuffles() {
  ManagedArray<T> in(32), out(128);
  for (int i = 0; i < 32; ++i) in[i] = static_cast<T>(1000003) * static_cast<T>(i) + static_cast<T>(0.5);
  for (const int width : {32, 16, 4}) {
    launch(shuffle_kernel<T>, 1, 32, 0, nullptr, in.data(), out.data(), width);
    synchronize();
    for (int i = 0; i < 32; ++i) {
      const int begin = i / width * width, end = begin + width;
      require(out[i] == in[begin + (i * 7 + 3) % width], at("shfl", i));
      require(out[32 + i] == in[i - 3 >= begin ? i - 3 : i], at("shfl_up", i));
      require(out[64 + i] == in[i + 5 < end ? i + 5 : i], at("shfl_down", i));
      require(out[96 + i] == in[(i ^ 9) < end ? i ^ 9 : i], at("shfl_xor", i));
    }
  }
}

// ---- votes and reductions, also among part of a warp, and in a warp that some threads have left ----

__global__ void vote_kernel(unsigned* out) {
  const unsigned lane = threadIdx.x % 32, mask = lane < 11 ? 0x7ffu : ~0x7ffu;
  out[threadIdx.x] = __ballot_sync(kAllLanes, lane % 3 == 0);
  // Two groups of lanes in different branches; each would hang if it waited for the other.
  if (lane < 11) {
    out[64 + threadIdx.x] = __ballot_sync(mask, lane % 2);
    out[128 + threadIdx.x] = static_cast<unsigned>(__any_sync(mask, lane == 40) * 2 + __all_sync(mask, lane < 11));
  } else {
    out[64 + threadIdx.x] = __shfl_sync(mask, lane * lane, 20);
    out[128 + threadIdx.x] = static_cast<unsigned>(__any_sync(mask, lane == 31) * 2 + __all_sync(mask, lane != 31));
  }
  __syncwarp();
  if (threadIdx.x >= 32 + 20) return;
  // The second warp continues with twenty lanes.
  out[192 + threadIdx.x] = __ballot_sync(threadIdx.x < 32 ? kAllLanes : 0xfffffu, 1);
}

void votes() {
  ManagedArray<unsigned> out(256);
  launch(vote_kernel, 1, 64, 0, nullptr, out.data());
  synchronize();
  for (unsigned i = 0; i < 64; ++i) {
    const unsigned lane = i % 32;
    require(out[i] == 0x49249249u, at("ballot", i));
    require(out[64 + i] == (lane < 11 ? 0x2aau : 400u), at("ballot or shuffle of part of a warp", i));
    require(out[128 + i] == (lane < 11 ? 1u : 2u), at("any and all", i));
    if (i < 52) require(out[192 + i] == (i < 32 ? ~0u : 0xfffffu), at("ballot of the remaining lanes", i));
  }
}

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
__global__ void reduce_kernel(const int* in, int* out) {
  const int value = in[threadIdx.x];
  const auto bits = static_cast<unsigned>(value);
  int* row = out + 9 * threadIdx.x;
  row[0] = __reduce_add_sync(kAllLanes, value);
  row[1] = __reduce_min_sync(kAllLanes, value);
  row[2] = __reduce_max_sync(kAllLanes, value);
  row[3] = static_cast<int>(__reduce_min_sync(kAllLanes, bits));
  row[4] = static_cast<int>(__reduce_max_sync(kAllLanes, bits));
  row[5] = static_cast<int>(__reduce_and_sync(kAllLanes, bits));
  row[6] = static_cast<int>(__reduce_or_sync(kAllLanes, bits));
  row[7] = static_cast<int>(__reduce_xor_sync(kAllLanes, bits));
  row[8] = static_cast<int>(__match_any_sync(kAllLanes, value % 4));
}
#endif

void reductions() {
  ManagedArray<int> in(32), out(9 * 32);
  unsigned sum = 0, ands = ~0u, ors = 0, xors = 0;
  for (int i = 0; i < 32; ++i) {
    in[i] = (i - 9) * 0x2654321;
    const auto bits = static_cast<unsigned>(in[i]);
    sum += bits;
    ands &= bits;
    ors |= bits;
    xors ^= bits;
  }
  launch(reduce_kernel, 1, 32, 0, nullptr, in.data(), out.data());
  synchronize();
  int min_value = in[0], max_value = in[0];
  unsigned min_bits = ~0u, max_bits = 0;
  for (int i = 0; i < 32; ++i) {
    min_value = std::min(min_value, in[i]);
    max_value = std::max(max_value, in[i]);
    min_bits = std::min(min_bits, static_cast<unsigned>(in[i]));
    max_bits = std::max(max_bits, static_cast<unsigned>(in[i]));
  }
  for (int i = 0; i < 32; ++i) {
    unsigned same = 0;
    for (int j = 0; j < 32; ++j) same |= static_cast<unsigned>(in[i] % 4 == in[j] % 4) << j;
    const int expected[9] = {static_cast<int>(sum),
                             min_value,
                             max_value,
                             static_cast<int>(min_bits),
                             static_cast<int>(max_bits),
                             static_cast<int>(ands),
                             static_cast<int>(ors),
                             static_cast<int>(xors),
                             static_cast<int>(same)};
    for (int k = 0; k < 9; ++k) require(out[9 * i + k] == expected[k], at("reduction", k));
  }
}

// ---- blocks: barriers, static shared memory in templates, dynamic shared memory ----

template <typename T>
__global__ void sum_kernel(const T* in, T* out, int count) {
  __shared__ T part[256];
  __shared__ T counted[2];
  DYNAMIC_SHARED(T, copy);
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x), me = static_cast<int>(threadIdx.x);
  part[me] = i < count ? in[i] : T(0);
  copy[blockDim.x - 1 - me] = part[me];
  for (int step = 128; step > 0; step /= 2) {
    __syncthreads();
    if (me < step) part[me] += part[me + step];
  }
  const int large = __syncthreads_count(i < count && in[i] > T(100));
  const int some = __syncthreads_or(me == 255), all = __syncthreads_and(me != 255);
  if (me == 0) counted[0] = T(large * 4 + some * 2 + all);
  if (me == 31) counted[1] = copy[0];
  __syncthreads();
  if (me >= 3) return;  // the next barrier must not wait for threads that have ended
  __syncthreads();
  out[3 * blockIdx.x + me] = me == 0 ? part[0] : counted[me - 1];
}

template <typename T>
void block_sums() {
  const int count = 1000, blocks = 4;
  ManagedArray<T> in(count), out(3 * blocks);
  for (int i = 0; i < count; ++i) in[i] = T(i % 131);
  launch(sum_kernel<T>, blocks, 256, 256 * sizeof(T), nullptr, in.data(), out.data(), count);
  synchronize();
  for (int b = 0; b < blocks; ++b) {
    T sum = 0;
    int large = 0;
    for (int i = 256 * b; i < std::min(count, 256 * b + 256); ++i) {
      sum += in[i];
      large += in[i] > T(100);
    }
    require(out[3 * b] == sum, at("sum of block", b));
    require(out[3 * b + 1] == T(large * 4 + 2), at("counts of block", b));
    require(out[3 * b + 2] == (256 * b + 255 < count ? in[256 * b + 255] : T(0)), at("last of block", b));
  }
}

__global__ void index_kernel(int* out) {
  const unsigned block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
  const unsigned thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
  out[block * blockDim.x * blockDim.y * blockDim.z + thread] =
      static_cast<int>(threadIdx.x + 10 * threadIdx.y + 100 * threadIdx.z + 1000 * blockIdx.x + 10000 * blockIdx.y +
                       100000 * blockIdx.z);
}

void block_indices() {
  ManagedArray<int> out(2 * 3 * 4 * 5 * 6 * 7);
  launch(index_kernel, dim3(2, 3, 4), dim3(5, 6, 7), 0, nullptr, out.data());
  synchronize();
  for (int i = 0; i < 2 * 3 * 4 * 5 * 6 * 7; ++i) {
    const int t = i % 210, b = i / 210;
    const int thread = t % 5 + 10 * (t / 5 % 6) + 100 * (t / 30);
    require(out[i] == thread + 1000 * (b % 2) + 10000 * (b / 2 % 3) + 100000 * (b / 6), at("index", i));
  }
}

// ---- single threads: atomics, bits ----

__global__ void atomic_kernel(int* counts, unsigned long long* wide, int* winners) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  atomicAdd(counts, i);
  atomicSub(counts + 1, 1);
  atomicMin(counts + 2, -i);
  atomicMax(counts + 3, i);
  atomicOr(counts + 4, 1 << i % 31);
  atomicAnd(counts + 5, ~(1 << i % 31));
  atomicXor(counts + 6, 1 << i % 31);
  atomicAdd(wide, 1ull << 33);
  atomicMax(wide + 1, static_cast<unsigned long long>(i) << 40);
  if (atomicCAS(winners, 0, i + 1) == 0) atomicAdd(winners + 1, 1);
  if (atomicExch(winners + 2, 1) == 0) atomicAdd(winners + 3, 1);
}

void atomics() {
  ManagedArray<int> counts(7), winners(4);
  ManagedArray<unsigned long long> wide(2);
  counts[5] = -1;
  launch(atomic_kernel, 3, 100, 0, nullptr, counts.data(), wide.data(), winners.data());
  synchronize();
  int flips = 0;
  for (int i = 0; i < 300; ++i) flips ^= 1 << i % 31;
  const int expected[7] = {299 * 150, -300, -299, 299, 0x7fffffff, static_cast<int>(0x80000000u), flips};
  for (int k = 0; k < 7; ++k) require(counts[k] == expected[k], at("atomic", k));
  require(wide[0] == 300ull << 33 && wide[1] == 299ull << 40, "atomics of 64 bits");
  require(winners[0] > 0 && winners[1] == 1 && winners[2] == 1 && winners[3] == 1, "one thread wins");
}

__global__ void bits_kernel(const unsigned* in, long long* out) {
  const unsigned x = in[threadIdx.x], y = in[threadIdx.x + 1];
  const unsigned long long both = static_cast<unsigned long long>(x) << 32 | y;
  long long* row = out + 14 * threadIdx.x;
  row[0] = __popc(x);
  row[1] = __popcll(both);
  row[2] = __ffs(static_cast<int>(x));
  row[3] = __ffsll(static_cast<long long>(both));
  row[4] = __clz(static_cast<int>(x));
  row[5] = __clzll(static_cast<long long>(both));
  row[6] = __brev(x);
  row[7] = static_cast<long long>(__brevll(both));
  row[8] = __byte_perm(x, y, 0x5b06);
  row[9] = __umulhi(x, y);
  row[10] = __funnelshift_l(x, y, 11);
  row[11] = __funnelshift_r(x, y, 43);
  row[12] = __float_as_int(__uint_as_float(x & 0x7f7fffffu));
  row[13] = static_cast<long long>(__umul64hi(both, both));
}

void bits() {
  const unsigned values[] = {0, 1, 2, 3, 0x80000000u, 0xffffffffu, 0x00ff8040u, 0x12345678u, 0xf0000001u, 0};
  const int n = 9;
  ManagedArray<unsigned> in(n + 1);
  ManagedArray<long long> out(14 * n);
  std::memcpy(in.data(), values, sizeof(values));
  launch(bits_kernel, 1, n, 0, nullptr, in.data(), out.data());
  synchronize();
  for (int i = 0; i < n; ++i) {
    const unsigned x = values[i], y = values[i + 1];
    const uint64_t both = uint64_t{x} << 32 | y;
    int bits_in_x = 0, bits_in_both = 0, first = 0, first_of_both = 0, leading = 0, leading_of_both = 0;
    uint64_t reversed = 0, reversed_both = 0;
    for (int b = 0; b < 64; ++b) {
      const bool in_both = (both >> b & 1) != 0, in_x = b < 32 && (x >> b & 1) != 0;
      bits_in_x += in_x;
      bits_in_both += in_both;
      if (in_x && first == 0) first = b + 1;
      if (in_both && first_of_both == 0) first_of_both = b + 1;
      if (in_x) leading = 31 - b;
      if (in_both) leading_of_both = 63 - b;
      if (in_x) reversed |= uint64_t{1} << (31 - b);
      if (in_both) reversed_both |= uint64_t{1} << (63 - b);
    }
    if (x == 0) leading = 32;
    if (both == 0) leading_of_both = 64;
    const unsigned bytes[8] = {x & 255, x >> 8 & 255, x >> 16 & 255, x >> 24,
                               y & 255, y >> 8 & 255, y >> 16 & 255, y >> 24};
    const unsigned chosen = bytes[6] | bytes[0] << 8 | bytes[3] << 16 | bytes[5] << 24;
    const uint64_t high = uint64_t{x} * x + (uint64_t{x} * y >> 31) +
                          (((uint64_t{x} * y << 1 & 0xffffffffu) + (uint64_t{y} * y >> 32)) >> 32);
    const long long expected[14] = {bits_in_x,
                                    bits_in_both,
                                    first,
                                    first_of_both,
                                    leading,
                                    leading_of_both,
                                    static_cast<long long>(reversed),
                                    static_cast<long long>(reversed_both),
                                    chosen,
                                    static_cast<long long>(uint64_t{x} * y >> 32),
                                    static_cast<long long>(y << 11 | x >> 21),
                                    static_cast<long long>(y << 21 | x >> 11),
                                    static_cast<long long>(x & 0x7f7fffffu),
                                    static_cast<long long>(high)};
    for (int k = 0; k < 14; ++k) require(out[14 * i + k] == expected[k], at("bits", 14 * i + k));
  }
}

// ---- half precision ----

template <typename T>
__global__ void convert_kernel(const float* in, uint16_t* out, float* back, float* unpacked, int count) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i >= count) return;
  const T value = from_float<T>(in[i]);
  // Stored as one T. If it is copied byte by byte, nvcc 13.0 computes the lower byte with F2I.U8.F16, which converts
  // the number instead of copying its bits.
  reinterpret_cast<T*>(out)[i] = value;
  back[i] = to_float(value);
  const float2 both = unpack<T>(pack<T>(in[i], -in[i]));
  unpacked[2 * i] = both.x;
  unpacked[2 * i + 1] = both.y;
}

// Value of a 16-bit floating-point number with `exponent` exponent bits; the others are sign and fraction.
double decode_float(uint16_t encoded, int exponent) {
  const int fraction = 15 - exponent, bias = (1 << (exponent - 1)) - 1;
  const int e = (encoded & 0x7fff) >> fraction, f = encoded & ((1 << fraction) - 1);
  const double size =
      e == 0 ? std::ldexp(f, 1 - bias - fraction) : std::ldexp(f + (1 << fraction), e - bias - fraction);
  return (encoded & 0x8000) != 0 ? -size : size;
}

bool same(float a, float b) { return a == b || (std::isnan(a) && std::isnan(b)); }

constexpr int kMaxReported = 20;

// Returns the number of wrong conversions, and prints the first kMaxReported of them.
template <typename T>
int conversions(const char* type, int exponent) {
  const int infinity = ((1 << exponent) - 1) << (15 - exponent);
  ManagedArray<float> in(4 * 65536), back(4 * 65536), unpacked(8 * 65536);
  ManagedArray<uint16_t> out(4 * 65536);
  // Every number of the type, the float halfway to the next number, and the floats just below and above halfway.
  for (int i = 0; i < 65536; ++i) {
    const bool finite = (i & 0x7fff) < infinity;
    const auto exact = static_cast<float>(decode_float(static_cast<uint16_t>(i), exponent));
    const double next = decode_float(static_cast<uint16_t>(i + 1), exponent);
    const auto halfway = static_cast<float>((decode_float(static_cast<uint16_t>(i), exponent) + next) / 2);
    in[4 * i] = finite                     ? exact
                : (i & 0x7fff) == infinity ? std::copysign(INFINITY, (i & 0x8000) != 0 ? -1.0f : 1.0f)
                                           : NAN;
    in[4 * i + 1] = finite ? halfway : NAN;
    in[4 * i + 2] = finite ? std::nextafter(halfway, 0.0f) : NAN;
    in[4 * i + 3] = finite ? std::nextafter(halfway, std::copysign(INFINITY, halfway)) : NAN;
  }
  const int count = static_cast<int>(in.size());
  launch(convert_kernel<T>, blocks_for(count, 256), 256, 0, nullptr, in.data(), out.data(), back.data(),
         unpacked.data(), count);
  synchronize();
  int wrong = 0;
  for (int i = 0; i < 65536; ++i) {
    const bool finite = (i & 0x7fff) < infinity;
    const int even = i % 2 == 0 ? i : i + 1;
    const int expected[4] = {i, even, i, i + 1};
    for (int k = 0; k < 4; ++k) {
      const uint16_t actual = out[4 * i + k];
      if (std::isnan(in[4 * i + k])) {
        require((actual & 0x7fff) > infinity && std::isnan(back[4 * i + k]), at("NaN", i));
      } else {
        const float exact = (actual & 0x7fff) == infinity ? std::copysign(INFINITY, in[4 * i + k])
                                                          : static_cast<float>(decode_float(actual, exponent));
        require(back[4 * i + k] == exact, at("value", 4 * i + k));
      }
      // Round to nearest, ties to even, also for subnormal numbers of either type; alone and in a pair.
      const int nearest = finite ? expected[k] : i;
      const float first = unpacked[2 * (4 * i + k)], second = unpacked[2 * (4 * i + k) + 1];
      const bool paired = same(first, back[4 * i + k]) && same(second, -back[4 * i + k]);
      if (paired && (actual == nearest || std::isnan(in[4 * i + k]))) continue;
      if (++wrong > kMaxReported) continue;
      uint32_t bits;
      std::memcpy(&bits, &in[4 * i + k], sizeof(bits));
      std::fprintf(stderr, "%s: 0x%08x (%a) became 0x%04x, in a pair %a and negated %a, expected 0x%04x\n", type, bits,
                   double{in[4 * i + k]}, actual, double{first}, double{second}, nearest);
    }
  }
  if (wrong > 0) std::fprintf(stderr, "%s: %d of %d conversions wrong\n", type, wrong, count);
  return wrong;
}

}  // namespace

int main() {
  shuffles<int>();
  shuffles<float>();
  shuffles<double>();
  shuffles<unsigned long long>();
  votes();
  reductions();
  block_sums<int>();
  block_sums<double>();
  block_indices();
  atomics();
  bits();
  const int wrong = conversions<half>("half", 5) + conversions<bfloat16>("bfloat16", 8);
  require(wrong == 0, "all conversions to half precision are correct");
  std::printf("cuda warps: ok\n");
  return 0;
}
