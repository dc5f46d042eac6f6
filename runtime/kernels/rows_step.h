// A step that makes rows of sums, by a kernel or out of a buffer, and turns them into what is stored.
#pragma once

#include <optional>
#include <vector>

#include "plan.h"

namespace bitlens {

// Where rows come from: a convolution. Positions are in the bordered source: output (0, 0) has its first tap at
// (first_y, first_x), and the next output stands `stride` further.
struct Convolution {
    int source;                    // buffer
    std::string family;
    int taps_high, taps_wide, groups;
    bool merged;                   // a row of taps is one tap whose groups run over the pixels at its right
    int first_y, first_x, stride_high, stride_wide;
    int rows, columns;             // of sums, before a pool
    int bits, low, step;           // fields of the weights; 32 bits: floats; 16 bits: int16; 0: canonical words
    int largest_code, largest_weight;  // conv2d_i8: chooses the kernel
    std::vector<std::uint8_t> weights;  // fields in panel order, or canonical words, block by block of 32 channels
    std::vector<std::int32_t> start;    // per output channel, padded to 32; the bits of floats for conv2d_f32
};

// ... or the pixels of a buffer of i32 or f32, from (first_y, first_x) of the bordered map.
struct Pixels {
    int source;
    int first_y, first_x;
};

struct Pool {
    Kernel2d kernel;  // its padding never wins; for rows of a convolution alone
    std::vector<std::int32_t> turn;  // 0 or -1, padded to 32
    int index;                       // buffer that takes the winners, or -1
};

struct Affine {
    std::vector<float> slope, offset;  // padded to 32
    int scale_slot;                    // -1, or Plan::scales: the slope is multiplied by it, per image
};

struct Threshold {
    int levels, code_step;
    std::vector<std::int32_t> turn;        // padded to 32, as all below
    std::vector<std::int32_t> thresholds;  // [channels / 32][levels][32]; the bits of floats for real values
    std::vector<std::int32_t> mask_low, mask_high;
    int codes;  // buffer
    int mask;   // buffer, or -1
};

struct StraightThrough {
    int mask;                 // buffer
    std::vector<float> gain;  // padded to 32
};

struct Epilogue {
    int channels;                        // of the rows
    int rows, columns;                   // of what is stored, after the pool
    int origin_y = 0, origin_x = 0;      // a row's first element is stored there, the next ones step_* further
    int step_y = 1, step_x = 1;
    std::optional<Pool> pool;
    int sums = -1;                       // buffer that takes the sums as they are
    std::optional<Affine> affine;        // else the rows stay what they are
    std::optional<StraightThrough> straight_through;
    int addend = -1;                     // buffer
    int reals = -1;                      // buffer that takes the real values
    std::optional<Threshold> threshold;  // of the real values if there are any, else of the sums
    bool thresholds_sums = false;        // of the sums though there are real values
};

// Checks everything and adds the step; gives the kernel that was chosen.
std::string add_convolution(Plan& plan, Convolution convolution, Epilogue epilogue, int variant);
void add_pixels(Plan& plan, Pixels pixels, Epilogue epilogue, int variant);
}  // namespace bitlens
