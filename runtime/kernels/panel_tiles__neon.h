// A row of sums from a panel, by tiles of pixels and channels.
// Included by files compiled for NEON only, so all of it is in an anonymous namespace.
#pragma once

#include <arm_neon.h>

#include "row_tiles.h"

namespace bitlens {
namespace {

constexpr int kGroupBytes = 4, kPanelBytes = kWord * kGroupBytes;  // of a pixel's group, and of the weights it meets

// A tile of run_tiles() that Tile::run<pixels, vectors> computes, 4 * vectors channels at a time.
template <class Tile>
struct PanelTiles {
    using Number = typename Tile::Number;
    static constexpr int kPixels = 4, kBlock = kWord, kGroupBytes = bitlens::kGroupBytes;

    template <int pixels>
    static void run(const Row& row, const char* source, const void* packed, const Number* start, Number* sums) {
        // 16 registers of sums: enough to hide latency, and with few pixels the more channels.
        constexpr int vectors = (pixels > 2 ? 4 : 8) / Tile::kRegisters;
        const auto* panel = static_cast<const char*>(packed);
        for (int c = 0; c < kWord; c += 4 * vectors)
            Tile::template run<pixels, vectors>(row, source, panel + c * kGroupBytes, start + c, sums + c);
    }
};

// A tile whose pixels load four groups at once, which registers of weights, of four channels each, meet lane by lane.
// `Dot` says what a register is:
//   Number, Sums           a sum, and kRegisters registers of four channels' sums; sums(), store() load and store them
//   Codes, Weights         four groups of a pixel, and the weights of four channels that meet one group
//   four_groups(), group() load Codes, the latter one group into lane 0
//   weights()              loads Weights
//   add<lane>()            sums += weights * group `lane` of codes
template <class Dot>
struct LaneTile {
    using Number = typename Dot::Number;
    using Sums = typename Dot::Sums;
    using Codes = typename Dot::Codes;
    static constexpr int kRegisters = Dot::kRegisters;

    template <int lane, int pixels, int vectors>
    static void add_group(Sums (&sum)[pixels][vectors], const Codes (&codes)[pixels], const char* panel) {
        typename Dot::Weights next = Dot::weights(panel);
        BITLENS_UNROLL
        for (int v = 0; v < vectors; ++v) {
            const typename Dot::Weights weights = next;
            if (v + 1 < vectors) next = Dot::weights(panel + 16 * (v + 1));
            BITLENS_UNROLL
            for (int p = 0; p < pixels; ++p) Dot::template add<lane>(sum[p][v], weights, codes[p]);
        }
    }

    template <int pixels, int vectors>
    static void run(const Row& row, const char* source, const char* panel, const Number* start, Number* out) {
        Sums sum[pixels][vectors];
        BITLENS_UNROLL
        for (int p = 0; p < pixels; ++p) {
            BITLENS_UNROLL
            for (int v = 0; v < vectors; ++v) sum[p][v] = Dot::sums(start + 4 * v);
        }
        for (int y = 0; y < row.taps_high; ++y)
            for (int x = 0; x < row.taps_wide; ++x) {
                const char* tap = source + y * row.row_pitch + x * row.tap_step;
                Codes codes[pixels];
                int groups = row.groups;
                for (; groups >= 4; groups -= 4, tap += 4 * kGroupBytes, panel += 4 * kPanelBytes) {
                    BITLENS_UNROLL
                    for (int p = 0; p < pixels; ++p) codes[p] = Dot::four_groups(tap + p * row.pixel_step);
                    add_group<0>(sum, codes, panel);
                    add_group<1>(sum, codes, panel + kPanelBytes);
                    add_group<2>(sum, codes, panel + 2 * kPanelBytes);
                    add_group<3>(sum, codes, panel + 3 * kPanelBytes);
                }
                for (; groups > 0; --groups, tap += kGroupBytes, panel += kPanelBytes) {
                    BITLENS_UNROLL
                    for (int p = 0; p < pixels; ++p) codes[p] = Dot::group(tap + p * row.pixel_step);
                    add_group<0>(sum, codes, panel);
                }
            }
        BITLENS_UNROLL
        for (int p = 0; p < pixels; ++p) {
            BITLENS_UNROLL
            for (int v = 0; v < vectors; ++v) Dot::store(out + p * kWord + 4 * v, sum[p][v]);
        }
    }
};

}  // namespace
}  // namespace bitlens
