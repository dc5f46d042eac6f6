// Unsigned bytes times int8 weights of any size: widened to int16, even and odd bytes apart, so that each lane of int32
// holds one channel.
#include "panel_registers__avx2.h"
#include "sum_kernels.h"

namespace bitlens {
namespace {

struct Dot : PanelRegisters {
    struct Codes {
        __m256i even, odd;
    };
    using Weights = Codes;
    static constexpr int kPixels = 3;

    static Weights weights(const char* panel) {
        const __m256i bytes = PanelRegisters::weights(panel);
        return {_mm256_srai_epi16(_mm256_slli_epi16(bytes, 8), 8), _mm256_srai_epi16(bytes, 8)};
    }
    static Codes broadcast(const char* tap) {
        const __m256i bytes = PanelRegisters::broadcast(tap);
        return {_mm256_and_si256(bytes, _mm256_set1_epi16(0xff)), _mm256_srli_epi16(bytes, 8)};
    }
    static void add(Sums& sum, const Codes& codes, const Weights& weights) {
        sum = _mm256_add_epi32(sum, _mm256_madd_epi16(codes.even, weights.even));
        sum = _mm256_add_epi32(sum, _mm256_madd_epi16(codes.odd, weights.odd));
    }
};

void run(const Row& row, const void* packed, const std::int32_t* start, std::int32_t* sums) {
    run_channels<DotTile<Dot>>(row, packed, start, sums);
}

bool runs_on(const Cpu& cpu) { return cpu.avx2; }

}  // namespace

const SumKernel conv2d_i8__avx2{"conv2d_i8", "avx2", runs_on, kWord, 0, 0, run, nullptr, nullptr, nullptr};

}  // namespace bitlens
