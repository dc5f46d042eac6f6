// Row functions with NEON.
#include <arm_neon.h>

#include <cstring>

#include "rows_vectorized.h"
#include "sum_kernels.h"

namespace bitlens {
namespace {

struct Lanes {
    static constexpr int kLanes = 4;
    using Ints = int32x4_t;
    using Floats = float32x4_t;
    using Mask = uint32x4_t;

    static Ints load(const std::int32_t* from) { return vld1q_s32(from); }
    static Floats load(const float* from) { return vld1q_f32(from); }
    static void store(std::int32_t* to, Ints a) { vst1q_s32(to, a); }
    static void store(float* to, Floats a) { vst1q_f32(to, a); }
    static Ints all(int number) { return vdupq_n_s32(number); }
    static Floats all(float number) { return vdupq_n_f32(number); }

    static Ints turned(Ints a, Ints turn) { return subtract(veorq_s32(a, turn), turn); }
    static Floats turned(Floats a, Ints turn) {
        return vreinterpretq_f32_s32(veorq_s32(vreinterpretq_s32_f32(a), vshlq_n_s32(turn, 31)));
    }

    static Mask fails(Ints threshold, Ints a) { return vcgtq_s32(threshold, a); }
    static Mask fails(Floats threshold, Floats a) { return vmvnq_u32(vcleq_f32(threshold, a)); }
    static Mask greater(Ints a, Ints b) { return vcgtq_s32(a, b); }
    static Mask equal(Ints a, Ints b) { return vceqq_s32(a, b); }
    static Mask same(Mask m, Mask n) { return vceqq_u32(m, n); }
    static Mask both(Mask m, Mask n) { return vandq_u32(m, n); }
    static Mask either(Mask m, Mask n) { return vorrq_u32(m, n); }
    static bool any(Mask m) { return vmaxvq_u32(m); }
    static Mask from_bits(std::uint32_t word) {
        static const std::uint32_t bits[kLanes] = {1, 2, 4, 8};
        return vtstq_u32(vdupq_n_u32(word), vld1q_u32(bits));
    }
    static std::uint32_t word(const Mask* masks) {
        static const std::uint8_t bits[16] = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
        const uint8x16_t bit = vld1q_u8(bits);
        const uint8x16_t low = vandq_u8(bytes(masks[0], masks[1], masks[2], masks[3]), bit);
        const uint8x16_t high = vandq_u8(bytes(masks[4], masks[5], masks[6], masks[7]), bit);
        const uint8x16_t pairs = vpaddq_u8(low, high);
        const uint8x16_t nibbles = vpaddq_u8(pairs, pairs);
        return vgetq_lane_u32(vreinterpretq_u32_u8(vpaddq_u8(nibbles, nibbles)), 0);
    }
    static Ints choose(Mask m, Ints a, Ints b) { return vbslq_s32(m, a, b); }
    static Floats choose(Mask m, Floats a, Floats b) { return vbslq_f32(m, a, b); }
    static Ints minus_one(Ints a, Mask m) { return add(a, vreinterpretq_s32_u32(m)); }

    static Ints lane_numbers() {
        static const std::int32_t numbers[kLanes] = {0, 1, 2, 3};
        return load(numbers);
    }
    static Ints times_channels(Ints a) { return vshlq_n_s32(a, 5); }
    static Ints gather(const std::int32_t* from, Ints index) {
        Ints a = vdupq_n_s32(from[vgetq_lane_s32(index, 0)]);
        a = vld1q_lane_s32(from + vgetq_lane_s32(index, 1), a, 1);
        a = vld1q_lane_s32(from + vgetq_lane_s32(index, 2), a, 2);
        return vld1q_lane_s32(from + vgetq_lane_s32(index, 3), a, 3);
    }
    static Floats gather(const float* from, Ints index) {
        Floats a = vdupq_n_f32(from[vgetq_lane_s32(index, 0)]);
        a = vld1q_lane_f32(from + vgetq_lane_s32(index, 1), a, 1);
        a = vld1q_lane_f32(from + vgetq_lane_s32(index, 2), a, 2);
        return vld1q_lane_f32(from + vgetq_lane_s32(index, 3), a, 3);
    }

    static Ints add(Ints a, Ints b) { return vaddq_s32(a, b); }
    static Floats add(Floats a, Floats b) { return vaddq_f32(a, b); }
    static Ints subtract(Ints a, Ints b) { return vsubq_s32(a, b); }
    static Floats subtract(Floats a, Floats b) { return vsubq_f32(a, b); }
    static Ints multiply(Ints a, Ints b) { return vmulq_s32(a, b); }
    static Floats multiply(Floats a, Floats b) { return vmulq_f32(a, b); }
    static Floats divide(Floats a, Floats b) { return vdivq_f32(a, b); }
    static Ints smallest(Ints a, Ints b) { return vminq_s32(a, b); }
    static Floats smallest(Floats a, Floats b) { return choose(vcltq_f32(a, b), a, b); }
    static Ints largest(Ints a, Ints b) { return vmaxq_s32(a, b); }
    static Floats largest(Floats a, Floats b) { return choose(vcgtq_f32(a, b), a, b); }
    static Floats magnitude(Floats a) { return vabsq_f32(a); }
    static Floats to_float(Ints a) { return vcvtq_f32_s32(a); }
    static Ints to_nearest(Floats a) { return vcvtnq_s32_f32(a); }

    static void store_bytes(std::uint8_t* to, Ints numbers) {
        const Mask words = vreinterpretq_u32_s32(numbers);
        const std::uint32_t four = vgetq_lane_u32(vreinterpretq_u32_u8(bytes(words, words, words, words)), 0);
        std::memcpy(to, &four, sizeof four);
    }

private:
    // The lowest byte of each lane of four registers.
    static uint8x16_t bytes(Mask a, Mask b, Mask c, Mask d) {
        const uint16x8_t low = vuzp1q_u16(vreinterpretq_u16_u32(a), vreinterpretq_u16_u32(b));
        const uint16x8_t high = vuzp1q_u16(vreinterpretq_u16_u32(c), vreinterpretq_u16_u32(d));
        return vuzp1q_u8(vreinterpretq_u8_u16(low), vreinterpretq_u8_u16(high));
    }
};

bool runs_on(const Cpu& cpu) { return cpu.neon; }

}  // namespace

constexpr RowFunctions rows__neon = Rows<Lanes>::functions("neon", runs_on);

}  // namespace bitlens
