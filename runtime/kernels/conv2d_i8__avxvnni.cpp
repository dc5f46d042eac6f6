// Unsigned bytes times int8 weights: four products and their sum in each lane, in one instruction.
#include "panel_registers__avx2.h"
#include "sum_kernels.h"

namespace bitlens {
namespace {

struct Dot : PanelRegisters {
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
