// A row of sums by tiles: a few pixels times a few registers of channels, whose sums stay in registers while every tap
// and group passes. Included by one file per instruction set and compiled with that file's flags, so all of it is in an
// anonymous namespace and calls nothing that another file might share.
#pragma once

#include "kernel.h"
#include "unroll.h"

namespace bitlens {
namespace {

constexpr int kGroupBytes = 4;                     // of one pixel's codes: 4 bytes, 2 int16 or 1 float
constexpr int kPanelBytes = kWord * kGroupBytes;  // of the weights that meet them

// The same row with as few taps as it can have: taps that lie side by side are one tap of more groups.
inline Row merged(const Row& row) {
    Row one = row;
    if (row.taps_wide > 1 && row.tap_step == std::ptrdiff_t(row.groups) * kGroupBytes) {
        one.groups *= row.taps_wide;
        one.taps_wide = 1;
    }
    return one;
}

// One tile of `pixels` pixels from `source` on, kVectors registers of channels. `Dot` says what a register is:
//   Number, Sums            a sum, and a register of kLanes of them
//   Codes, Weights          what broadcast() makes of a pixel's group, and weights() of kLanes channels of the panel
//   kPixels, kVectors       the largest tile whose sums, codes and weights fit in registers
//   sums(), store(), add()  load and store of sums; sum += codes * weights
template <class Dot>
struct DotTile {
    using Number = typename Dot::Number;
    static constexpr int kPixels = Dot::kPixels;
    static constexpr int kChannels = Dot::kVectors * Dot::kLanes;

    template <int pixels>
    static void run(const Row& row, const char* source, const char* panel, const Number* start, Number* out) {
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

template <class Tile, int pixels = Tile::kPixels>
void run_tile(int count, const Row& row, const char* source, const char* panel, const typename Tile::Number* start,
              typename Tile::Number* out) {
    if constexpr (pixels > 1)
        if (count < pixels) return run_tile<Tile, pixels - 1>(count, row, source, panel, start, out);
    Tile::template run<pixels>(row, source, panel, start, out);
}

// A whole row, in tiles of nearly equal size: 9 pixels are 5 and 4, not 8 and a slow 1.
template <class Tile>
void run_tiles(const Row& given, const void* packed, const typename Tile::Number* start,
               typename Tile::Number* sums) {
    const Row row = merged(given);
    for (int channel = 0; channel < kWord; channel += Tile::kChannels) {
        const auto* source = static_cast<const char*>(row.source);
        const char* panel = static_cast<const char*>(packed) + channel * kGroupBytes;
        auto* out = sums + channel;
        int left = row.pixels;
        for (int tiles = (left + Tile::kPixels - 1) / Tile::kPixels; tiles > 0; --tiles) {
            const int count = (left + tiles - 1) / tiles;
            run_tile<Tile>(count, row, source, panel, start + channel, out);
            source += count * row.pixel_step;
            out += count * kWord;
            left -= count;
        }
    }
}

}  // namespace
}  // namespace bitlens
