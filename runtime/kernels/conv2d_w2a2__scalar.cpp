// Ternary weights and 2-bit codes, bit by bit. Packed: [tap][group][+1, -1][32 channels] of uint32.
#include <cstring>

#include "sum_kernels.h"
#include "word_packing.h"

namespace bitlens {
namespace {

void run(const Row& row, const void* packed, const std::int32_t* start, std::int32_t* sums) {
    const auto* pixel = static_cast<const char*>(row.source);
    for (int p = 0; p < row.pixels; ++p, pixel += row.pixel_step, sums += kWord) {
        std::memcpy(sums, start, kWord * sizeof *sums);
        const auto* weights = static_cast<const std::uint32_t*>(packed);
        for (int y = 0; y < row.taps_high; ++y)
            for (int x = 0; x < row.taps_wide; ++x) {
                const char* tap = pixel + y * row.row_pitch + x * row.tap_step;
                for (int group = 0; group < row.groups; ++group, weights += 2 * kWord) {
                    std::uint32_t planes[2];
                    std::memcpy(planes, tap + group * sizeof planes, sizeof planes);
                    for (int channel = 0; channel < kWord; ++channel) {
                        const std::uint32_t positive = weights[channel], negative = weights[kWord + channel];
                        sums[channel] += __builtin_popcount(planes[0] & positive) -
                                         __builtin_popcount(planes[0] & negative) +
                                         2 * (__builtin_popcount(planes[1] & positive) -
                                              __builtin_popcount(planes[1] & negative));
                    }
                }
            }
    }
}

bool runs_on(const Cpu&) { return true; }

}  // namespace

const SumKernel conv2d_w2a2__scalar{
    "conv2d_w2a2", "scalar", runs_on, kWord, 0, 0, run, nullptr, ternary_bytes, pack_ternary};

}  // namespace bitlens
