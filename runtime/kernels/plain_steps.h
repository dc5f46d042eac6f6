// Steps in plain loops: what is rare, or small beside the convolutions. Each adds itself to the plan, checked.
#pragma once

#include "plan.h"

namespace bitlens {

// Codes in another form: code = low + step * stored, on both sides; integer forms alone.
void add_convert(Plan& plan, int source, int source_low, int source_step, int target, int target_low, int target_step, int variant);

// Move a map of i32 or f32: target (y, x) = source (y - down, x - right) where that exists; the rest of the target is
// `fill` (integers or the bits of floats, per channel).
void add_move(Plan& plan, int source, int target, int down, int right, std::vector<std::int32_t> fill);

// The same elements of each image in row-major (C, H, W) order; i32 or f32.
void add_reshape(Plan& plan, int source, int target);

// Largest of each window of f32, the first in row-major order; padding never wins. `index` may be -1.
void add_max_pool(Plan& plan, int source, int target, int index, Kernel2d kernel, std::vector<std::int32_t> turn);
// Sum of each window; u8 (plus `low` for each cell inside the map) or i32 to i16 or i32, f32 to f32 (in float64).
void add_sum_pool(Plan& plan, int source, int target, Kernel2d kernel, int low);

void add_relu(Plan& plan, int source, int target);

// Backward.
void add_max_pool_gradient(Plan& plan, int source, int index, int target, Kernel2d kernel);
void add_sum_pool_gradient(Plan& plan, int source, int target, Kernel2d kernel);
void add_relu_gradient(Plan& plan, int source, int activation, int target);

// Convolutions with groups, or of integers that no kernel takes: i32 to i32, or f32 to f32 summed in float64.
struct Direct {
    int groups, outputs;
    Kernel2d kernel;
    std::vector<std::int32_t> weights;  // (outputs, channels / groups, high, wide); the bits of floats for f32
};
void add_direct(Plan& plan, int source, int target, Direct direct);
void add_direct_gradient(Plan& plan, int source, int target, Direct direct);

// The second half of a convolution's gradient with few channels: what each output (y, x) gives to each tap lies side by
// side in `source` (channels [tap][channel], i32 or f32) and is added where the tap stood, stride 1.
void add_gather(Plan& plan, int source, int target, Kernel2d kernel);

// Tiles of tile_high x tile_wide pixels, channels [y][x][channel] of `source`, laid out as the f32 map they cover; what
// lies beyond its edges is left out.
void add_depth_to_space(Plan& plan, int source, int target, int tile_high, int tile_wide);

// int8 gradients: largest magnitude per image into Plan::scales, then bytes of value / scale + 128. `slope` is empty, or
// one factor per channel, padded to 32, that the values are multiplied by first.
void add_magnitude(Plan& plan, int source, int slot, std::vector<float> slope);
// With an index (-1 for none) the bytes go to the winners of a pool whose windows do not overlap, 128 elsewhere.
void add_quantize(Plan& plan, int source, int slot, std::vector<float> slope, int index, Kernel2d kernel, int target);

}  // namespace bitlens
