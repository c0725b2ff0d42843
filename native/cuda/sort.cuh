// A stable radix sort of (key, value) pairs in device memory, linear in their number and the same on every device: it turns
// "row t goes to row ids[t]" into lists of the rows that go to one place, in the order of t.
//
// Per digit, each warp takes a tile of consecutive pairs: it counts its digits; a scan over (digit, tile) makes places of the
// counts; then the warp reads its tile again and puts each pair at the next place of its digit.
#pragma once
#include <utility>

#include "cuda/runtime.h"

namespace hllm::cuda {

struct Pairs {
    int *keys, *values;
};

HLLM_DEVICE int count_bits(unsigned v) {
    v -= v >> 1 & 0x55555555u;
    v = (v & 0x33333333u) + (v >> 2 & 0x33333333u);
    return static_cast<int>(((v + (v >> 4)) & 0x0f0f0f0fu) * 0x01010101u >> 24);
}

constexpr int DIGIT_BITS = 8, DIGITS = 1 << DIGIT_BITS, SORT_CHUNKS = 8, SORT_TILE = 32 * SORT_CHUNKS, SORT_WARPS = 4;

// counts [DIGITS, tiles]: filled, or, to move the pairs, replaced by the first place of each digit of each tile.
template <bool MOVE>
struct SortPass {
    static constexpr int MAX_THREADS = 32 * SORT_WARPS;
    Pairs in, out;
    int* counts;
    int count, tiles, shift;

    HLLM_KERNEL void operator()() const {
        const int tile = block_x() * SORT_WARPS + warp();
        if (tile >= tiles) return;
        const auto next = shared<int>(warp() * DIGITS * 4);
        int keys[SORT_CHUNKS];
        HLLM_UNROLL
        for (int c = 0; c < SORT_CHUNKS; c++) {
            const int at = tile * SORT_TILE + c * 32 + lane();
            keys[c] = at < count ? in.keys[at] : 0;
        }
        for (int d = lane(); d < DIGITS; d += 32) next.store(d, MOVE ? counts[d * tiles + tile] : 0);
        warp_barrier();
        HLLM_UNROLL
        for (int c = 0; c < SORT_CHUNKS; c++) {
            const int at = tile * SORT_TILE + c * 32 + lane(), digit = keys[c] >> shift & (DIGITS - 1);
            unsigned peers = ballot(at < count);  // that become the lanes with the same digit
            HLLM_UNROLL
            for (int bit = 0; bit < DIGIT_BITS; bit++) {
                const bool set = digit >> bit & 1;
                const unsigned alike = ballot(set);
                peers &= set ? alike : ~alike;
            }
            const int before = count_bits(peers & ((1u << lane()) - 1)), place = next.load(digit);
            warp_barrier();
            if (at < count && before == 0) next.store(digit, place + count_bits(peers));
            warp_barrier();
            if (MOVE && at < count) {
                out.keys[place + before] = keys[c];
                out.values[place + before] = in.values[at];
            }
        }
        if (!MOVE)
            for (int d = lane(); d < DIGITS; d += 32) counts[d * tiles + tile] = next.load(d);
    }
};

// counts[i] = sum of counts[0 .. i). One block; a thread takes a run of counts.
struct ExclusiveScan {
    int* counts;
    int n;

    HLLM_KERNEL void operator()() const {
        const int run = (n + threads() - 1) / threads(), begin = thread() * run, end = begin + run < n ? begin + run : n;
        int sum = 0;
        for (int i = begin; i < end; i++) sum += counts[i];
        int up_to = sum;  // this lane, within the warp
        HLLM_UNROLL
        for (int d = 1; d < 32; d *= 2) {
            const int left = shuffle(up_to, (lane() - d) & 31);
            if (lane() >= d) up_to += left;
        }
        const auto totals = shared<int>(0);
        if (lane() == 31) totals.store(warp(), up_to);
        block_barrier();
        int next = up_to - sum;
        for (int w = 0; w < warp(); w++) next += totals.load(w);
        for (int i = begin; i < end; i++) {
            const int count = counts[i];
            counts[i] = next;
            next += count;
        }
    }
};

// By keys of 0 to max_key; equal keys keep their order. The pairs are used up; the result lies in scratch.
inline Pairs sort(Context& context, Pairs pairs, int count, int max_key) {
    const int tiles = (count + SORT_TILE - 1) / SORT_TILE, blocks = (tiles + SORT_WARPS - 1) / SORT_WARPS;
    int* counts = context.scratch.take<int>(int64_t{DIGITS} * tiles);
    Pairs sorted{context.scratch.take<int>(count), context.scratch.take<int>(count)};
    for (int shift = 0; shift < 31 && max_key >> shift > 0; shift += DIGIT_BITS) {
        const auto pass = [&](auto kernel) {
            launch(stream_of(context), {blocks}, 32 * SORT_WARPS, SORT_WARPS * DIGITS * 4, kernel);
        };
        pass(SortPass<false>{pairs, sorted, counts, count, tiles, shift});
        launch(stream_of(context), {1}, 1024, 32 * 4, ExclusiveScan{counts, DIGITS * tiles});
        pass(SortPass<true>{pairs, sorted, counts, count, tiles, shift});
        std::swap(pairs, sorted);
    }
    return pairs;
}

}  // namespace hllm::cuda
