// Binary weights and activations, 64-bit popcount or its portable form. Packed: [tap][group][32 channels] of uint32.
#include <cstring>

#include "sum_kernels.h"
#include "word_packing.h"

namespace bitlens {
namespace {

void run(const Row& row, const void* packed, const std::int32_t* start, std::int32_t* sums) {
    const auto* pixel = static_cast<const char*>(row.source);
    for (int p = 0; p < row.pixels; ++p, pixel += row.pixel_step, sums += kWord) {
        std::int32_t differing[kWord] = {};
        const auto* weights = static_cast<const std::uint32_t*>(packed);
        for (int y = 0; y < row.taps_high; ++y)
            for (int x = 0; x < row.taps_wide; ++x) {
                const char* tap = pixel + y * row.row_pitch + x * row.tap_step;
                for (int group = 0; group < row.groups; ++group, weights += kWord) {
                    std::uint32_t word;
                    std::memcpy(&word, tap + group * sizeof word, sizeof word);
                    for (int channel = 0; channel < kWord; ++channel)
                        differing[channel] += __builtin_popcount(word ^ weights[channel]);
                }
            }
        for (int channel = 0; channel < kWord; ++channel) sums[channel] = start[channel] - 2 * differing[channel];
    }
}

bool runs_on(const Cpu&) { return true; }

}  // namespace

const SumKernel conv2d_w1a1__scalar{
    "conv2d_w1a1", "scalar", runs_on, kWord, 0, 0, run, nullptr, binary_bytes, pack_binary};

}  // namespace bitlens
