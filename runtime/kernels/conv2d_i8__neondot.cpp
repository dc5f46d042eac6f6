// Bytes times int8 weights with SDOT, which multiplies signed bytes: 128 is taken from each source byte.
#include <cstring>

#include "panel_tiles__neon.h"
#include "sum_kernels.h"

namespace bitlens {
namespace {

constexpr int kActivationOffset = 128;

struct Dot {
    static constexpr int kRegisters = 1;
    using Number = std::int32_t;
    using Sums = int32x4_t;
    using Codes = int8x16_t;
    using Weights = int8x16_t;

    static Sums sums(const Number* from) { return vld1q_s32(from); }
    static void store(Number* to, Sums sums) { vst1q_s32(to, sums); }
    static Weights weights(const char* from) { return vld1q_s8(reinterpret_cast<const std::int8_t*>(from)); }
    static Codes taken_off(uint8x16_t bytes) {
        return vreinterpretq_s8_u8(veorq_u8(bytes, vdupq_n_u8(kActivationOffset)));
    }
    static Codes four_groups(const char* from) {
        return taken_off(vld1q_u8(reinterpret_cast<const std::uint8_t*>(from)));
    }
    static Codes group(const char* from) {
        std::uint32_t bytes;
        std::memcpy(&bytes, from, sizeof bytes);
        return taken_off(vreinterpretq_u8_u32(vdupq_n_u32(bytes)));
    }
    template <int lane>
    static void add(Sums& sum, Weights weights, Codes codes) {
        sum = vdotq_laneq_s32(sum, weights, codes, lane);
    }
};

bool runs_on(const Cpu& cpu) { return cpu.neondot; }

}  // namespace

const SumKernel conv2d_i8__neondot{"conv2d_i8", "neondot", runs_on, kWord, kActivationOffset, 0,
                                   run_tiles<PanelTiles<LaneTile<Dot>>, std::int32_t>, nullptr, nullptr, nullptr};

}  // namespace bitlens
