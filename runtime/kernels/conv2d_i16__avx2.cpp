// int16 codes times int16 weights.
#include <immintrin.h>

#include "conv2d_tile.h"
#include "sum_kernels.h"

namespace bitlens {
namespace {

struct Dot {
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
    static void add(Sums& sum, Codes codes, Weights weights) {
        sum = _mm256_add_epi32(sum, _mm256_madd_epi16(codes, weights));
    }
};

void run(const Row& row, const void* packed, const std::int32_t* start, std::int32_t* sums) {
    run_channels<DotTile<Dot>>(row, packed, start, sums);
}

bool runs_on(const Cpu& cpu) { return cpu.avx2; }

}  // namespace

const SumKernel conv2d_i16__avx2{"conv2d_i16", "avx2", runs_on, kWord, 0, 0, run, nullptr, nullptr, nullptr};

}  // namespace bitlens
