// float times float: a twin's forward pass, and every backward pass.
#include <cstring>

#include "sum_kernels.h"

namespace bitlens {
namespace {

void run(const Row& row, const void* packed, const float* start, float* sums) {
    const auto* pixel = static_cast<const char*>(row.source);
    for (int p = 0; p < row.pixels; ++p, pixel += row.pixel_step, sums += kWord) {
        std::memcpy(sums, start, kWord * sizeof *sums);
        const auto* weights = static_cast<const float*>(packed);
        for (int y = 0; y < row.taps_high; ++y)
            for (int x = 0; x < row.taps_wide; ++x) {
                const char* tap = pixel + y * row.row_pitch + x * row.tap_step;
                for (int group = 0; group < row.groups; ++group, weights += kWord, tap += sizeof(float)) {
                    float value;
                    std::memcpy(&value, tap, sizeof value);
                    for (int channel = 0; channel < kWord; ++channel) sums[channel] += value * weights[channel];
                }
            }
    }
}

bool runs_on(const Cpu&) { return true; }

}  // namespace

const SumKernel conv2d_f32__scalar{"conv2d_f32", "scalar", runs_on, kWord, 0, 0, nullptr, run, nullptr, nullptr};

}  // namespace bitlens
