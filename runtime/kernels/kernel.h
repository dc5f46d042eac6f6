// What a kernel is, and the layouts that all of them share.
//
// A convolution is swept one block of output channels at a time, and inside a block one output row at a time. A sum
// kernel computes one such row: for each output pixel the sums of all channels of the block, into a small scratch
// [pixels][block] that stays in L1. What follows the sums (thresholds, straight-through masks, residuals, pools) is done
// by row functions (row_functions.h) on that scratch. So a kernel knows nothing of padding or of what comes next.
//
// Sources are NHWC with a border of explicit codes around each map, so that a kernel never asks where the edge is:
//   conv2d_w1a1   [group] uint32: 32 channels a word, bit 1 for +1, bit 0 for -1; bits beyond the last channel are 0
//   conv2d_w2a2   [group][2] uint32: 32 channels a word, the two bits of a code 0..3, low plane first
//   conv2d_i8     [group][4] uint8: code - lowest code, 0..255; bytes beyond the last channel are 0
//   conv2d_i16    [group][2] int16: codes
//   conv2d_f32    [group] float
#pragma once

#include <cstddef>
#include <cstdint>

#include "cpu.h"

namespace bitlens {

constexpr int kWord = 32;  // channels in a word of bits; every block is a multiple of it

// Where one output row reads, and how many pixels it has. Steps and pitches are in bytes, and multiples of the element.
struct Row {
    const void* source;       // first tap (top left) of the first output pixel
    std::ptrdiff_t row_pitch;   // from one row of taps to the next
    std::ptrdiff_t tap_step;    // from one tap to the one at its right
    std::ptrdiff_t pixel_step;  // from one output pixel's first tap to the next one's: stride * bytes of a pixel
    int taps_high, taps_wide;   // at least 1
    int groups;                 // groups of channels per tap, at least 1
    int pixels;                 // at least 1
};

// sums[pixel][channel] = start[channel] + what the family says. `packed` is 64-byte aligned, made by `pack`.
using SumRowI32 = void (*)(const Row& row, const void* packed, const std::int32_t* start, std::int32_t* sums);
using SumRowF32 = void (*)(const Row& row, const void* packed, const float* start, float* sums);

// The families, what they add to `start`, and the canonical weights that `pack` takes for one block
// (taps = taps_high * taps_wide):
//   conv2d_w1a1   - 2 * popcount(x ^ w); `start` holds the number of products. uint32 [block][taps][groups]
//   conv2d_w2a2   + sum of x * w, x a code 0..3, w in {-1, 0, 1}. uint32 [block][taps][groups][2]: where w is +1, where -1
//   conv2d_i8     + sum of (x - activation_offset) * w, w int8; as a panel [taps][groups][32][4] of int8
//   conv2d_i16    + sum of x * w; as a panel [taps][groups][32][2] of int16
//   conv2d_f32    + sum of x * w; as a panel [taps][groups][32] of float
// All int32 sums are modulo 2^32, so a partial sum may come round and the whole is still exact.
// A panel is not packed by the kernel: it is expanded into scratch from weights that stay packed (expand, below).
struct SumKernel {
    const char* family;
    const char* isa;
    bool (*runs_on)(const Cpu&);
    int block;              // output channels of one call: 32, for bit families perhaps a larger multiple of 32
    int activation_offset;  // conv2d_i8: what the kernel subtracts from a byte (128 where it multiplies signed bytes)
    int largest_product;    // conv2d_i8: a kernel that adds pairs in int16 is exact only where 2 * max x * max|w| <= this; 0: always
    SumRowI32 run;          // null for conv2d_f32
    SumRowF32 run_f32;      // conv2d_f32 alone
    std::size_t (*packed_bytes)(int taps, int groups);                          // bit families: of one block
    void (*pack)(const void* canonical, int taps, int groups, void* packed);  // bit families
};

// Panels from fields: value = low + step * field, fields of 1, 2, 4 or 8 bits, lowest bits first, in panel order.
// `count` is a multiple of 32. With 8 bits the field is the value's own int8 (low 0, step 1).
struct ExpandKernel {
    const char* isa;
    bool (*runs_on)(const Cpu&);
    void (*to_i8)(const std::uint8_t* fields, int bits, int low, int step, std::size_t count, std::int8_t* panel);
    void (*to_f32)(const std::uint8_t* fields, int bits, int low, int step, std::size_t count, float* panel);
};

}  // namespace bitlens
