// The definition of integer sums over a panel: groups of 4 bytes of codes, products in int32 modulo 2^32.
#pragma once

#include <cstring>

#include "kernel.h"

namespace bitlens {
namespace {

template <class Code, class Weight>
void panel_sums(const Row& row, const void* packed, const std::int32_t* start, std::int32_t* sums) {
    constexpr int kPerGroup = 4 / sizeof(Code);
    const auto* pixel = static_cast<const char*>(row.source);
    for (int p = 0; p < row.pixels; ++p, pixel += row.pixel_step, sums += kWord) {
        std::uint32_t total[kWord];
        for (int channel = 0; channel < kWord; ++channel) total[channel] = static_cast<std::uint32_t>(start[channel]);
        const auto* weights = static_cast<const Weight*>(packed);
        for (int y = 0; y < row.taps_high; ++y)
            for (int x = 0; x < row.taps_wide; ++x) {
                const char* tap = pixel + y * row.row_pitch + x * row.tap_step;
                for (int group = 0; group < row.groups; ++group, weights += kPerGroup * kWord, tap += 4) {
                    Code codes[kPerGroup];
                    std::memcpy(codes, tap, sizeof codes);
                    for (int channel = 0; channel < kWord; ++channel)
                        for (int k = 0; k < kPerGroup; ++k)
                            total[channel] += static_cast<std::uint32_t>(codes[k] * weights[kPerGroup * channel + k]);
                }
            }
        for (int channel = 0; channel < kWord; ++channel) sums[channel] = static_cast<std::int32_t>(total[channel]);
    }
}

}  // namespace
}  // namespace bitlens
