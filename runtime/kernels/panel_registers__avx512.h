// What the integer families over panels do alike with AVX-512: only how codes meet weights differs.
#pragma once

#include <immintrin.h>

#include "conv2d_tile.h"

namespace bitlens {
namespace {

struct PanelRegisters {
    using Number = std::int32_t;
    using Sums = __m512i;
    using Codes = __m512i;
    using Weights = __m512i;
    static constexpr int kLanes = 16, kPixels = 8, kVectors = 2;

    static Sums sums(const Number* from) { return _mm512_loadu_si512(from); }
    static void store(Number* to, Sums sums) { _mm512_storeu_si512(to, sums); }
    static Weights weights(const char* panel) { return _mm512_loadu_si512(panel); }
    static Codes broadcast(const char* tap) {
        int codes;
        __builtin_memcpy(&codes, tap, sizeof codes);
        return _mm512_set1_epi32(codes);
    }
};

}  // namespace
}  // namespace bitlens
