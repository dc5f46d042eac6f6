// A row cut into tiles of pixels whose sums stay in registers. Included by one file per instruction set and compiled
// with that file's flags, so all of it is in an anonymous namespace.
#pragma once

#include "kernel.h"
#include "unroll.h"

namespace bitlens {
namespace {

// The same row with as few taps as it can have: taps that lie side by side are one tap of more groups.
inline Row merged(const Row& row, int group_bytes) {
    Row one = row;
    if (row.tap_step == std::ptrdiff_t(row.groups) * group_bytes) {
        one.groups *= row.taps_wide;
        one.taps_wide = 1;
    }
    return one;
}

template <class Tile, int pixels, class Number>
void run_tile(int count, const Row& row, const char* source, const void* packed, const Number* start, Number* sums) {
    if constexpr (pixels > 1)
        if (count < pixels) return run_tile<Tile, pixels - 1>(count, row, source, packed, start, sums);
    Tile::template run<pixels>(row, source, packed, start, sums);
}

// Tiles of nearly equal size: 9 pixels are 5 and 4, not 8 and a slow 1. Tile::run<pixels> computes one.
template <class Tile, class Number>
void run_tiles(const Row& given, const void* packed, const Number* start, Number* sums) {
    const Row row = merged(given, Tile::kGroupBytes);
    const auto* source = static_cast<const char*>(row.source);
    int left = row.pixels;
    for (int tiles = (left + Tile::kPixels - 1) / Tile::kPixels; tiles > 0; --tiles) {
        const int count = (left + tiles - 1) / tiles;
        run_tile<Tile, Tile::kPixels>(count, row, source, packed, start, sums);
        source += count * row.pixel_step;
        sums += count * Tile::kBlock;
        left -= count;
    }
}

}  // namespace
}  // namespace bitlens
