// Unsigned bytes times int8 weights: four products and their sum in each lane, in one instruction.
#include "panel_registers__avx512.h"
#include "sum_kernels.h"

namespace bitlens {
namespace {

struct Dot : PanelRegisters {
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
