// What the emulator says where a GPU would hang, read something undefined or refuse; and what a launch says. Emulator
// only.
#include <sys/mman.h>

#include <cmath>
#include <cstring>
#include <functional>
#include <stdexcept>
#include <vector>

#include "common/mma.h"
#include "common/wgmma.h"
#include "cuda_program.h"

namespace {

using namespace fastsam::cuda;

// ---- threads that can't go on ----

__global__ void some_at_barrier_kernel() {
  if (threadIdx.x >= 60) return;
  if (threadIdx.x >= 32 && threadIdx.x < 40) __shfl_sync(kAllLanes, 1, 0);
  __syncthreads();
}

__global__ void two_barriers_kernel() {
  if (threadIdx.x % 2 == 0) {
    __syncthreads();
  } else {
    __syncthreads_or(1);
  }
}

__global__ void two_masks_kernel() {
  if (threadIdx.x < 16) {
    __ballot_sync(kAllLanes, 1);
  } else {
    __ballot_sync(0xffff0000u, 1);
    __any_sync(kAllLanes, 1);
  }
}

__global__ void foreign_mask_kernel() { __syncwarp(0xfffffffeu); }

__global__ void absent_lane_kernel() {
  if (threadIdx.x >= 20) return;
  __shfl_down_sync(0xfffffu, 1, 4);
}

__global__ void trap_kernel() {
  if (blockIdx.x == 3) __trap();
}

void stuck_threads() {
  expect_error(
      [] { launch(some_at_barrier_kernel, 2, 64, 0, nullptr); },
      {"block (0, 0, 0)", "some_at_barrier_kernel can't go on", "threads 0-31 waiting at __syncthreads()",
       "threads 32-39 waiting at __shfl_sync() with mask 0xffffffff, threads 40-59 waiting at __syncthreads(), threads "
       "60-63 ended"});
  expect_error([] { launch(two_barriers_kernel, 1, 4, 0, nullptr); },
               {"__syncthreads_or() while thread 0 is at __syncthreads()"});
  expect_error(
      [] { launch(two_masks_kernel, 1, 32, 0, nullptr); },
      {"threads 0-15 waiting at __ballot_sync() with mask 0xffffffff", "threads 16-31 waiting at __any_sync()"});
  expect_error([] { launch(foreign_mask_kernel, 1, 32, 0, nullptr); },
               {"thread (0, 0, 0)", "a mask that does not include the thread"});
  expect_error([] { launch(absent_lane_kernel, 1, 32, 0, nullptr); },
               {"lane 16 reads lane 20, which does not take part"});
  expect_error([] { launch(trap_kernel, 5, 1, 0, nullptr); }, {"block (3, 0, 0)", "trap_kernel", "__trap()"});
}

// ---- shared memory ----

// The value of shared memory before anyone has written it; afterwards it is written.
template <typename T>
__global__ void unwritten_kernel(T* out) {
  __shared__ T fixed[4];
  DYNAMIC_SHARED(T, dynamic);
  out[2 * blockIdx.x] = fixed[3];
  out[2 * blockIdx.x + 1] = dynamic[3];
  fixed[3] = dynamic[3] = T(1);
}

__global__ void overrun_kernel(int bytes) {
  DYNAMIC_SHARED(char, memory);
  memory[bytes] = 1;
}

__global__ void crooked_load_kernel(int offset) {
  __shared__ __align__(16) char memory[512];
  uint32_t r[4];
  ldmatrix_x4(r, memory + offset);
}

__global__ void outside_load_kernel(const char* memory) {
  uint32_t r[4];
  ldmatrix_x4(r, memory);
}

__global__ void half_warp_product_kernel() {
  if (threadIdx.x >= 16) return;
  const uint32_t a[4] = {};
  float d[4] = {};
  mma_m16n8k16<half>(d, a, 0, 0);
}

__global__ void copy_kernel(const float4* in, float4* out, bool wait) {
  __shared__ float4 memory[2];
  cp_async_16(memory, in);
  cp_async_commit();
  cp_async_16(memory + 1, in + 1, false);
  if (wait) cp_async_wait<0>();  // of the second copy there is no group yet
  out[0] = memory[0];
  out[1] = memory[1];
}

void shared_memory() {
  ManagedArray<float> floats(4);
  launch(unwritten_kernel<float>, 2, 1, 4 * sizeof(float), nullptr, floats.data());
  for (int i = 0; i < 4; ++i) require(std::isnan(floats[i]), "unwritten shared memory is NaN, in each block");
  ManagedArray<int64_t> integers(4);
  launch(unwritten_kernel<int64_t>, 2, 1, 4 * sizeof(int64_t), nullptr, integers.data());
  for (int i = 0; i < 4; ++i) require(integers[i] == -1, "unwritten shared memory has all bits set");

  launch(overrun_kernel, 1, 1, 64, nullptr, 63);
  expect_error([] { launch(overrun_kernel, 1, 1, 64, nullptr, 64); },
               {"wrote behind its 64 bytes of dynamic shared memory"});
  launch(crooked_load_kernel, 1, 32, 0, nullptr, 16);
  expect_error([] { launch(crooked_load_kernel, 1, 32, 0, nullptr, 8); }, {"ldmatrix", "not a multiple of 16"});
  expect_error([] { launch(crooked_load_kernel, 1, 32, 0, nullptr, 1 << 20); },
               {"ldmatrix", "outside its shared memory"});
  ManagedArray<float4> global(2), out(2);
  expect_error([&] { launch(outside_load_kernel, 1, 32, 0, nullptr, reinterpret_cast<const char*>(global.data())); },
               {"outside its shared memory"});
  expect_error([] { launch(half_warp_product_kernel, 1, 32, 0, nullptr); }, {"mma", "without all 32 lanes"});

  global[0] = global[1] = make_float4(1, 2, 3, 4);
  launch(copy_kernel, 1, 1, 0, nullptr, global.data(), out.data(), false);
  require(std::isnan(out[0].x) && std::isnan(out[1].x), "copies that nobody waited for haven't arrived");
  launch(copy_kernel, 1, 1, 0, nullptr, global.data(), out.data(), true);
  require(out[0].w == 4 && std::isnan(out[1].x), "copies of the groups that were waited for have arrived");
}

// ---- products of a warpgroup ----

enum class Bug { kNone, kNoFence, kNoFenceOfCopies, kReadEarly, kNotWaited, kOneWarpLess, kOddDescriptor, kOutside };

__global__ void warpgroup_kernel(const float4* in, float* out, Bug bug) {
  DYNAMIC_SHARED(char, raw);
  char* const memory = raw + (-shared_address(raw) & 1023u);
  const int thread = static_cast<int>(threadIdx.x);
  for (int i = thread; i < 16 * 128 / 16; i += static_cast<int>(blockDim.x)) cp_async_16(memory + 16 * i, in);
  cp_async_commit();
  cp_async_wait<0>();
  if (bug != Bug::kNoFenceOfCopies) fence_proxy_async();
  __syncthreads();
  const uint32_t a[4] = {}, beyond = bug == Bug::kOutside ? 16 * 1024 : 0;
  float d[8][4] = {};
  if (bug != Bug::kNoFence) wgmma_fence();
  if (bug != Bug::kOneWarpLess || thread < 96) {
    uint64_t b = wgmma_descriptor(shared_address(memory) + beyond, 16, 1024, Swizzle::k128Bytes);
    if (bug == Bug::kOddDescriptor && thread == 5) b += 2;
    wgmma<half, true>(d, a, b);
  }
  wgmma_commit();
  if (bug == Bug::kReadEarly) out[thread] = d[0][0];
  if (bug == Bug::kNotWaited) return;
  wgmma_wait<0>();
  if (bug != Bug::kReadEarly) out[thread] = d[0][0];
}

__global__ void barrier_kernel(int arrivals) {
  __shared__ uint64_t barrier;
  if (threadIdx.x == 0) mbarrier_init(&barrier, 3);
  __syncthreads();
  mbarrier_wait(&barrier, 1);  // the phase before the first
  __syncthreads();             // that of parity 1 that comes next would look the same
  if (static_cast<int>(threadIdx.x) < arrivals) mbarrier_arrive(&barrier);
  mbarrier_wait(&barrier, 0);
}

__global__ void unmade_barrier_kernel() {
  __shared__ uint64_t barrier;
  barrier = 0;
  mbarrier_arrive(&barrier);
}

void warpgroups() {
  ManagedArray<float4> in(1);
  ManagedArray<float> out(128);
  const auto run = [&](Bug bug, unsigned threads = 128) {
    launch(warpgroup_kernel, 1, threads, 4 * 1024, nullptr, in.data(), out.data(), bug);
  };
  run(Bug::kNone);
  require(out[77] == 0, "a product of zeros");
  expect_error([&] { run(Bug::kNoFence); }, {"without wgmma_fence()"});
  expect_error([&] { run(Bug::kNoFenceOfCopies); }, {"shared memory that thread", "copied there without a fence"});
  run(Bug::kReadEarly);
  require(std::isnan(out[77]), "a product that nobody waited for isn't there");
  expect_error([&] { run(Bug::kNotWaited); }, {"block (0, 0, 0)", "never waited for"});
  expect_error([&] { run(Bug::kOneWarpLess); }, {"differently in the warps of a warpgroup"});
  expect_error([&] { run(Bug::kOddDescriptor); }, {"differs from the other lanes'"});
  expect_error([&] { run(Bug::kOutside); }, {"outside its shared memory"});
  expect_error([&] { run(Bug::kNone, 96); }, {"less than a warpgroup"});

  launch(barrier_kernel, 2, 64, 0, nullptr, 3);
  expect_error([] { launch(barrier_kernel, 1, 64, 0, nullptr, 2); }, {"a barrier whose phase is never completed"});
  expect_error([] { launch(unmade_barrier_kernel, 1, 1, 0, nullptr); }, {"a barrier that was never initialised"});
}

// ---- order ----

__global__ void race_kernel(int* out) {
  __shared__ int last;
  last = static_cast<int>(threadIdx.x);
  __syncthreads();
  if (threadIdx.x == 5) out[0] = last;
}

// Thread 0 waits for what the last thread writes.
__global__ void spin_kernel(volatile int* flag) {
  if (threadIdx.x == 0) {
    while (flag[0] == 0) __nanosleep(100);
    flag[1] = 1;
  } else if (threadIdx.x == blockDim.x - 1) {
    flag[0] = 1;
  }
}

void order() {
  ManagedArray<int> out(1), flags(2);
  launch(race_kernel, 1, 96, 0, nullptr, out.data());
  require(out[0] == 95, "first to last");
  fastsam::emulator::set_order(true);
  launch(race_kernel, 1, 96, 0, nullptr, out.data());
  require(out[0] == 0, "last to first");
  fastsam::emulator::set_order(false);
  launch(spin_kernel, 1, 100, 0, nullptr, flags.data());
  require(flags[1] == 1, "a thread that sleeps lets the others go on");
}

// ---- launches ----

template <typename T, int kSize>
__global__ void fill_kernel(T* out, T value, int64_t count) {
  const int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x;
  if (i < count) out[i] = value + kSize;
}

void launches() {
  ManagedArray<double> out(3);
  // An int for a double and for an int64, as a call would convert them.
  launch(fill_kernel<double, 2>, 1, 32, 0, nullptr, out.data(), 40, 3);
  require(out[0] == 42 && out[2] == 42, "arguments are converted");
  launch(fill_kernel<double, 2>, 0, 32, 0, nullptr, out.data(), 1, 3);
  launch((fill_kernel<double, 2>), dim3(1, 0), 32, 0, nullptr, out.data(), 1, 3);
  require(out[0] == 42, "a grid without blocks does nothing");
  expect_error(
      [&] { launch(fill_kernel<double, 2>, dim3(2, 3), 2048, 16, nullptr, out.data(), 1, 3); },
      {"the CUDA kernel fill_kernel<double, 2> could not be launched: invalid configuration argument (grid 2 x 3 x 1, "
       "block 2048 x 1 x 1, 16 bytes of dynamic shared memory)"});
  expect_error([&] { launch((fill_kernel<double, 3>), dim3(1, 65536), 1, 0, nullptr, out.data(), 1, 3); },
               {"the CUDA kernel fill_kernel<double, 3> could not be launched: invalid configuration"});
  expect_error([&] { launch(fill_kernel<double, 2>, 1, 32, 228 * 1024, nullptr, out.data(), 1, 3); },
               {"fill_kernel<double, 2> could not be launched: invalid argument", "233472 bytes"});
  expect_error([] { check(cudaErrorInvalidValue, "copying"); }, {"copying failed: invalid argument"});

  require(blocks_for(0, 256) == 0 && blocks_for(1, 256) == 1 && blocks_for(257, 256) == 2, "blocks for items");
  require(blocks_for(int64_t{1} << 32, 256) == 1u << 24, "blocks for many items");
  expect_error([] { blocks_for(int64_t{1} << 40, 256); }, {"1099511627776 items would have too many blocks"});
  expect_error([] { blocks_for(-1, 256); }, {"-1 items"});
}

}  // namespace

// ---- stacks ----

__global__ void nothing_kernel() {}

void* map(size_t bytes, int protection) {
  void* memory = mmap(nullptr, bytes, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  require(memory != MAP_FAILED, "memory");
  return memory;
}

// For AddressSanitizer: a larger block gets new stacks, and nothing of the old ones sticks to what lies there next.
void old_stacks() {
  launch(nothing_kernel, 1, 64, 0, nullptr);
  map(size_t{1} << 30, PROT_NONE);  // below the old stacks, or the new ones would be there and further down
  launch(nothing_kernel, 1, 1024, 0, nullptr);
  constexpr size_t kBytes = size_t{1} << 20;
  for (int i = 0; i < 64; ++i) std::memset(map(kBytes, PROT_READ | PROT_WRITE), i, kBytes);
}

int main() {
  old_stacks();  // first, while the stacks are few
  stuck_threads();
  shared_memory();
  warpgroups();
  order();
  launches();
  stuck_threads();  // again: an error leaves nothing behind
  std::printf("cuda emulator: ok\n");
  return 0;
}
