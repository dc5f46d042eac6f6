// Packed weights of bit families whose lanes are 32-bit words, a channel a lane. Compiled once, for the baseline.
#pragma once

#include <cstddef>

namespace bitlens {

// conv2d_w1a1: [tap][group][32 channels] of uint32.
std::size_t binary_bytes(int taps, int groups);
void pack_binary(const void* canonical, int taps, int groups, void* packed);

// conv2d_w2a2: [tap][group][+1, -1][32 channels] of uint32.
std::size_t ternary_bytes(int taps, int groups);
void pack_ternary(const void* canonical, int taps, int groups, void* packed);

// conv2d_w2a2 by one popcount per bit of a code: before all that, [32 channels] of int32, 3 * how many weights are -1.
std::size_t counted_ternary_bytes(int taps, int groups);
void pack_counted_ternary(const void* canonical, int taps, int groups, void* packed);

}  // namespace bitlens
