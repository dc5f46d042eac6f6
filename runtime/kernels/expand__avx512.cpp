// Packed fields to panels, 64 int8 or 16 floats at a time.
#include <immintrin.h>

#include <cstring>

#include "sum_kernels.h"

namespace bitlens {
namespace {

constexpr int kBytes = 64;  // int8 values at a time

template <class T>
T loaded(const std::uint8_t* from) {
    T value;
    std::memcpy(&value, from, sizeof value);
    return value;
}

__m128i bytes16(const std::uint8_t* from) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(from)); }

// 64 fields of 2 or 4 bits, one a byte: shifted copies put each where it belongs.
template <int bits>
__m512i spread(const std::uint8_t* fields) {
    if constexpr (bits == 4) {
        const __m512i bytes = _mm512_cvtepu8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(fields)));
        return _mm512_and_si512(_mm512_or_si512(bytes, _mm512_slli_epi16(bytes, 4)), _mm512_set1_epi8(15));
    } else {
        const __m512i bytes = _mm512_cvtepu8_epi32(bytes16(fields));
        const __m512i nibbles = _mm512_or_si512(bytes, _mm512_sllv_epi32(bytes, _mm512_set1_epi32(12)));
        const __m512i pairs = _mm512_or_si512(nibbles, _mm512_sllv_epi32(nibbles, _mm512_set1_epi32(6)));
        return _mm512_and_si512(pairs, _mm512_set1_epi8(3));
    }
}

template <int bits>
void expand_i8(const std::uint8_t* fields, int low, int step, std::size_t count, std::int8_t* panel) {
    std::int8_t values[16];  // what each field stands for
    for (int i = 0; i < 16; ++i) values[i] = static_cast<std::int8_t>(low + step * (i % (1 << bits)));
    const __m512i table = _mm512_broadcast_i32x4(bytes16(reinterpret_cast<const std::uint8_t*>(values)));
    const __m512i zero = _mm512_set1_epi8(values[0]), one = _mm512_set1_epi8(values[1]);
    const auto expanded = [&](const std::uint8_t* from) {
        if constexpr (bits == 1) return _mm512_mask_blend_epi8(loaded<std::uint64_t>(from), zero, one);
        else return _mm512_shuffle_epi8(table, spread<bits>(from));
    };
    for (; count >= kBytes; count -= kBytes, fields += kBytes * bits / 8, panel += kBytes)
        _mm512_storeu_si512(panel, expanded(fields));
    if (count) {
        std::uint8_t rest[kBytes * bits / 8] = {};
        std::memcpy(rest, fields, count * bits / 8);
        _mm512_mask_storeu_epi8(panel, (std::uint64_t(1) << count) - 1, expanded(rest));
    }
}

void to_i8(const std::uint8_t* fields, int bits, int low, int step, std::size_t count, std::int8_t* panel) {
    if (bits == 8) std::memcpy(panel, fields, count);
    if (bits == 4) expand_i8<4>(fields, low, step, count, panel);
    if (bits == 2) expand_i8<2>(fields, low, step, count, panel);
    if (bits == 1) expand_i8<1>(fields, low, step, count, panel);
}

template <int bits>
void expand_f32(const std::uint8_t* fields, int low, int step, std::size_t count, float* panel) {
    float values[16];
    for (int i = 0; i < 16; ++i) values[i] = static_cast<float>(low + step * (i % (1 << bits)));
    const __m512 table = _mm512_loadu_ps(values);
    for (; count; count -= 16, fields += 2 * bits, panel += 16) {
        __m512i field;  // in the lowest bits of a lane; the table takes no notice of those above
        if constexpr (bits == 4) {
            const __m512i bytes = _mm512_cvtepu8_epi64(_mm_cvtsi64_si128(loaded<std::int64_t>(fields)));
            field = _mm512_or_si512(bytes, _mm512_sllv_epi64(bytes, _mm512_set1_epi64(28)));
        } else {
            const int word = bits == 2 ? loaded<std::int32_t>(fields) : loaded<std::int16_t>(fields);
            const __m512i lane = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
            field = _mm512_srlv_epi32(_mm512_set1_epi32(word), bits == 2 ? _mm512_add_epi32(lane, lane) : lane);
        }
        _mm512_storeu_ps(panel, _mm512_permutexvar_ps(field, table));
    }
}

void to_f32(const std::uint8_t* fields, int bits, int low, int step, std::size_t count, float* panel) {
    if (bits == 8)
        for (; count; count -= 16, fields += 16, panel += 16)
            _mm512_storeu_ps(panel, _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes16(fields))));
    if (bits == 4) expand_f32<4>(fields, low, step, count, panel);
    if (bits == 2) expand_f32<2>(fields, low, step, count, panel);
    if (bits == 1) expand_f32<1>(fields, low, step, count, panel);
}

bool runs_on(const Cpu& cpu) { return cpu.avx512; }

}  // namespace

const ExpandKernel expand__avx512{"avx512", runs_on, to_i8, to_f32};

}  // namespace bitlens
