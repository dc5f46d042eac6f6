// Unsigned bytes times int8 weights.
#include "panel_sums__scalar.h"
#include "sum_kernels.h"

namespace bitlens {
namespace {

bool runs_on(const Cpu&) { return true; }

}  // namespace

const SumKernel conv2d_i8__scalar{
    "conv2d_i8", "scalar", runs_on, kWord, 0, 0, panel_sums<std::uint8_t, std::int8_t>, nullptr, nullptr, nullptr};

}  // namespace bitlens
