// int16 codes times int16 weights.
#include "panel_sums__scalar.h"
#include "sum_kernels.h"

namespace bitlens {
namespace {

bool runs_on(const Cpu&) { return true; }

}  // namespace

const SumKernel conv2d_i16__scalar{
    "conv2d_i16", "scalar", runs_on, kWord, 0, 0, panel_sums<std::int16_t, std::int16_t>, nullptr, nullptr, nullptr};

}  // namespace bitlens
