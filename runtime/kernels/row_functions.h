// What is done to one row of sums, 32 channels at a time. One table of these functions per instruction set.
//
// Steps are counted in elements of the array they belong to, from one pixel to the next. Sums have `sums_step` >= 32;
// `channels` (a multiple of 16 for floats, of 4 for codes, at most 32) says how many are written.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cpu.h"

namespace bitlens {

// place = float(value) * slope + intercept, each rounded once, rises with the (turned) value. A value passes threshold i
// where place - i >= passes and fails it where place - i <= fails, both at most 0.25 from 0; between them it may do either.
struct QuantizerLine {
    float slope[32], intercept[32];
    float passes, fails;
};

// Thresholds of 32 channels. A code's number is how many thresholds the sum passes. A channel whose comparison turns
// round is negated on both sides, so every comparison is `threshold <= turned sum`. Channels that do not exist have
// thresholds that nothing passes and an empty mask.
template <class T>
struct Quantizer {
    int levels;                // thresholds per channel, 1..255
    const std::int32_t* turn;  // [32] 0, or -1 where the sum is negated
    const T* thresholds;       // [levels][32], negated where turned, ascending
    const T* mask_low;         // [32], box of the straight-through mask, turned; null for no mask
    const T* mask_high;
    const QuantizerLine* line;  // null where the thresholds lie near none, or are few
};

template <class T>
struct ThresholdFunctions {
    // One threshold: a word of bits per pixel.
    void (*bits)(const T* sums, std::ptrdiff_t sums_step, int pixels, const Quantizer<T>& quantizer, std::uint32_t* words,
                 std::ptrdiff_t words_step, std::uint32_t* mask, std::ptrdiff_t mask_step);
    // Three thresholds: the two bit planes of a code, side by side.
    void (*planes)(const T* sums, std::ptrdiff_t sums_step, int pixels, const Quantizer<T>& quantizer,
                   std::uint32_t* words, std::ptrdiff_t words_step, std::uint32_t* mask, std::ptrdiff_t mask_step);
    // Any number: bytes of code_step * how many are passed.
    void (*codes)(const T* sums, std::ptrdiff_t sums_step, int pixels, const Quantizer<T>& quantizer, int code_step,
                  int channels, std::uint8_t* codes, std::ptrdiff_t codes_step, std::uint32_t* mask,
                  std::ptrdiff_t mask_step);
};

struct RowFunctions {
    const char* isa;
    bool (*runs_on)(const Cpu&);
    ThresholdFunctions<std::int32_t> threshold_i32;
    ThresholdFunctions<float> threshold_f32;
    // Largest of kernel_high x kernel_wide sums (smallest where `turn` is -1), the first in row-major order where equal;
    // `index` (may be null): which of them, y * kernel_wide + x.
    void (*max_pool_i32)(const std::int32_t* sums, std::ptrdiff_t sums_step, std::ptrdiff_t row_step, int kernel_high,
                         int kernel_wide, int stride_wide, int pixels, const std::int32_t* turn, std::int32_t* pooled,
                         std::uint8_t* index, std::ptrdiff_t index_step);
    // float(sum) * slope, + offset, + addend (may be null): each rounded once.
    void (*affine)(const std::int32_t* sums, std::ptrdiff_t sums_step, int pixels, const float* slope,
                   const float* offset, const float* addend, std::ptrdiff_t addend_step, int channels, float* out,
                   std::ptrdiff_t out_step);
    // The same of float sums.
    void (*affine_f32)(const float* sums, std::ptrdiff_t sums_step, int pixels, const float* slope, const float* offset,
                       const float* addend, std::ptrdiff_t addend_step, int channels, float* out,
                       std::ptrdiff_t out_step);
    // Straight-through gradient: bit of mask ? max(gradient, floor) * gain : 0.
    void (*ste_gradient)(const float* gradient, std::ptrdiff_t gradient_step, int pixels, const std::uint32_t* mask,
                         std::ptrdiff_t mask_step, float floor, const float* gain, int channels, float* out,
                         std::ptrdiff_t out_step);
    // Contiguous floats.
    void (*add)(const float* left, const float* right, std::size_t count, float* out);
    float (*largest_magnitude)(const float* values, std::size_t count);
    // Bytes of round-half-to-even(value * inverse_scale) + 128, clipped to 1..255.
    void (*quantize)(const float* values, std::size_t count, float inverse_scale, std::uint8_t* out);
};

}  // namespace bitlens
