// Row functions in plain C++: what the other instruction sets are compared with.
#include <cmath>
#include <cstring>

#include "sum_kernels.h"

namespace bitlens {
namespace {

std::int32_t turned(std::int32_t value, std::int32_t turn) {
    return static_cast<std::int32_t>((static_cast<std::uint32_t>(value) ^ static_cast<std::uint32_t>(turn)) -
                                     static_cast<std::uint32_t>(turn));
}

float turned(float value, std::int32_t turn) { return turn ? -value : value; }

template <class T>
std::uint32_t mask_word(const T* sums, const Quantizer<T>& quantizer) {
    std::uint32_t word = 0;
    for (int c = 0; c < kWord; ++c) {
        const T value = turned(sums[c], quantizer.turn[c]);
        word |= std::uint32_t(quantizer.mask_low[c] <= value && value <= quantizer.mask_high[c]) << c;
    }
    return word;
}

template <class T>
int passed(T sum, const Quantizer<T>& quantizer, int channel) {
    const T value = turned(sum, quantizer.turn[channel]);
    int low = 0, high = quantizer.levels;  // thresholds ascend: the first that is not passed lies in [low, high]
    while (low < high) {
        const int middle = (low + high) / 2;
        if (quantizer.thresholds[middle * kWord + channel] <= value)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

template <class T>
void bits(const T* sums, std::ptrdiff_t sums_step, int pixels, const Quantizer<T>& quantizer, std::uint32_t* words,
          std::ptrdiff_t words_step, std::uint32_t* mask, std::ptrdiff_t mask_step) {
    for (int p = 0; p < pixels; ++p, sums += sums_step) {
        std::uint32_t word = 0;
        for (int c = 0; c < kWord; ++c) word |= std::uint32_t(passed(sums[c], quantizer, c) > 0) << c;
        words[p * words_step] = word;
        if (quantizer.mask_low) mask[p * mask_step] = mask_word(sums, quantizer);
    }
}

template <class T>
void planes(const T* sums, std::ptrdiff_t sums_step, int pixels, const Quantizer<T>& quantizer, std::uint32_t* words,
            std::ptrdiff_t words_step, std::uint32_t* mask, std::ptrdiff_t mask_step) {
    for (int p = 0; p < pixels; ++p, sums += sums_step) {
        std::uint32_t low = 0, high = 0;
        for (int c = 0; c < kWord; ++c) {
            const auto code = static_cast<std::uint32_t>(passed(sums[c], quantizer, c));
            low |= (code & 1) << c;
            high |= (code >> 1) << c;
        }
        words[p * words_step] = low;
        words[p * words_step + 1] = high;
        if (quantizer.mask_low) mask[p * mask_step] = mask_word(sums, quantizer);
    }
}

template <class T>
void codes(const T* sums, std::ptrdiff_t sums_step, int pixels, const Quantizer<T>& quantizer, int code_step,
           int channels, std::uint8_t* out, std::ptrdiff_t codes_step, std::uint32_t* mask, std::ptrdiff_t mask_step) {
    for (int p = 0; p < pixels; ++p, sums += sums_step) {
        for (int c = 0; c < channels; ++c)
            out[p * codes_step + c] = static_cast<std::uint8_t>(code_step * passed(sums[c], quantizer, c));
        if (quantizer.mask_low) mask[p * mask_step] = mask_word(sums, quantizer);
    }
}

void max_pool_i32(const std::int32_t* sums, std::ptrdiff_t sums_step, std::ptrdiff_t row_step, int kernel_high,
                  int kernel_wide, int stride_wide, int pixels, const std::int32_t* turn, std::int32_t* pooled,
                  std::uint8_t* index, std::ptrdiff_t index_step) {
    for (int p = 0; p < pixels; ++p, pooled += kWord)
        for (int c = 0; c < kWord; ++c) {
            const std::int32_t* first = sums + p * stride_wide * sums_step + c;
            std::int32_t best = *first;
            int winner = 0;
            for (int y = 0; y < kernel_high; ++y)
                for (int x = 0; x < kernel_wide; ++x) {
                    const std::int32_t value = first[y * row_step + x * sums_step];
                    if (turned(value, turn[c]) > turned(best, turn[c])) {
                        best = value;
                        winner = y * kernel_wide + x;
                    }
                }
            pooled[c] = best;
            if (index) index[p * index_step + c] = static_cast<std::uint8_t>(winner);
        }
}

template <class T>
void affine(const T* sums, std::ptrdiff_t sums_step, int pixels, const float* slope, const float* offset,
            const float* addend, std::ptrdiff_t addend_step, int channels, float* out, std::ptrdiff_t out_step) {
    for (int p = 0; p < pixels; ++p)
        for (int c = 0; c < channels; ++c) {
            const float product = static_cast<float>(sums[p * sums_step + c]) * slope[c];
            const float value = product + offset[c];
            out[p * out_step + c] = addend ? value + addend[p * addend_step + c] : value;
        }
}

void ste_gradient(const float* gradient, std::ptrdiff_t gradient_step, int pixels, const std::uint32_t* mask,
                  std::ptrdiff_t mask_step, float floor, const float* gain, int channels, float* out,
                  std::ptrdiff_t out_step) {
    for (int p = 0; p < pixels; ++p)
        for (int c = 0; c < channels; ++c) {
            const float value = gradient[p * gradient_step + c];
            out[p * out_step + c] = mask[p * mask_step] >> c & 1 ? (value > floor ? value : floor) * gain[c] : 0.0f;
        }
}

void add(const float* left, const float* right, std::size_t count, float* out) {
    for (std::size_t i = 0; i < count; ++i) out[i] = left[i] + right[i];
}

float largest_magnitude(const float* values, std::size_t count) {
    float largest = 0.0f;
    for (std::size_t i = 0; i < count; ++i) largest = std::fabs(values[i]) > largest ? std::fabs(values[i]) : largest;
    return largest;
}

void quantize(const float* values, std::size_t count, float inverse_scale, std::uint8_t* out) {
    for (std::size_t i = 0; i < count; ++i) {
        float value = std::nearbyint(values[i] * inverse_scale);
        value = value > 127.0f ? 127.0f : value >= -127.0f ? value : -127.0f;  // NaN goes to -127
        out[i] = static_cast<std::uint8_t>(static_cast<int>(value) + 128);
    }
}

bool runs_on(const Cpu&) { return true; }

}  // namespace

const RowFunctions rows__scalar{
    "scalar",
    runs_on,
    {bits<std::int32_t>, planes<std::int32_t>, codes<std::int32_t>},
    {bits<float>, planes<float>, codes<float>},
    max_pool_i32,
    affine<std::int32_t>,
    affine<float>,
    ste_gradient,
    add,
    largest_magnitude,
    quantize,
};

}  // namespace bitlens
