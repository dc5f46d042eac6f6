// int16 codes times int16 weights.
#include <cstring>

#include "sum_kernels.h"

namespace bitlens {
namespace {

void run(const Row& row, const void* packed, const std::int32_t* start, std::int32_t* sums) {
    const auto* pixel = static_cast<const char*>(row.source);
    for (int p = 0; p < row.pixels; ++p, pixel += row.pixel_step, sums += kWord) {
        std::uint32_t total[kWord];
        for (int channel = 0; channel < kWord; ++channel) total[channel] = static_cast<std::uint32_t>(start[channel]);
        const auto* weights = static_cast<const std::int16_t*>(packed);
        for (int y = 0; y < row.taps_high; ++y)
            for (int x = 0; x < row.taps_wide; ++x) {
                const char* tap = pixel + y * row.row_pitch + x * row.tap_step;
                for (int group = 0; group < row.groups; ++group, weights += 2 * kWord, tap += 4) {
                    std::int16_t pair[2];
                    std::memcpy(pair, tap, sizeof pair);
                    for (int channel = 0; channel < kWord; ++channel)
                        for (int k = 0; k < 2; ++k)
                            total[channel] += static_cast<std::uint32_t>(pair[k] * weights[2 * channel + k]);
                }
            }
        for (int channel = 0; channel < kWord; ++channel) sums[channel] = static_cast<std::int32_t>(total[channel]);
    }
}

bool runs_on(const Cpu&) { return true; }

}  // namespace

const SumKernel conv2d_i16__scalar{"conv2d_i16", "scalar", runs_on, kWord, 0, 0, run, nullptr, nullptr, nullptr};

}  // namespace bitlens
