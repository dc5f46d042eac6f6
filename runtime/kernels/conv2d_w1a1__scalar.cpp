// Binary weights and activations, 64-bit popcount or its portable form. Packed: [tap][group][32 channels] of uint32.
#include <cstring>

#include "sum_kernels.h"

namespace bitlens {
namespace {

std::size_t packed_bytes(int taps, int groups) { return std::size_t(taps) * groups * kWord * sizeof(std::uint32_t); }

void pack(const void* canonical, int taps, int groups, void* packed) {
    const auto* from = static_cast<const std::uint32_t*>(canonical);
    auto* to = static_cast<std::uint32_t*>(packed);
    const std::size_t words = std::size_t(taps) * groups;
    for (int channel = 0; channel < kWord; ++channel)
        for (std::size_t word = 0; word < words; ++word) to[word * kWord + channel] = from[channel * words + word];
}

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

const SumKernel conv2d_w1a1__scalar{"conv2d_w1a1", "scalar", runs_on, kWord, 0, 0, run, nullptr, packed_bytes, pack};

}  // namespace bitlens
