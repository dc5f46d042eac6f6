// Unsigned bytes times int8 weights: four products and their sum in each lane, in one instruction.
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
        // The intrinsic makes gcc 12 copy every sum: half the speed.
        __asm__("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sum) : "x"(codes), "x"(weights));
    }
};

void run(const Row& row, const void* packed, const std::int32_t* start, std::int32_t* sums) {
    run_channels<DotTile<Dot>>(row, packed, start, sums);
}

bool runs_on(const Cpu& cpu) { return cpu.avxvnni; }

}  // namespace

const SumKernel conv2d_i8__avxvnni{"conv2d_i8", "avxvnni", runs_on, kWord, 0, 0, run, nullptr, nullptr, nullptr};

}  // namespace bitlens
