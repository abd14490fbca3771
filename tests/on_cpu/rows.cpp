// src/falconer/kernels/nf4_rows.cu as a function of a library for the CPU.

#include "nf4_rows.cu"

static Layer first_layer, second_layer;
static const float *a_code, *a_nested_code;
static u32 some_rows, a_shift;
static Plan a_plan;

extern "C" void run_nf4_rows(
    u32 num_blocks, const Layer *first, const Layer *second, const float *code, const float *nested_code, u32 num_rows,
    u32 nested_shift, const Plan *plan
) {
    first_layer = *first, second_layer = *second, a_plan = *plan;
    a_code = code, a_nested_code = nested_code, some_rows = num_rows, a_shift = nested_shift;
    run_grid(num_blocks, WARPS * 32, [] {
        nf4_rows(first_layer, second_layer, a_code, a_nested_code, some_rows, a_shift, a_plan);
    });
}

extern "C" u32 num_threads() { return WARPS * 32; }
