// wgmma and mbarriers for the emulator (see wgmma.h for the rules that it enforces). Products are queued when issued,
// and carried out when their group is waited for.
#include "common/emulator/wgmma.h"

#include <array>
#include <deque>
#include <limits>
#include <map>
#include <string>
#include <vector>

#include "common/emulator/races.h"
#include "common/emulator/warp.h"
#include "common/emulator/wgmma_hooks.h"

namespace fastsam::emulator {
namespace {

// The address at which dynamic shared memory begins in the window. On sm_90 the first 1024 bytes are reserved; beyond
// that only an alignment of 128 bytes is guaranteed, so this value is a multiple of 128 and of no larger power of two.
constexpr uint32_t kWindowBegin = 1024 + 384;
constexpr uint32_t kAllLanes = 0xffffffffu;
constexpr size_t kVectorBytes = 16;  // bytes that stay contiguous under every swizzle

// An accumulator that outstanding products add to: one register array per lane.
struct Accumulator {
  std::array<float*, 32> registers;
  std::vector<std::array<float, 32>> values;  // the true values, while the registers hold NaN
  int products = 0;                           // number of outstanding products
};

struct Product {
  std::array<std::array<uint32_t, 4>, 32> a;
  float* d;  // accumulator registers of lane 0, which identify the accumulator
  int columns;
  uint64_t b;
  bool mn_major;
  float (*to_float)(uint16_t);
};

struct Warp {
  bool fenced = false;
  std::vector<Product> uncommitted;
  std::deque<std::vector<Product>> committed;
  std::map<float*, Accumulator> accumulators;  // keyed by lane 0's registers
  uint64_t issue_hash = 0;                     // hash of all products, to compare the warps of a warpgroup
};

std::vector<Warp> warps;
// For each 16 bytes of dynamic shared memory: 1 + the thread that filled them by cp.async and has not called
// fence_proxy_async() since, or 0.
std::vector<unsigned> unfenced;
std::vector<std::vector<size_t>> unfenced_by_thread;  // per thread, the indices in `unfenced` that it has set

Warp& current_warp() { return warps[linear_thread() / 32]; }

size_t bits(uint64_t value, int first, int count) { return value >> first & ((uint64_t{1} << count) - 1); }

// Visit the factor B (depth 16 x columns) that a descriptor describes in shared memory. From the manual's table
// "Canonical Layouts", in 16-bit elements, so that T, the number of elements in 128 bits, is 8:
//
//   K-major   none     ((8,m),(T,2k)):((1T,SBO),(1,LBO))      MN-major  none     ((T,1,m),(8,k)):((1,T,SBO),(1T,LBO))
//             32 B     ((8,m),(T,2k)):((2T,SBO),(1,T))                  32 B     ((T,2,m),(8,k)):((1,T,LBO),(2T,SBO))
//             64 B     ((8,m),(T,2k)):((4T,SBO),(1,T))                  64 B     ((T,4,m),(8,k)):((1,T,LBO),(4T,SBO))
//             128 B    ((8,m),(T,2k)):((8T,SBO),(1,T))                  128 B    ((T,8,m),(8,k)):((1,T,LBO),(8T,SBO))
//
// and the address is permuted by Swizzle<0, 4, 3>, <1, 4, 3>, <2, 4, 3> or <3, 4, 3>: the first number of bits, from
// bit 4 on, are XORed with those three positions above.
//
// Calls visit(address, k, n) for each vector of 8 elements. (k, n) is the position of its first element; the others
// follow in k or, with `mn_major`, in n.
template <typename Visit>
void for_each_vector(const Product& product, Visit visit) {
  const size_t start = bits(product.b, 0, 14) << 4, leading = bits(product.b, 16, 14) << 4;
  const size_t stride = bits(product.b, 32, 14) << 4, swizzle_mode = bits(product.b, 62, 2);
  if (bits(product.b, 49, 3) != 0) fail("calls wgmma with a base offset, which the emulator does not support");
  if (bits(product.b, 14, 2) != 0 || bits(product.b, 30, 2) != 0 || bits(product.b, 46, 3) != 0 ||
      bits(product.b, 52, 10) != 0) {
    fail("calls wgmma with a descriptor whose unused bits are set");
  }
  const size_t vectors = swizzle_mode == 0   ? 1
                         : swizzle_mode == 1 ? 8
                         : swizzle_mode == 2 ? 4
                                             : 2;  // 16-byte vectors per swizzled row
  const size_t mask = (vectors - 1) << 4;
  const auto* const memory = static_cast<const char*>(dynamic_shared());
  for (size_t k = 0; k < 16; k += product.mn_major ? 1 : 8) {
    for (size_t n = 0; n < static_cast<size_t>(product.columns); n += product.mn_major ? 8 : 1) {
      size_t offset = 0;
      if (product.mn_major) {
        const size_t vector = n / 8;
        offset = k % 8 * vectors * 16;
        offset += swizzle_mode == 0 ? vector * stride + k / 8 * leading
                                    : vector % vectors * 16 + vector / vectors * leading + k / 8 * stride;
      } else {
        offset = n % 8 * vectors * 16 + n / 8 * stride;
        offset += swizzle_mode == 0 ? k / 8 * leading : k / 8 * 16;
      }
      const size_t unswizzled = start + offset, address = unswizzled ^ (unswizzled >> 3 & mask);
      const size_t at = address - kWindowBegin;
      if (address < kWindowBegin || !is_shared(memory + at, kVectorBytes)) {
        fail("calls wgmma on an address outside its shared memory");
      }
      if (at / kVectorBytes < unfenced.size() && unfenced[at / kVectorBytes] != 0) {
        fail("calls wgmma on shared memory that thread " + std::to_string(unfenced[at / kVectorBytes] - 1) +
             " copied there without a fence since");
      }
      visit(memory + at, k, n);
    }
  }
}

void load_b(const Product& product, std::vector<float>& out) {
  const auto columns = static_cast<size_t>(product.columns);
  const size_t step = product.mn_major ? 1 : columns;
  out.resize(16 * columns);
  for_each_vector(product, [&](const char* at, size_t k, size_t n) {
    uint16_t elements[8];
    static_assert(sizeof(elements) == kVectorBytes);
    std::memcpy(elements, at, kVectorBytes);
    for (size_t i = 0; i < 8; ++i) out[k * columns + n + i * step] = product.to_float(elements[i]);
    races::end_product_read(at, kVectorBytes, linear_thread());
  });
}

// Carry out one warp's 16 rows of a product. A lane's 4 registers of A hold row lane / 4 (plus 8 in the second and the
// fourth), columns lane % 4 * 2 and the next (plus 8 in the third and the fourth), as in figure 148. A lane's values
// 4 i to 4 i + 3 of D hold columns 8 i + lane % 4 * 2 and the next, first of row lane / 4, then of the row 8 below, as
// in figure 149.
void multiply(Warp& warp, const Product& product) {
  std::vector<float> b;  // (16, columns)
  load_b(product, b);
  float a[16][16];
  for (size_t lane = 0; lane < 32; ++lane) {
    for (size_t i = 0; i < 8; ++i) {
      const auto half = static_cast<uint16_t>(product.a[lane][i / 2] >> (i % 2 * 16));
      a[lane / 4 + i / 2 % 2 * 8][lane % 4 * 2 + i % 2 + i / 4 * 8] = product.to_float(half);
    }
  }
  Accumulator& accumulator = warp.accumulators.at(product.d);
  const auto columns = static_cast<size_t>(product.columns);
  std::vector<float> sums(columns);
  for (size_t row = 0; row < 16; ++row) {
    const auto element = [&](size_t column) -> float& {
      return accumulator.values[column / 8 * 4 + row / 8 * 2 + column % 2][row % 8 * 4 + column % 8 / 2];
    };
    for (size_t n = 0; n < columns; ++n) sums[n] = element(n);
    for (size_t k = 0; k < 16; ++k) {
      for (size_t n = 0; n < columns; ++n) sums[n] += a[row][k] * b[k * columns + n];
    }
    for (size_t n = 0; n < columns; ++n) element(n) = sums[n];
  }
  if (--accumulator.products > 0) return;
  for (size_t i = 0; i < accumulator.values.size(); ++i) {
    for (size_t lane = 0; lane < 32; ++lane) accumulator.registers[lane][i] = accumulator.values[i][lane];
  }
  warp.accumulators.erase(product.d);
}

void require_warp(const Lanes& lanes) {
  if (lanes.present != kAllLanes) fail("calls wgmma without all 32 lanes of its warp");
}

void issue(const Lanes& lanes) {
  require_warp(lanes);
  Warp& warp = current_warp();
  if (!warp.fenced) fail("calls wgmma without wgmma_fence() since registers were last waited for");
  const auto& first = *static_cast<WarpgroupProduct*>(lanes.operands[0]);
  Product product{{}, first.d, first.columns, first.b, first.mn_major, first.to_float};
  Accumulator& accumulator = warp.accumulators[first.d];
  const bool is_accumulating = accumulator.products++ > 0;
  accumulator.values.resize(static_cast<size_t>(first.columns) / 2);
  for_each_lane<WarpgroupProduct>(lanes, [&](int at, WarpgroupProduct& lane_operands) {
    const auto lane = static_cast<size_t>(at);
    if (lane_operands.b != first.b) fail("calls wgmma with a descriptor that differs from the other lanes'");
    for (size_t i = 0; i < 4; ++i) product.a[lane][i] = lane_operands.a[i];
    if (is_accumulating) return;
    accumulator.registers[lane] = lane_operands.d;
    for (size_t i = 0; i < accumulator.values.size(); ++i) {
      accumulator.values[i][lane] = lane_operands.d[i];
      lane_operands.d[i] = std::numeric_limits<float>::quiet_NaN();
    }
  });
  warp.issue_hash = (warp.issue_hash ^ first.b ^ static_cast<uint64_t>(first.columns) << 20) * 0x9e3779b97f4a7c15u + 1;
  for_each_vector(product,
                  [](const char* at, size_t, size_t) { races::begin_product_read(at, kVectorBytes, linear_thread()); });
  warp.uncommitted.push_back(product);
}

}  // namespace

void begin_wgmma_block() {
  const size_t threads = size_t{block_size().x} * block_size().y * block_size().z;
  warps.assign((threads + 31) / 32, Warp());
  unfenced.clear();
  unfenced_by_thread.assign(threads, {});
}

std::string end_wgmma_block() {
  for (size_t i = 0; i < warps.size(); ++i) {
    if (!warps[i].uncommitted.empty() || !warps[i].committed.empty())
      return "ended with wgmma products that were never waited for";
    if (i / 4 * 4 + 3 >= warps.size() && warps[i].issue_hash != 0) return "called wgmma with less than a warpgroup";
    if (warps[i].issue_hash != warps[i / 4 * 4].issue_hash)
      return "called wgmma differently in the warps of a warpgroup";
  }
  return "";
}

void on_copy_arrival(const void* to, size_t bytes) {
  const auto* const memory = static_cast<const char*>(dynamic_shared());
  const auto* const at = static_cast<const char*>(to);
  if (at < memory || !is_shared(to, bytes)) return;
  const size_t first = static_cast<size_t>(at - memory) / 16,
               end = (static_cast<size_t>(at - memory) + bytes + 15) / 16;
  if (unfenced.size() < end) unfenced.resize(end);
  const unsigned thread = linear_thread();
  for (size_t i = first; i < end; ++i) {
    unfenced[i] = thread + 1;
    unfenced_by_thread[thread].push_back(i);
  }
}

void clear_unfenced() {
  const unsigned thread = linear_thread();
  for (const size_t i : unfenced_by_thread[thread]) {
    if (unfenced[i] == thread + 1) unfenced[i] = 0;
  }
  unfenced_by_thread[thread].clear();
}

void issue_product(WarpgroupProduct& operands) { sync_warp("wgmma.mma_async", kAllLanes, &operands, &issue); }

void fence_products() {
  int unused = 0;
  sync_warp("wgmma.fence", kAllLanes, &unused, [](const Lanes& lanes) {
    require_warp(lanes);
    current_warp().fenced = true;
  });
}

void commit_products() {
  int unused = 0;
  sync_warp("wgmma.commit_group", kAllLanes, &unused, [](const Lanes& lanes) {
    require_warp(lanes);
    Warp& warp = current_warp();
    warp.committed.push_back(std::move(warp.uncommitted));
    warp.uncommitted.clear();
  });
}

void wait_products(int pending) {
  sync_warp("wgmma.wait_group", kAllLanes, &pending, [](const Lanes& lanes) {
    require_warp(lanes);
    Warp& warp = current_warp();
    const auto pending = static_cast<size_t>(*static_cast<int*>(lanes.operands[0]));
    for (; warp.committed.size() > pending; warp.committed.pop_front()) {
      for (const Product& product : warp.committed.front()) multiply(warp, product);
    }
    races::end_products(linear_thread() / 32);
    warp.fenced = false;
  });
}

uint32_t shared_window_address(const void* pointer) {
  if (!is_shared(pointer, 1)) fail("asks for the shared address of a pointer outside its shared memory");
  return kWindowBegin + static_cast<uint32_t>(static_cast<const char*>(pointer) - static_cast<char*>(dynamic_shared()));
}

// A barrier in memory is 64 bits: the phase number from bit 40 on, the number of arrivals that complete a phase in bits
// 20 to 39, and the number still missing in bits 0 to 19.
namespace {

constexpr uint64_t kCountMask = (uint64_t{1} << 20) - 1;

void require_barrier(const uint64_t* barrier) {
  if (!is_shared(barrier, sizeof(*barrier)) || reinterpret_cast<uintptr_t>(barrier) % 8 != 0) {
    fail("uses a barrier that is not in its shared memory, at a multiple of 8 bytes");
  }
}

}  // namespace

void mbarrier_init(uint64_t* barrier, uint32_t count) {
  require_barrier(barrier);
  if (count == 0 || count > kCountMask) fail("initialises a barrier for " + std::to_string(count) + " arrivals");
  *barrier = uint64_t{count} << 20 | count;
}

void mbarrier_arrive(uint64_t* barrier) {
  require_barrier(barrier);
  const uint64_t pending = *barrier & kCountMask, count = *barrier >> 20 & kCountMask;
  if (count == 0 || pending == 0 || pending > count) fail("arrives at a barrier that was never initialised");
  races::arrive(barrier, (*barrier >> 40 & 1) != 0, linear_thread());
  *barrier = pending > 1 ? *barrier - 1 : ((*barrier >> 40) + 1) << 40 | count << 20 | count;
}

void mbarrier_wait(uint64_t* barrier, uint32_t parity) {
  require_barrier(barrier);
  // Let the other threads run; after this many turns the block counts as deadlocked.
  for (int turns = 100000; (*barrier >> 40 & 1) == parity; --turns) {
    if (turns == 0) fail("waits at a barrier whose phase is never completed");
    yield();
  }
  races::wait(barrier, parity != 0, linear_thread());
}

}  // namespace fastsam::emulator
