// Multiplying 1 to 16 rows with one or two 4-bit weights, which are read once, as they are stored.
//
// Shapes: M rows of the input, N outputs, K inputs; a block is 64 inputs with one scale, 32 bytes. A tile is 16 rows of
// the weight, and an item of work is a tile's next two blocks, 64 bytes of each of its rows, which a warp multiplies.
//
// - Decoding. A table holds for each of the 256 bytes its two weights in bf16. It is there once for each of the 32 banks
//   of shared memory, so that the 32 lanes of a warp look up 32 different bytes at once.
// - Multiplying. mma.sync m16n8k16: the weight's 16 rows by 8 columns. Of the four lanes that share a row, each reads 16
//   bytes at once, so two of them have one block and two the other one. Lanes whose block is the first one give the
//   input to columns 0 to 3, the others to columns 4 to 7, and zero to the other columns: four rows of the input, and
//   the sums of the two blocks apart. So M rows take GROUPS = M / 4 of these products, rounded up.
// - Scaling. Each lane multiplies its sums by the scales of its own block, in fp32.
// - Dividing the work. A thread block has whole tiles, first those of the first weight, then those of the second one.
//   Its warps divide their items evenly; so a warp has parts of up to SEGMENTS tiles. Parts of one tile meet in shared
//   memory, and are added in the order of the warps: no atomics, and the same result each time.
// - Early start. Everything that does not depend on the kernel before (the table, the first loads of weights) comes
//   before the wait for it.
//
// Compiled with: GROUPS, NESTED (0 or 1), WARPS, BLOCKS_PER_SM, SEGMENTS, STEP (items that are loaded together), FIRST_ITEMS
// (those of a warp that are asked for before the wait).

#include "ptx.cuh"

#define TABLE_BYTES 32768
#define CODES 256
#define TILE 16
#define COLUMNS (4 * GROUPS)

// One layer. packed: [N, K / 2]; absmax: fp32 [N * K / 64], or bytes if NESTED; x: bf16 [M, K]; out: bf16 [M, N].
struct Layer {
    const u8 *packed;
    const void *absmax;
    const float *nested_absmax;
    const float *offset;
    const u16 *x;
    u16 *out;
    u32 num_outputs;
    u32 num_blocks;
};

// Which tiles are whose. The first `more` thread blocks have `each + 1` tiles of the first layer and `few` of the second
// one; the others have `each`, and `many`, of which the first `rest` have one more.
struct Plan {
    u32 each;
    u32 more;
    u32 few;
    u32 many;
    u32 rest;
};

// The tiles of this thread block, and how its warps divide their items.
struct Share {
    u32 first_start, second_start, first_count, second_count, first_items, second_items;

    __device__ u32 split() const { return first_count * first_items; }
    __device__ u32 total() const { return split() + second_count * second_items; }
    __device__ u32 begin(u32 warp) const { return warp * total() / WARPS; }
    // The warp that has an item.
    __device__ u32 owner(u32 item) const { return ((item + 1) * WARPS - 1) / total(); }
    // The first item of a tile; tiles are counted within this thread block.
    __device__ u32 start(u32 tile) const {
        return tile < first_count ? tile * first_items : split() + (tile - first_count) * second_items;
    }
    // The tile that an item belongs to.
    __device__ u32 tile(u32 item) const {
        return item < split() ? item / first_items : first_count + (item - split()) / second_items;
    }
};

__device__ __forceinline__ u32 items_of(const Layer &layer) { return (layer.num_blocks + 1) / 2; }

// Asked for again where it is needed, so that it takes no registers in between.
__device__ __forceinline__ Share share_of(const Layer &first, const Layer &second, const Plan &plan) {
    u32 block = block_number(), behind = block > plan.more ? block - plan.more : 0;
    Share share;
    share.first_start = block * plan.each + min(block, plan.more);
    share.first_count = plan.each + (block < plan.more);
    share.second_start = min(block, plan.more) * plan.few + behind * plan.many + min(behind, plan.rest);
    share.second_count = block < plan.more ? plan.few : plan.many + (behind < plan.rest);
    share.first_items = items_of(first);
    share.second_items = items_of(second);
    return share;
}

// A warp's items: how many of each layer, and from which of the layer's in this thread block.
struct Range {
    u32 first_start, first_from, num_first, second_start, second_from, num_second;
};

__device__ __forceinline__ Range range_of(const Share &share) {
    u32 begin = share.begin(threadIdx.x >> 5), end = share.begin((threadIdx.x >> 5) + 1), split = share.split();
    u32 num_first = min(end, split) - min(begin, split);
    return {share.first_start, begin, num_first, share.second_start, max(begin, split) - split, end - begin - num_first};
}

// What a lane has loaded of an item: 16 bytes of two rows, and what makes the scale of one of them.
struct Loaded {
    uint4 upper;
    uint4 lower;
    u32 code;
    float absmax;
};

// What a lane reads in the next items: of the weight, of its scales, and of the input's rows. In each group, a lane has
// the input of one row, for the columns of its block; for the other columns, and for rows that are none, it reads zeros
// and does not move on.
struct Place {
    const u8 *packed;
    u32 block;
    const u8 *x, *x_last;
    u32 stride, step, step_last;

    __device__ __forceinline__ void enter(const Layer &layer, u32 first_row, u32 item, u32 num_rows) {
        u32 lane = threadIdx.x & 31, group = lane >> 2, quarter = lane & 3, half = quarter >> 1, column = group & 3;
        u32 row = first_row + group;
        packed = layer.packed + (u64)row * layer.num_blocks * 32 + quarter * 16 + item * 64;
        // Of two lanes with the same block, one makes the scale of the upper row and one that of the lower row.
        block = (row + 8 * (quarter & 1)) * layer.num_blocks + half + 2 * item;
        bool is_mine = group >> 2 == half, has_last = is_mine && 4 * (GROUPS - 1) + column < num_rows;
        const u8 *from = (const u8 *)layer.x + (u64)column * layer.num_blocks * 128 + quarter * 64 + item * 256;
        stride = is_mine ? 4 * 128 * layer.num_blocks : 0;
        step = is_mine ? 256 : 0;
        step_last = has_last ? 256 : 0;
        x = is_mine ? from : zeros();
        x_last = has_last ? from + (GROUPS - 1) * stride : zeros();
    }

    __device__ __forceinline__ void next_weights(u32 num) {
        packed += 64 * num;
        block += 2 * num;
    }

    __device__ __forceinline__ void next_input() {
        x += step;
        x_last += step_last;
    }

    // The last of an odd number of blocks: the item begins one block early, and that block gets no input again.
    __device__ __forceinline__ void begin_early() {
        bool is_again = !(threadIdx.x & 2);
        packed -= 32;
        block -= 1;
        x = is_again ? zeros() : x - step / 2;
        x_last = is_again ? zeros() : x_last - step_last / 2;
        stride = is_again ? 0 : stride;
    }

    __device__ __forceinline__ const u8 *input(int group) const {
        return group == GROUPS - 1 ? x_last : x + group * stride;
    }

    // Load the item that comes after `ahead` others.
    __device__ __forceinline__ Loaded load(const Layer &layer, u32 nested_shift, u32 ahead) const {
        Loaded loaded;
        loaded.upper = load_weights(packed + 64 * ahead);
        loaded.lower = load_weights(packed + 64 * ahead + layer.num_blocks * (8 * 32));
        u32 number = block + 2 * ahead;
        if (NESTED) {
            loaded.code = load_byte((const u8 *)layer.absmax + number);
            loaded.absmax = load_float(layer.nested_absmax + (number >> nested_shift));
        } else {
            loaded.absmax = load_float((const float *)layer.absmax + number);
        }
        return loaded;
    }
};

// The two weights of byte `place` of a word, in bf16. `own` is the lane's bank.
__device__ __forceinline__ u32 decoded(const u8 *table, u32 word, u32 place, u32 own) {
    u32 at = place ? word >> (8 * place - 7) : word << 7;
    return *(const u32 *)(table + ((at & 0x7f80) | own));
}

__device__ __forceinline__ u32 word_of(const uint4 &words, int place) {
    return place == 0 ? words.x : place == 1 ? words.y : place == 2 ? words.z : words.w;
}

__device__ __forceinline__ void fill_table(u8 *table, const float *code) {
    u32 lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    float value = load_float(code + (lane & 15));
    // Four entries at a time, each by eight lanes with four copies of it.
    for (u32 start = warp * 4; start < 256; start += WARPS * 4) {
        u32 entry = start + (lane >> 3);
        u32 pair = packed_bf16(shuffled(value, entry >> 4), shuffled(value, entry & 15));
        *(uint4 *)(table + entry * 128 + (lane & 7) * 16) = make_uint4(pair, pair, pair, pair);
    }
}

// Multiply an item, and add the scaled sums to the totals.
__device__ __forceinline__ void multiply(
    float totals[GROUPS][4], const Loaded &loaded, const Place &place, const u8 *table, const float *codes,
    float offset
) {
    u32 lane = threadIdx.x & 31, own = lane * 4;
    float scale = NESTED ? codes[loaded.code] * loaded.absmax + offset : loaded.absmax;
    float other = exchanged(scale, 1);
    float upper_scale = lane & 1 ? other : scale, lower_scale = lane & 1 ? scale : other;
    float sums[GROUPS][4];
#pragma unroll
    for (int group = 0; group < GROUPS; ++group)
        for (int i = 0; i < 4; ++i) sums[group][i] = 0;
#pragma unroll
    for (int word = 0; word < 4; ++word) {
        u32 upper = word_of(loaded.upper, word), lower = word_of(loaded.lower, word);
        uint4 x[GROUPS];
#pragma unroll
        for (int group = 0; group < GROUPS; ++group) x[group] = load_input(place.input(group) + 16 * word);
        u32 a[8];
#pragma unroll
        for (int byte = 0; byte < 4; ++byte) {
            a[2 * byte] = decoded(table, upper, byte, own);
            a[2 * byte + 1] = decoded(table, lower, byte, own);
        }
#pragma unroll
        for (int group = 0; group < GROUPS; ++group) {
            multiply_tile(sums[group], a, x[group].x, x[group].y);
            multiply_tile(sums[group], a + 4, x[group].z, x[group].w);
        }
    }
#pragma unroll
    for (int group = 0; group < GROUPS; ++group) {
        totals[group][0] += upper_scale * sums[group][0];
        totals[group][1] += upper_scale * sums[group][1];
        totals[group][2] += lower_scale * sums[group][2];
        totals[group][3] += lower_scale * sums[group][3];
    }
}

// Add the two blocks' totals, and store a part of a tile: [COLUMNS][TILE].
__device__ __forceinline__ void store_part(float *part, float totals[GROUPS][4]) {
    u32 lane = threadIdx.x & 31, row = lane >> 2, quarter = lane & 3;
#pragma unroll
    for (int group = 0; group < GROUPS; ++group) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            float total = totals[group][i] + exchanged(totals[group][i], 2);
            if (quarter < 2) part[(4 * group + 2 * quarter + (i & 1)) * TILE + row + 8 * (i >> 1)] = total;
            totals[group][i] = 0;
        }
    }
}

// Multiply this warp's items of one layer: `num` from `item`, both counted from the layer's first one in this thread
// block, whose tiles begin at row `first_row`. Returns the place of the next part.
__device__ __forceinline__ float *multiply_items(
    const Layer &layer, u32 first_row, u32 item, u32 num, const u8 *table, const float *codes, float *part,
    u32 num_rows, u32 nested_shift
) {
    float offset = NESTED && num ? load_float(layer.offset) : 0;
    first_row += item / items_of(layer) * TILE;
    item %= items_of(layer);
    while (num) {
        u32 here = min(num, items_of(layer) - item), has_early = layer.num_blocks & (item + here == items_of(layer));
        float totals[GROUPS][4];
#pragma unroll
        for (int group = 0; group < GROUPS; ++group)
            for (int i = 0; i < 4; ++i) totals[group][i] = 0;
        Place place;
        place.enter(layer, first_row, item, num_rows);
        u32 left = here - has_early;
        for (; left >= STEP; left -= STEP) {
            Loaded loaded[STEP];
#pragma unroll
            for (u32 i = 0; i < STEP; ++i) loaded[i] = place.load(layer, nested_shift, i);
#pragma unroll
            for (u32 i = 0; i < STEP; ++i) {
                multiply(totals, loaded[i], place, table, codes, offset);
                place.next_input();
            }
            place.next_weights(STEP);
        }
        for (; left; --left) {
            Loaded loaded = place.load(layer, nested_shift, 0);
            multiply(totals, loaded, place, table, codes, offset);
            place.next_input();
            place.next_weights(1);
        }
        if (has_early) {
            place.begin_early();
            Loaded loaded = place.load(layer, nested_shift, 0);
            multiply(totals, loaded, place, table, codes, offset);
        }
        store_part(part, totals);
        part += COLUMNS * TILE;
        first_row += TILE;
        item = 0;
        num -= here;
    }
    return part;
}

// Add the parts of each tile in the order of the warps, and write the result.
__device__ __forceinline__ void write_sums(
    const float *parts, const Share &share, const Layer &first, const Layer &second, u32 num_rows
) {
    u32 num = (share.first_count + share.second_count) * num_rows * TILE;
    for (u32 i = threadIdx.x; i < num; i += WARPS * 32) {
        u32 row = i % TILE, column = i / TILE % num_rows, tile = i / TILE / num_rows;
        float total = 0;
        u32 last = share.owner(share.start(tile + 1) - 1);
        for (u32 warp = share.owner(share.start(tile)); warp <= last; ++warp) {
            u32 begin = share.begin(warp);
            if (begin == share.begin(warp + 1)) continue;
            u32 segment = tile - share.tile(begin);
            total += parts[((warp * SEGMENTS + segment) * COLUMNS + column) * TILE + row];
        }
        bool is_first = tile < share.first_count;
        u32 output = TILE * (is_first ? share.first_start + tile : share.second_start + tile - share.first_count) + row;
        u16 *out = is_first ? first.out : second.out;
        out[(u64)column * (is_first ? first.num_outputs : second.num_outputs) + output] = rounded(total);
    }
}

// Ask for the first items of this warp: two at a time, each lane for 64 bytes of one row.
__device__ __forceinline__ void ask_for_first_items(const Layer &first, const Layer &second, const Plan &plan) {
    Range range = range_of(share_of(first, second, plan));
    bool is_first = range.num_first > 0;
    const Layer &layer = is_first ? first : second;
    u32 num = is_first ? range.num_first : range.num_second, from = is_first ? range.first_from : range.second_from;
    u32 lane = threadIdx.x & 31, start = is_first ? range.first_start : range.second_start;
#pragma unroll
    for (u32 i = 0; i < FIRST_ITEMS; i += 2) {
        u32 item = from + i + (lane >> 4), tile = item / items_of(layer), place = item - tile * items_of(layer);
        u64 row = TILE * (start + tile) + (lane & 15);
        if (i + (lane >> 4) < num) ask_for(layer.packed + row * layer.num_blocks * 32 + place * 64);
    }
}

// Grid: any number of thread blocks for which the plan gives each at least one tile. Shared memory: the table, the
// codes of nested scales, fp32 [CODES], and the parts, fp32 [WARPS, SEGMENTS, COLUMNS, TILE].
extern "C" __global__ void __launch_bounds__(WARPS * 32, BLOCKS_PER_SM) nf4_rows(
    const __grid_constant__ Layer first, const __grid_constant__ Layer second, const float *code,
    const float *nested_code, u32 num_rows, u32 nested_shift, const __grid_constant__ Plan plan
) {
    extern __shared__ uint4 shared[];
    u8 *table = (u8 *)shared;
    float *codes = (float *)(table + TABLE_BYTES), *parts = codes + CODES;
    ask_for_first_items(first, second, plan);
    let_next_kernel_start();
    fill_table(table, code);
    if (NESTED)
        for (u32 i = threadIdx.x; i < CODES; i += WARPS * 32) codes[i] = load_float(nested_code + i);
    wait_for_kernel_before();
    synchronise();

    float *part = parts + (threadIdx.x >> 5) * SEGMENTS * COLUMNS * TILE;
    Range range = range_of(share_of(first, second, plan));
    part = multiply_items(
        first, range.first_start * TILE, range.first_from, range.num_first, table, codes, part, num_rows, nested_shift
    );
    range = range_of(share_of(first, second, plan));
    multiply_items(
        second, range.second_start * TILE, range.second_from, range.num_second, table, codes, part, num_rows,
        nested_shift
    );
    synchronise();
    write_sums(parts, share_of(first, second, plan), first, second, num_rows);
}
