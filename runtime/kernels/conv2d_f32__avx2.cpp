// float times float, multiplied and added in one rounding.
#include <immintrin.h>

#include "conv2d_tile.h"
#include "sum_kernels.h"

namespace bitlens {
namespace {

struct Dot {
    using Number = float;
    using Sums = __m256;
    using Codes = __m256;
    using Weights = __m256;
    static constexpr int kLanes = 8, kPixels = 6, kVectors = 2;

    static Sums sums(const Number* from) { return _mm256_loadu_ps(from); }
    static void store(Number* to, Sums sums) { _mm256_storeu_ps(to, sums); }
    static Weights weights(const char* panel) { return _mm256_loadu_ps(reinterpret_cast<const float*>(panel)); }
    static Codes broadcast(const char* tap) { return _mm256_set1_ps(*reinterpret_cast<const float*>(tap)); }
    static void add(Sums& sum, Codes codes, Weights weights) { sum = _mm256_fmadd_ps(codes, weights, sum); }
};

void run(const Row& row, const void* packed, const float* start, float* sums) {
    run_channels<DotTile<Dot>>(row, packed, start, sums);
}

bool runs_on(const Cpu& cpu) { return cpu.avx2; }

}  // namespace

const SumKernel conv2d_f32__avx2{"conv2d_f32", "avx2", runs_on, kWord, 0, 0, nullptr, run, nullptr, nullptr};

}  // namespace bitlens
