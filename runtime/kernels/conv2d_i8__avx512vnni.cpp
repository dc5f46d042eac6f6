// Unsigned bytes times int8 weights: four products and their sum in each lane, in one instruction.
#include <immintrin.h>

#include "conv2d_tile.h"
#include "sum_kernels.h"

namespace bitlens {
namespace {

struct Dot {
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
    static void add(Sums& sum, Codes codes, Weights weights) {
        // The intrinsic makes gcc 12 copy every sum: half the speed.
        __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(codes), "v"(weights));
    }
};

void run(const Row& row, const void* packed, const std::int32_t* start, std::int32_t* sums) {
    run_channels<DotTile<Dot>>(row, packed, start, sums);
}

bool runs_on(const Cpu& cpu) { return cpu.avx512vnni; }

}  // namespace

const SumKernel conv2d_i8__avx512vnni{"conv2d_i8", "avx512vnni", runs_on, kWord, 0, 0, run, nullptr, nullptr, nullptr};

}  // namespace bitlens
