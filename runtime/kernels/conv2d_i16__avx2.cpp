// int16 codes times int16 weights.
#include "panel_registers__avx2.h"
#include "sum_kernels.h"

namespace bitlens {
namespace {

struct Dot : PanelRegisters {
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
