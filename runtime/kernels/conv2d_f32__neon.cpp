// float times float with FMLA: multiplied and added with one rounding.
#include "panel_tiles__neon.h"
#include "sum_kernels.h"

namespace bitlens {
namespace {

struct Dot {
    static constexpr int kRegisters = 1;
    using Number = float;
    using Sums = float32x4_t;
    using Codes = float32x4_t;
    using Weights = float32x4_t;

    static Sums sums(const Number* from) { return vld1q_f32(from); }
    static void store(Number* to, Sums sums) { vst1q_f32(to, sums); }
    static Weights weights(const char* from) { return vld1q_f32(reinterpret_cast<const float*>(from)); }
    static Codes four_groups(const char* from) { return vld1q_f32(reinterpret_cast<const float*>(from)); }
    static Codes group(const char* from) { return vld1q_dup_f32(reinterpret_cast<const float*>(from)); }
    template <int lane>
    static void add(Sums& sum, Weights weights, Codes codes) {
        sum = vfmaq_laneq_f32(sum, weights, codes, lane);
    }
};

bool runs_on(const Cpu& cpu) { return cpu.neon; }

}  // namespace

const SumKernel conv2d_f32__neon{
    "conv2d_f32", "neon", runs_on, kWord, 0, 0, nullptr, run_tiles<PanelTiles<LaneTile<Dot>>, float>, nullptr, nullptr};

}  // namespace bitlens
