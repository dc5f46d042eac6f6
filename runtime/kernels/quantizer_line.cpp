#include "quantizer_line.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernel.h"

namespace bitlens {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// What a row function computes; it never falls where the value rises, because no rounding does.
template <class T>
float place(T value, float slope, float intercept) {
    const float product = static_cast<float>(value) * slope;
    return product + intercept;
}

bool has_below(std::int32_t value) { return value > std::numeric_limits<std::int32_t>::min(); }
bool has_below(float value) { return value > -kInfinity; }
std::int32_t below(std::int32_t value) { return value - 1; }
float below(float value) { return std::nextafter(value, -kInfinity); }

struct Band {
    float lowest, highest;
};

// How far from i the place of threshold i is at least, and that of the value just below it at most.
template <class T>
Band band(const T* thresholds, int levels, float slope, float intercept) {
    Band found{kInfinity, -kInfinity};
    for (int i = 0; i < levels; ++i) {
        const T threshold = thresholds[i * kWord];
        found.lowest = std::min(found.lowest, place(threshold, slope, intercept) - static_cast<float>(i));
        if (has_below(threshold)) found.highest = std::max(found.highest, place(below(threshold), slope, intercept) - static_cast<float>(i));
    }
    return found;
}

template <class T>
bool fit(const T* thresholds, int levels, int channels, QuantizerLine& line) {
    std::fill(line.slope, line.slope + kWord, 0.0f);
    std::fill(line.intercept, line.intercept + kWord, -0.25f);  // of a channel that does not exist: passes nothing
    Band all{kInfinity, -kInfinity};
    for (int c = 0; c < channels; ++c) {
        const double middle = 0.5 * (levels - 1);
        double mean = 0.0, spread = 0.0, squares = 0.0;
        for (int i = 0; i < levels; ++i) {
            const double threshold = static_cast<double>(thresholds[i * kWord + c]);
            if (!std::isfinite(threshold)) return false;
            mean += threshold / levels;
            spread += (i - middle) * threshold;
            squares += (i - middle) * (i - middle);
        }
        const double step = spread / squares;
        const float slope = static_cast<float>(1.0 / step);
        if (!(slope > 0.0f) || !std::isfinite(slope)) return false;
        float intercept = static_cast<float>(middle - mean / step);
        Band found = band(thresholds + c, levels, slope, intercept);
        intercept -= 0.5f * (found.lowest + found.highest);
        found = band(thresholds + c, levels, slope, intercept);
        all = {std::min(all.lowest, found.lowest), std::max(all.highest, found.highest)};
        line.slope[c] = slope;
        line.intercept[c] = intercept;
    }
    // A place is cut off at 0.25 beyond the outermost thresholds, which has to decide them, and to decide them so.
    line.passes = std::max(std::nextafter(all.highest, kInfinity), -0.125f);
    line.fails = std::min(std::nextafter(all.lowest, -kInfinity), 0.125f);
    return line.passes <= 0.25f && line.fails >= -0.25f;
}

}  // namespace

bool fit_line(const std::int32_t* thresholds, int levels, int channels, QuantizerLine& line) {
    return fit(thresholds, levels, channels, line);
}
bool fit_line(const float* thresholds, int levels, int channels, QuantizerLine& line) {
    return fit(thresholds, levels, channels, line);
}

}  // namespace bitlens
