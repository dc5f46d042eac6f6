// float times float, multiplied and added in one rounding.
#include <immintrin.h>

#include "conv2d_tile.h"
#include "sum_kernels.h"

namespace bitlens {
namespace {

struct Dot {
    using Number = float;
    using Sums = __m512;
    using Codes = __m512;
    using Weights = __m512;
    static constexpr int kLanes = 16, kPixels = 8, kVectors = 2;

    static Sums sums(const Number* from) { return _mm512_loadu_ps(from); }
    static void store(Number* to, Sums sums) { _mm512_storeu_ps(to, sums); }
    static Weights weights(const char* panel) { return _mm512_loadu_ps(reinterpret_cast<const float*>(panel)); }
    static Codes broadcast(const char* tap) { return _mm512_set1_ps(*reinterpret_cast<const float*>(tap)); }
    static void add(Sums& sum, Codes codes, Weights weights) { sum = _mm512_fmadd_ps(codes, weights, sum); }
};

void run(const Row& row, const void* packed, const float* start, float* sums) {
    run_channels<DotTile<Dot>>(row, packed, start, sums);
}

bool runs_on(const Cpu& cpu) { return cpu.avx512; }

}  // namespace

const SumKernel conv2d_f32__avx512{"conv2d_f32", "avx512", runs_on, kWord, 0, 0, nullptr, run, nullptr, nullptr};

}  // namespace bitlens
