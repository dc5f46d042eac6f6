// What the integer families over panels do alike with 256 bits: only how codes meet weights differs.
#pragma once

#include <immintrin.h>

#include "conv2d_tile.h"

namespace bitlens {
namespace {

struct PanelRegisters {
    using Number = std::int32_t;
    using Sums = __m256i;
    using Codes = __m256i;
    using Weights = __m256i;
    static constexpr int kLanes = 8, kPixels = 6, kVectors = 2;

    static Sums sums(const Number* from) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)); }
    static void store(Number* to, Sums sums) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), sums); }
    static Weights weights(const char* panel) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(panel)); }
    static Codes broadcast(const char* tap) {
        int codes;
        __builtin_memcpy(&codes, tap, sizeof codes);
        return _mm256_set1_epi32(codes);
    }
};

}  // namespace
}  // namespace bitlens
