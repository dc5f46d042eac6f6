// Packed fields to panels, 32 int8 or 8 floats at a time.
#include <immintrin.h>

#include <cstring>

#include "sum_kernels.h"

namespace bitlens {
namespace {

constexpr int kBytes = 32;  // int8 values at a time

template <class T>
T loaded(const std::uint8_t* from) {
    T value;
    std::memcpy(&value, from, sizeof value);
    return value;
}

__m128i bytes16(const std::uint8_t* from) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(from)); }
__m128i bytes8(const std::uint8_t* from) { return _mm_cvtsi64_si128(loaded<std::int64_t>(from)); }

// 32 fields, one a byte: shifted copies put each where it belongs; single bits are told by what is left of their byte.
template <int bits>
__m256i spread(const std::uint8_t* fields) {
    if constexpr (bits == 4) {
        const __m256i bytes = _mm256_cvtepu8_epi16(bytes16(fields));
        return _mm256_and_si256(_mm256_or_si256(bytes, _mm256_slli_epi16(bytes, 4)), _mm256_set1_epi8(15));
    } else if constexpr (bits == 2) {
        const __m256i bytes = _mm256_cvtepu8_epi32(bytes8(fields));
        const __m256i nibbles = _mm256_or_si256(bytes, _mm256_slli_epi32(bytes, 12));
        const __m256i pairs = _mm256_or_si256(nibbles, _mm256_slli_epi32(nibbles, 6));
        return _mm256_and_si256(pairs, _mm256_set1_epi8(3));
    } else {
        const __m256i byte_of = _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303);
        const __m256i bytes = _mm256_shuffle_epi8(_mm256_set1_epi32(loaded<std::int32_t>(fields)), byte_of);
        const __m256i bit_of = _mm256_set1_epi64x(static_cast<long long>(0x8040201008040201));
        const __m256i is_set = _mm256_cmpeq_epi8(_mm256_and_si256(bytes, bit_of), bit_of);
        return _mm256_sub_epi8(_mm256_setzero_si256(), is_set);
    }
}

template <int bits>
void expand_i8(const std::uint8_t* fields, int low, int step, std::size_t count, std::int8_t* panel) {
    std::uint8_t values[16];  // what each field stands for
    for (int i = 0; i < 16; ++i) values[i] = static_cast<std::uint8_t>(low + step * (i % (1 << bits)));
    const __m256i table = _mm256_broadcastsi128_si256(bytes16(values));
    for (; count; count -= kBytes, fields += kBytes * bits / 8, panel += kBytes)
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(panel), _mm256_shuffle_epi8(table, spread<bits>(fields)));
}

void to_i8(const std::uint8_t* fields, int bits, int low, int step, std::size_t count, std::int8_t* panel) {
    if (bits == 8) std::memcpy(panel, fields, count);
    if (bits == 4) expand_i8<4>(fields, low, step, count, panel);
    if (bits == 2) expand_i8<2>(fields, low, step, count, panel);
    if (bits == 1) expand_i8<1>(fields, low, step, count, panel);
}

// Small integers: product and sum are exact.
template <int bits>
void expand_f32(const std::uint8_t* fields, int low, int step, std::size_t count, float* panel) {
    const __m256 first = _mm256_set1_ps(static_cast<float>(low)), each = _mm256_set1_ps(static_cast<float>(step));
    const __m256i shift = _mm256_setr_epi32(0, bits, 2 * bits, 3 * bits, 4 * bits, 5 * bits, 6 * bits, 7 * bits);
    for (; count; count -= 8, fields += bits, panel += 8) {
        std::uint32_t word = 0;
        std::memcpy(&word, fields, bits);
        const __m256i words = _mm256_set1_epi32(static_cast<int>(word));
        const __m256i field = _mm256_and_si256(_mm256_srlv_epi32(words, shift), _mm256_set1_epi32((1 << bits) - 1));
        _mm256_storeu_ps(panel, _mm256_add_ps(first, _mm256_mul_ps(each, _mm256_cvtepi32_ps(field))));
    }
}

void to_f32(const std::uint8_t* fields, int bits, int low, int step, std::size_t count, float* panel) {
    if (bits == 8)
        for (; count; count -= 8, fields += 8, panel += 8)
            _mm256_storeu_ps(panel, _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes8(fields))));
    if (bits == 4) expand_f32<4>(fields, low, step, count, panel);
    if (bits == 2) expand_f32<2>(fields, low, step, count, panel);
    if (bits == 1) expand_f32<1>(fields, low, step, count, panel);
}

bool runs_on(const Cpu& cpu) { return cpu.avx2; }

}  // namespace

const ExpandKernel expand__avx2{"avx2", runs_on, to_i8, to_f32};

}  // namespace bitlens
