// Bytes times int8 weights for processors without SDOT. SMULL multiplies signed bytes: 128 is taken from each source byte.
// Its products of 16 bits are added in pairs into 32 bits at once: two of -128 * -128 would be too much for 16.
#include <cstring>

#include "lane_tile__neon.h"
#include "sum_kernels.h"

namespace bitlens {
namespace {

constexpr int kActivationOffset = 128;

struct Dot {
    static constexpr int kRegisters = 2;
    using Number = std::int32_t;
    struct Sums {
        int32x4_t low, high;  // two sums of either of two channels
    };
    using Codes = int32x4_t;
    using Weights = int8x16_t;

    static Sums sums(const Number* from) {
        const int32x4_t start = vld1q_s32(from), zero = vdupq_n_s32(0);
        return {vzip1q_s32(start, zero), vzip2q_s32(start, zero)};
    }
    static void store(Number* to, Sums sums) { vst1q_s32(to, vpaddq_s32(sums.low, sums.high)); }
    static Weights weights(const char* from) { return vld1q_s8(reinterpret_cast<const std::int8_t*>(from)); }
    static Codes taken_off(uint8x16_t bytes) {
        return vreinterpretq_s32_u8(veorq_u8(bytes, vdupq_n_u8(kActivationOffset)));
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
    static void add(Sums& sums, Weights weights, Codes codes) {
        const int8x16_t code = vreinterpretq_s8_s32(vdupq_laneq_s32(codes, lane));
        sums.low = vpadalq_s16(sums.low, vmull_s8(vget_low_s8(weights), vget_low_s8(code)));
        sums.high = vpadalq_s16(sums.high, vmull_high_s8(weights, code));
    }
};

bool runs_on(const Cpu& cpu) { return cpu.neon; }

}  // namespace

const SumKernel conv2d_i8__neon{
    "conv2d_i8", "neon", runs_on, kWord, kActivationOffset, 0, LaneTile<Dot>::run, nullptr, nullptr, nullptr};

}  // namespace bitlens
