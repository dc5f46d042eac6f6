// Row functions with AVX2.
#include <immintrin.h>

#include "rows_vectorized.h"
#include "sum_kernels.h"

namespace bitlens {
namespace {

struct Lanes {
    static constexpr int kLanes = 8;
    using Ints = __m256i;
    using Floats = __m256;
    using Mask = __m256i;

    static Ints load(const std::int32_t* from) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)); }
    static Floats load(const float* from) { return _mm256_loadu_ps(from); }
    static void store(std::int32_t* to, Ints a) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), a); }
    static void store(float* to, Floats a) { _mm256_storeu_ps(to, a); }
    static Ints all(int number) { return _mm256_set1_epi32(number); }
    static Floats all(float number) { return _mm256_set1_ps(number); }

    static Ints turned(Ints a, Ints turn) { return subtract(_mm256_xor_si256(a, turn), turn); }
    static Floats turned(Floats a, Ints turn) {
        return _mm256_xor_ps(a, _mm256_castsi256_ps(_mm256_slli_epi32(turn, 31)));
    }

    static Mask fails(Ints threshold, Ints a) { return _mm256_cmpgt_epi32(threshold, a); }
    static Mask fails(Floats threshold, Floats a) {
        return _mm256_castps_si256(_mm256_cmp_ps(threshold, a, _CMP_NLE_UQ));
    }
    static Mask greater(Ints a, Ints b) { return _mm256_cmpgt_epi32(a, b); }
    static Mask equal(Ints a, Ints b) { return _mm256_cmpeq_epi32(a, b); }
    static Mask same(Mask m, Mask n) { return equal(m, n); }
    static Mask both(Mask m, Mask n) { return _mm256_and_si256(m, n); }
    static Mask either(Mask m, Mask n) { return _mm256_or_si256(m, n); }
    static bool any(Mask m) { return !_mm256_testz_si256(m, m); }
    static Mask from_bits(std::uint32_t word) {
        const __m256i bit = _mm256_set_epi32(128, 64, 32, 16, 8, 4, 2, 1);
        return equal(_mm256_and_si256(all(static_cast<int>(word)), bit), bit);
    }
    static std::uint32_t word(const Mask* masks) {
        const __m256i low = _mm256_packs_epi32(masks[0], masks[1]), high = _mm256_packs_epi32(masks[2], masks[3]);
        // Packing works inside halves, so fours of bytes come out as 0 2 4 6 1 3 5 7.
        const __m256i bytes = _mm256_permutevar8x32_epi32(_mm256_packs_epi16(low, high),
                                                          _mm256_set_epi32(7, 3, 6, 2, 5, 1, 4, 0));
        return static_cast<std::uint32_t>(_mm256_movemask_epi8(bytes));
    }
    static Ints choose(Mask m, Ints a, Ints b) { return _mm256_blendv_epi8(b, a, m); }
    static Floats choose(Mask m, Floats a, Floats b) { return _mm256_blendv_ps(b, a, _mm256_castsi256_ps(m)); }
    static Ints minus_one(Ints a, Mask m) { return add(a, m); }

    static Ints lane_numbers() { return _mm256_set_epi32(7, 6, 5, 4, 3, 2, 1, 0); }
    static Ints times_channels(Ints a) { return _mm256_slli_epi32(a, 5); }
    static Ints gather(const std::int32_t* from, Ints index) { return _mm256_i32gather_epi32(from, index, 4); }
    static Floats gather(const float* from, Ints index) { return _mm256_i32gather_ps(from, index, 4); }

    static Ints add(Ints a, Ints b) { return _mm256_add_epi32(a, b); }
    static Floats add(Floats a, Floats b) { return _mm256_add_ps(a, b); }
    static Ints subtract(Ints a, Ints b) { return _mm256_sub_epi32(a, b); }
    static Floats subtract(Floats a, Floats b) { return _mm256_sub_ps(a, b); }
    static Ints multiply(Ints a, Ints b) { return _mm256_mullo_epi32(a, b); }
    static Floats multiply(Floats a, Floats b) { return _mm256_mul_ps(a, b); }
    static Floats divide(Floats a, Floats b) { return _mm256_div_ps(a, b); }
    static Ints smallest(Ints a, Ints b) { return _mm256_min_epi32(a, b); }
    static Floats smallest(Floats a, Floats b) { return _mm256_min_ps(a, b); }
    static Ints largest(Ints a, Ints b) { return _mm256_max_epi32(a, b); }
    static Floats largest(Floats a, Floats b) { return _mm256_max_ps(a, b); }
    static Floats magnitude(Floats a) { return _mm256_andnot_ps(all(-0.0f), a); }
    static Floats to_float(Ints a) { return _mm256_cvtepi32_ps(a); }
    static Ints to_nearest(Floats a) { return _mm256_cvtps_epi32(a); }

    static void store_bytes(std::uint8_t* to, Ints numbers) {
        const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(numbers), _mm256_extracti128_si256(numbers, 1));
        _mm_storel_epi64(reinterpret_cast<__m128i*>(to), _mm_packus_epi16(words, words));
    }
};

bool runs_on(const Cpu& cpu) { return cpu.avx2; }

}  // namespace

constexpr RowFunctions rows__avx2 = Rows<Lanes>::functions("avx2", runs_on);

}  // namespace bitlens
