// A tile of sums over a panel: a few pixels times a few registers of channels, whose sums stay in registers while all
// taps and groups pass. Included by one file per instruction set and compiled with that file's flags, so all of it is
// in an anonymous namespace and calls nothing that another file might share.
#pragma once

#include "row_tiles.h"

namespace bitlens {
namespace {

struct PanelTile {
    static constexpr int kBlock = kWord;
    static constexpr int kGroupBytes = 4;                     // of one pixel's codes: 4 bytes, 2 int16 or 1 float
    static constexpr int kPanelBytes = kWord * kGroupBytes;  // of the weights that meet them
};

// One tile of `pixels` pixels from `source` on, kVectors registers of channels. `Dot` says what a register is:
//   Number, Sums            a sum, and a register of kLanes of them
//   Codes, Weights          what broadcast() makes of a pixel's group, and weights() of kLanes channels of the panel
//   kPixels, kVectors       the largest tile whose sums, codes and weights fit in registers
//   sums(), store(), add()  load and store of sums; sum += codes * weights
template <class Dot>
struct DotTile : PanelTile {
    using Number = typename Dot::Number;
    static constexpr int kPixels = Dot::kPixels, kChannels = Dot::kVectors * Dot::kLanes;

    template <int pixels>
    static void run(const Row& row, const char* source, const void* packed, const Number* start, Number* out) {
        const auto* panel = static_cast<const char*>(packed);
        typename Dot::Sums sum[pixels][Dot::kVectors];
        BITLENS_UNROLL
        for (int p = 0; p < pixels; ++p) {
            BITLENS_UNROLL
            for (int v = 0; v < Dot::kVectors; ++v) sum[p][v] = Dot::sums(start + v * Dot::kLanes);
        }
        for (int y = 0; y < row.taps_high; ++y)
            for (int x = 0; x < row.taps_wide; ++x) {
                const char* tap = source + y * row.row_pitch + x * row.tap_step;
                int groups = row.groups;
                do {
                    typename Dot::Weights weights[Dot::kVectors];
                    BITLENS_UNROLL
                    for (int v = 0; v < Dot::kVectors; ++v)
                        weights[v] = Dot::weights(panel + v * Dot::kLanes * kGroupBytes);
                    BITLENS_UNROLL
                    for (int p = 0; p < pixels; ++p) {
                        const typename Dot::Codes codes = Dot::broadcast(tap + p * row.pixel_step);
                        BITLENS_UNROLL
                        for (int v = 0; v < Dot::kVectors; ++v) Dot::add(sum[p][v], codes, weights[v]);
                    }
                    tap += kGroupBytes;
                    panel += kPanelBytes;
                } while (--groups);
            }
        BITLENS_UNROLL
        for (int p = 0; p < pixels; ++p) {
            BITLENS_UNROLL
            for (int v = 0; v < Dot::kVectors; ++v) Dot::store(out + p * kWord + v * Dot::kLanes, sum[p][v]);
        }
    }
};

// A whole row, as many channels at a time as a tile has.
template <class Tile, class Number>
void run_channels(const Row& row, const void* packed, const Number* start, Number* sums) {
    for (int channel = 0; channel < kWord; channel += Tile::kChannels)
        run_tiles<Tile>(row, static_cast<const char*>(packed) + channel * Tile::kGroupBytes, start + channel,
                        sums + channel);
}

}  // namespace
}  // namespace bitlens
