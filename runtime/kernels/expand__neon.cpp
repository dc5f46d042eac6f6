// Packed fields to panels, 16 values at a time.
#include <arm_neon.h>

#include <cstring>

#include "sum_kernels.h"

namespace bitlens {
namespace {

constexpr int kValues = 16;

// 16 fields, one a byte: a copy of the byte that each lies in, shifted to its lowest bits.
template <int bits>
struct Spread {
    uint8x16_t byte_of;
    int8x16_t shift;

    Spread() {
        std::uint8_t bytes[kValues];
        std::int8_t shifts[kValues];
        for (int i = 0; i < kValues; ++i) {
            bytes[i] = static_cast<std::uint8_t>(i * bits / 8);
            shifts[i] = static_cast<std::int8_t>(-(i * bits % 8));
        }
        byte_of = vld1q_u8(bytes);
        shift = vld1q_s8(shifts);
    }

    uint8x16_t operator()(const std::uint8_t* fields) const {
        std::uint64_t word = 0;
        std::memcpy(&word, fields, kValues * bits / 8);
        const uint8x16_t bytes = vqtbl1q_u8(vreinterpretq_u8_u64(vdupq_n_u64(word)), byte_of);
        return vandq_u8(vshlq_u8(bytes, shift), vdupq_n_u8((1 << bits) - 1));
    }
};

template <int bits>
void expand_i8(const std::uint8_t* fields, int low, int step, std::size_t count, std::int8_t* panel) {
    std::int8_t values[kValues];  // what each field stands for
    for (int field = 0; field < kValues; ++field)
        values[field] = static_cast<std::int8_t>(low + step * (field % (1 << bits)));
    const int8x16_t table = vld1q_s8(values);
    const Spread<bits> spread;
    for (; count; count -= kValues, fields += kValues * bits / 8, panel += kValues)
        vst1q_s8(panel, vqtbl1q_s8(table, spread(fields)));
}

void to_i8(const std::uint8_t* fields, int bits, int low, int step, std::size_t count, std::int8_t* panel) {
    if (bits == 8) std::memcpy(panel, fields, count);
    if (bits == 4) expand_i8<4>(fields, low, step, count, panel);
    if (bits == 2) expand_i8<2>(fields, low, step, count, panel);
    if (bits == 1) expand_i8<1>(fields, low, step, count, panel);
}

void store_four(int16x4_t fields, int low, int step, float* panel) {
    vst1q_f32(panel, vcvtq_f32_s32(vmlaq_n_s32(vdupq_n_s32(low), vmovl_s16(fields), step)));
}

void store_sixteen(int16x8_t first, int16x8_t second, int low, int step, float* panel) {
    store_four(vget_low_s16(first), low, step, panel);
    store_four(vget_high_s16(first), low, step, panel + 4);
    store_four(vget_low_s16(second), low, step, panel + 8);
    store_four(vget_high_s16(second), low, step, panel + 12);
}

template <int bits>
void expand_f32(const std::uint8_t* fields, int low, int step, std::size_t count, float* panel) {
    const Spread<bits> spread;
    for (; count; count -= kValues, fields += kValues * bits / 8, panel += kValues) {
        const uint8x16_t spread_fields = spread(fields);
        store_sixteen(vreinterpretq_s16_u16(vmovl_u8(vget_low_u8(spread_fields))),
                      vreinterpretq_s16_u16(vmovl_high_u8(spread_fields)), low, step, panel);
    }
}

void to_f32(const std::uint8_t* fields, int bits, int low, int step, std::size_t count, float* panel) {
    if (bits == 8)
        for (; count; count -= kValues, fields += kValues, panel += kValues) {
            const int8x16_t numbers = vreinterpretq_s8_u8(vld1q_u8(fields));
            store_sixteen(vmovl_s8(vget_low_s8(numbers)), vmovl_high_s8(numbers), 0, 1, panel);
        }
    if (bits == 4) expand_f32<4>(fields, low, step, count, panel);
    if (bits == 2) expand_f32<2>(fields, low, step, count, panel);
    if (bits == 1) expand_f32<1>(fields, low, step, count, panel);
}

bool runs_on(const Cpu& cpu) { return cpu.neon; }

}  // namespace

const ExpandKernel expand__neon{"neon", runs_on, to_i8, to_f32};

}  // namespace bitlens
