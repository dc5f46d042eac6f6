// The line that the thresholds of a uniform quantizer lie near, so that a code is found without a search.
#pragma once

#include <cstdint>

#include "row_functions.h"

namespace bitlens {

// Quantizers with fewer thresholds compare with each of them.
constexpr int kFewestLevelsOfLine = 16;

// Fits the line of the first `channels` of 32 channels; false where their thresholds lie otherwise.
bool fit_line(const std::int32_t* thresholds, int levels, int channels, QuantizerLine& line);
bool fit_line(const float* thresholds, int levels, int channels, QuantizerLine& line);

}  // namespace bitlens
