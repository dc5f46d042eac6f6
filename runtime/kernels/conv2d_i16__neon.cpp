// int16 codes times int16 weights with SMLAL.
#include <cstring>

#include "panel_tiles__neon.h"
#include "sum_kernels.h"

namespace bitlens {
namespace {

struct Dot {
    static constexpr int kRegisters = 2;
    using Number = std::int32_t;
    struct Sums {
        int32x4_t low, high;  // of either of two channels the sums of its first and of its second products
    };
    using Codes = int32x4_t;
    using Weights = int16x8_t;

    static Sums sums(const Number* from) {
        const int32x4_t start = vld1q_s32(from), zero = vdupq_n_s32(0);
        return {vzip1q_s32(start, zero), vzip2q_s32(start, zero)};
    }
    static void store(Number* to, Sums sums) { vst1q_s32(to, vpaddq_s32(sums.low, sums.high)); }
    static Weights weights(const char* from) { return vld1q_s16(reinterpret_cast<const std::int16_t*>(from)); }
    static Codes four_groups(const char* from) {
        return vreinterpretq_s32_s16(vld1q_s16(reinterpret_cast<const std::int16_t*>(from)));
    }
    static Codes group(const char* from) {
        std::int32_t pair;
        std::memcpy(&pair, from, sizeof pair);
        return vdupq_n_s32(pair);
    }
    template <int lane>
    static void add(Sums& sums, Weights weights, Codes codes) {
        const int16x8_t code = vreinterpretq_s16_s32(vdupq_laneq_s32(codes, lane));
        sums.low = vmlal_s16(sums.low, vget_low_s16(weights), vget_low_s16(code));
        sums.high = vmlal_high_s16(sums.high, weights, code);
    }
};

bool runs_on(const Cpu& cpu) { return cpu.neon; }

}  // namespace

const SumKernel conv2d_i16__neon{"conv2d_i16", "neon", runs_on, kWord, 0, 0,
                                 run_tiles<PanelTiles<LaneTile<Dot>>, std::int32_t>, nullptr, nullptr, nullptr};

}  // namespace bitlens
