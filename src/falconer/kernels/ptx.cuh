// What the hardware does in one instruction and CUDA C++ does not name without a toolkit's headers. Parallel Thread
// Execution ISA, sections 9.7; compute capability 8.0 and later.

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

// Sixteen bytes of a weight: read once, so it takes no room in the first cache.
__device__ __forceinline__ uint4 load_weights(const u8 *at) {
    uint4 v;
    asm volatile("ld.global.nc.L1::no_allocate.L2::128B.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(at));
    return v;
}

// Have memory that will be loaded soon in the second cache.
__device__ __forceinline__ void ask_for(const u8 *at) { asm volatile("prefetch.global.L2 [%0];" ::"l"(at)); }

// Constants that neighbouring warps read as well.
__device__ __forceinline__ u32 load_byte(const u8 *at) {
    u32 v;
    asm volatile("ld.global.nc.u8 %0, [%1];" : "=r"(v) : "l"(at));
    return v;
}

__device__ __forceinline__ float load_float(const float *at) {
    float v;
    asm volatile("ld.global.nc.f32 %0, [%1];" : "=f"(v) : "l"(at));
    return v;
}

// Sixteen bytes of the input. The kernel before has just written it, so it is no constant.
__device__ __forceinline__ uint4 load_input(const u8 *at) {
    uint4 v;
    asm volatile("ld.global.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(at));
    return v;
}

__device__ const uint4 ZEROS[4] = {};

// 64 bytes of zeros in global memory.
__device__ __forceinline__ const u8 *zeros() { return (const u8 *)ZEROS; }

// The value of another lane.
__device__ __forceinline__ float shuffled(float value, u32 lane) { return __shfl_sync(0xffffffffu, value, lane); }

// The value of the lane whose number differs in the bits of `mask`.
__device__ __forceinline__ float exchanged(float value, u32 mask) {
    return __shfl_xor_sync(0xffffffffu, value, mask);
}

// Two numbers in bf16, rounded to nearest even, the first in the low half.
__device__ __forceinline__ u32 packed_bf16(float low, float high) {
    u32 v;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(v) : "f"(high), "f"(low));
    return v;
}

__device__ __forceinline__ u16 rounded(float value) { return (u16)packed_bf16(value, 0); }

// sums [16, 8] += a [16, 16] times b [16, 8], bf16 with sums in fp32. Lane 4 g + t has of a: rows g and g + 8, inputs
// 2 t and 2 t + 1, then the same rows, inputs 2 t + 8 and 2 t + 9; of b: the same inputs of column g; of the sums:
// rows g and g + 8, columns 2 t and 2 t + 1. Figures of mma.m16n8k16, section 9.7.14.5.8.
__device__ __forceinline__ void multiply_tile(float sums[4], const u32 a[4], u32 b0, u32 b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// blockIdx.x, which is asked for again each time and so is not kept in a register.
__device__ __forceinline__ u32 block_number() {
    u32 v;
    asm volatile("mov.u32 %0, %%ctaid.x;" : "=r"(v));
    return v;
}

__device__ __forceinline__ void synchronise() { __syncthreads(); }

// Let the next kernel start what does not depend on this one, where it was launched so; see `wait_for_kernel_before`.
__device__ __forceinline__ void let_next_kernel_start() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// Wait until the kernel before has ended and what it has written can be seen.
__device__ __forceinline__ void wait_for_kernel_before() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
