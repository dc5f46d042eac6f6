// Bytes times int8 weights for processors without SDOT. SMLAL multiplies signed bytes: 128 is taken from each byte.
//
// Two products are added up in 16 bits before both go into sums of 32. Twice -128 * -128 is one more than 16 bits hold,
// while the least sum, twice -128 * 127, is far above the least that they hold. So they start at -1, and the sums
// higher by as much as that takes.
#include <cstring>

#include "panel_tiles__neon.h"
#include "sum_kernels.h"

namespace bitlens {
namespace {

constexpr int kActivationOffset = 128;

alignas(16) constexpr std::int16_t kMinusOne[8] = {-1, -1, -1, -1, -1, -1, -1, -1};

// Volatile, so that they stay in the order written: processors that execute in order need the result of one some
// instructions before they use it. Loading -1 leaves the units free that multiply.
inline int16x8_t minus_one() {
    int16x8_t a;
    asm volatile("ldr %q0, %1" : "=w"(a) : "m"(*reinterpret_cast<const int16x8_t*>(kMinusOne)));
    return a;
}
template <int half>
void add_products(int16x8_t& pair, int8x16_t weights, int8x16_t codes) {
    if constexpr (half == 0)
        asm volatile("smlal %0.8h, %1.8b, %2.8b" : "+w"(pair) : "w"(weights), "w"(codes));
    else
        asm volatile("smlal2 %0.8h, %1.16b, %2.16b" : "+w"(pair) : "w"(weights), "w"(codes));
}
inline void add_pairs(int32x4_t& sum, int16x8_t pairs) {
    asm volatile("sadalp %0.4s, %1.8h" : "+w"(sum) : "w"(pairs));
}

struct Tile {
    using Number = std::int32_t;
    static constexpr int kRegisters = 2;

    // All lanes one group of the pixel.
    static int8x16_t group(const char* from) {
        std::uint32_t bytes;
        std::memcpy(&bytes, from, sizeof bytes);
        return vreinterpretq_s8_u8(veorq_u8(vreinterpretq_u8_u32(vdupq_n_u32(bytes)), vdupq_n_u8(kActivationOffset)));
    }
    static void two_groups(const char* from, int8x16_t& first, int8x16_t& second) {
        const uint8x8_t bytes = veor_u8(vld1_u8(reinterpret_cast<const std::uint8_t*>(from)),
                                        vdup_n_u8(kActivationOffset));
        first = vreinterpretq_s8_u32(vdupq_lane_u32(vreinterpret_u32_u8(bytes), 0));
        second = vreinterpretq_s8_u32(vdupq_lane_u32(vreinterpret_u32_u8(bytes), 1));
    }
    static int8x16_t weights(const char* from) { return vld1q_s8(reinterpret_cast<const std::int8_t*>(from)); }

    // Half the channels of a register of weights, the pairs of the next half being readied.
    template <int half, int pixels, int vectors>
    static void add_half(int32x4_t (&sum)[pixels][vectors][2], int v, int16x8_t (&pairs)[pixels],
                         const int8x16_t (&codes)[2][pixels], int8x16_t first, int8x16_t second) {
        BITLENS_UNROLL
        for (int p = 0; p < pixels; ++p) add_products<half>(pairs[p], first, codes[0][p]);
        BITLENS_UNROLL
        for (int p = 0; p < pixels; ++p) add_products<half>(pairs[p], second, codes[1][p]);
        BITLENS_UNROLL
        for (int p = 0; p < pixels; ++p) {
            add_pairs(sum[p][v][half], pairs[p]);
            pairs[p] = minus_one();
        }
    }

    template <int pixels, int vectors>
    static void run(const Row& row, const char* source, const char* panel, const Number* start, Number* out) {
        int32x4_t sum[pixels][vectors][2];  // two sums of each of two channels
        const std::int32_t raised = 4 * row.taps_high * row.taps_wide * (row.groups / 2);
        BITLENS_UNROLL
        for (int v = 0; v < vectors; ++v) {
            const int32x4_t first = vaddq_s32(vld1q_s32(start + 4 * v), vdupq_n_s32(raised)), zero = vdupq_n_s32(0);
            BITLENS_UNROLL
            for (int p = 0; p < pixels; ++p) {
                sum[p][v][0] = vzip1q_s32(first, zero);
                sum[p][v][1] = vzip2q_s32(first, zero);
            }
        }
        int16x8_t pairs[pixels];
        BITLENS_UNROLL
        for (int p = 0; p < pixels; ++p) pairs[p] = minus_one();
        for (int y = 0; y < row.taps_high; ++y)
            for (int x = 0; x < row.taps_wide; ++x) {
                const char* tap = source + y * row.row_pitch + x * row.tap_step;
                int groups = row.groups;
                for (; groups >= 2; groups -= 2, tap += 2 * kGroupBytes, panel += 2 * kPanelBytes) {
                    int8x16_t codes[2][pixels];
                    BITLENS_UNROLL
                    for (int p = 0; p < pixels; ++p) two_groups(tap + p * row.pixel_step, codes[0][p], codes[1][p]);
                    BITLENS_UNROLL
                    for (int v = 0; v < vectors; ++v) {
                        const int8x16_t first = weights(panel + 16 * v), second = weights(panel + kPanelBytes + 16 * v);
                        add_half<0>(sum, v, pairs, codes, first, second);
                        add_half<1>(sum, v, pairs, codes, first, second);
                    }
                }
                if (groups == 0) continue;
                BITLENS_UNROLL
                for (int p = 0; p < pixels; ++p) {
                    const int8x16_t codes = group(tap + p * row.pixel_step);
                    BITLENS_UNROLL
                    for (int v = 0; v < vectors; ++v) {
                        const int8x16_t only = weights(panel + 16 * v);
                        add_pairs(sum[p][v][0], vmull_s8(vget_low_s8(only), vget_low_s8(codes)));
                        add_pairs(sum[p][v][1], vmull_high_s8(only, codes));
                    }
                }
                panel += kPanelBytes;
            }
        BITLENS_UNROLL
        for (int p = 0; p < pixels; ++p) {
            BITLENS_UNROLL
            for (int v = 0; v < vectors; ++v)
                vst1q_s32(out + p * kWord + 4 * v, vpaddq_s32(sum[p][v][0], sum[p][v][1]));
        }
    }
};

bool runs_on(const Cpu& cpu) { return cpu.neon; }

}  // namespace

const SumKernel conv2d_i8__neon{"conv2d_i8", "neon", runs_on, kWord, kActivationOffset, 0,
                                run_tiles<PanelTiles<Tile>, std::int32_t>, nullptr, nullptr, nullptr};

}  // namespace bitlens
