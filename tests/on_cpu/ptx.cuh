// src/falconer/kernels/ptx.cuh for a CPU: each CUDA thread is a fiber, and all of a warp or of a block meet where they
// would on a GPU. So the kernels' own source runs, with its index arithmetic; only speed and rounding inside a tile of
// the tensor cores are not those of a GPU.

#include <ucontext.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <vector>

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef unsigned long long u64;

#define __device__
#define __global__
#define __forceinline__ inline
#define __shared__
#define __grid_constant__
#define __launch_bounds__(...)

struct alignas(16) uint4 {
    u32 x, y, z, w;
};
inline uint4 make_uint4(u32 x, u32 y, u32 z, u32 w) { return {x, y, z, w}; }
using std::min;
using std::max;

struct Index {
    u32 x;
};
static Index threadIdx, blockIdx;
alignas(65536) uint4 shared[16384];

// What a thread hands to the others of its warp; two, since the fastest may be one meeting ahead of the slowest.
struct Hand {
    float value;
    u32 a[4], b[2];
};

struct Fiber {
    ucontext_t context;
    bool is_done;
    u32 meetings, block_meetings;
    Hand hands[2];
    char stack[65536];
};

static std::vector<Fiber *> fibers;
static ucontext_t scheduler;

inline void give_way() {
    u32 own = threadIdx.x;
    swapcontext(&fibers[own]->context, &scheduler);
    threadIdx.x = own;
}

// Hand something to the warp, and wait until each of its threads has. Returns the warp's first fiber and the hand.
inline std::pair<Fiber **, u32> meet(const Hand &hand) {
    Fiber *self = fibers[threadIdx.x];
    u32 number = self->meetings++;
    self->hands[number & 1] = hand;
    Fiber **warp = &fibers[threadIdx.x & ~31u];
    while (!std::all_of(warp, warp + 32, [&](Fiber *one) { return one->meetings > number; })) give_way();
    return {warp, number & 1};
}

inline float from_bf16(u32 bits) {
    u32 wide = bits << 16;
    float value;
    std::memcpy(&value, &wide, 4);
    return value;
}

inline u16 rounded(float value) {
    u32 bits;
    std::memcpy(&bits, &value, 4);
    return (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
}

inline u32 packed_bf16(float low, float high) { return rounded(low) | (u32)rounded(high) << 16; }

inline uint4 load_weights(const u8 *at) {
    if ((uintptr_t)at % 16) abort();
    return *(const uint4 *)at;
}
inline uint4 load_input(const u8 *at) { return load_weights(at); }
inline void ask_for(const u8 *at) {
    volatile u8 touched = *at;
    (void)touched;
}
inline u32 load_byte(const u8 *at) { return *at; }
inline float load_float(const float *at) { return *at; }

static const uint4 ZEROS[4] = {};
inline const u8 *zeros() { return (const u8 *)ZEROS; }

inline float shuffled(float value, u32 lane) {
    auto [warp, at] = meet({value, {}, {}});
    return warp[lane]->hands[at].value;
}

inline float exchanged(float value, u32 mask) { return shuffled(value, (threadIdx.x & 31) ^ mask); }

inline void multiply_tile(float sums[4], const u32 a[4], u32 b0, u32 b1) {
    auto [warp, at] = meet({0, {a[0], a[1], a[2], a[3]}, {b0, b1}});
    u32 lane = threadIdx.x & 31;
    for (u32 i = 0; i < 4; ++i) {
        u32 row = (lane >> 2) + 8 * (i >> 1), column = 2 * (lane & 3) + (i & 1);
        double sum = sums[i];
        for (u32 k = 0; k < 16; ++k) {
            u32 behind = k >> 3, quarter = (k & 7) >> 1, shift = 16 * (k & 1);
            u32 left = warp[4 * (row & 7) + quarter]->hands[at].a[(row >> 3) + 2 * behind] >> shift & 0xffff;
            u32 right = warp[4 * column + quarter]->hands[at].b[behind] >> shift & 0xffff;
            sum += (double)from_bf16(left) * from_bf16(right);
        }
        sums[i] = (float)sum;
    }
}

inline u32 block_number() { return blockIdx.x; }

inline void synchronise() {
    u32 number = fibers[threadIdx.x]->block_meetings++;
    while (!std::all_of(fibers.begin(), fibers.end(), [&](Fiber *one) { return one->block_meetings > number; }))
        give_way();
}

inline void let_next_kernel_start() {}
inline void wait_for_kernel_before() {}

static void (*body)();

static void run_fiber() {
    body();
    fibers[threadIdx.x]->is_done = true;
    swapcontext(&fibers[threadIdx.x]->context, &scheduler);
}

// Run a grid: its blocks one after the other, the threads of each in turn.
inline void run_grid(u32 num_blocks, u32 num_threads, void (*kernel)()) {
    body = kernel;
    for (blockIdx.x = 0; blockIdx.x < num_blocks; ++blockIdx.x) {
        // Whatever was left there by the block before.
        std::memset(shared, 0x7f, sizeof(shared));
        for (u32 i = 0; i < num_threads; ++i) {
            Fiber *fiber = new Fiber();
            getcontext(&fiber->context);
            fiber->context.uc_stack.ss_sp = fiber->stack;
            fiber->context.uc_stack.ss_size = sizeof(fiber->stack);
            fiber->context.uc_link = nullptr;
            makecontext(&fiber->context, run_fiber, 0);
            fibers.push_back(fiber);
        }
        for (bool is_running = true; is_running;) {
            is_running = false;
            for (u32 i = 0; i < num_threads; ++i) {
                if (fibers[i]->is_done) continue;
                is_running = true;
                threadIdx.x = i;
                swapcontext(&scheduler, &fibers[i]->context);
            }
        }
        for (Fiber *fiber : fibers) delete fiber;
        fibers.clear();
    }
}
