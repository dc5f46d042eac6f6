// Row functions with AVX-512: comparisons into mask registers.
#include <immintrin.h>

#include "rows_vectorized.h"
#include "sum_kernels.h"

namespace bitlens {
namespace {

struct Lanes {
    static constexpr int kLanes = 16;
    using Ints = __m512i;
    using Floats = __m512;
    using Mask = __mmask16;

    static Ints load(const std::int32_t* from) { return _mm512_loadu_si512(from); }
    static Floats load(const float* from) { return _mm512_loadu_ps(from); }
    static void store(std::int32_t* to, Ints a) { _mm512_storeu_si512(to, a); }
    static void store(float* to, Floats a) { _mm512_storeu_ps(to, a); }
    static Ints all(int number) { return _mm512_set1_epi32(number); }
    static Floats all(float number) { return _mm512_set1_ps(number); }

    static Ints turned(Ints a, Ints turn) { return subtract(_mm512_xor_si512(a, turn), turn); }
    static Floats turned(Floats a, Ints turn) {
        return _mm512_xor_ps(a, _mm512_castsi512_ps(_mm512_slli_epi32(turn, 31)));
    }

    static Mask fails(Ints threshold, Ints a) { return _mm512_cmpgt_epi32_mask(threshold, a); }
    static Mask fails(Floats threshold, Floats a) { return _mm512_cmp_ps_mask(threshold, a, _CMP_NLE_UQ); }
    static Mask greater(Ints a, Ints b) { return _mm512_cmpgt_epi32_mask(a, b); }
    static Mask equal(Ints a, Ints b) { return _mm512_cmpeq_epi32_mask(a, b); }
    static Mask same(Mask m, Mask n) { return static_cast<Mask>(~(m ^ n)); }
    static Mask both(Mask m, Mask n) { return m & n; }
    static Mask either(Mask m, Mask n) { return m | n; }
    static bool any(Mask m) { return m != 0; }
    static Mask from_bits(std::uint32_t word) { return static_cast<Mask>(word); }
    static std::uint32_t word(const Mask* masks) { return masks[0] | std::uint32_t(masks[1]) << 16; }
    static Ints choose(Mask m, Ints a, Ints b) { return _mm512_mask_mov_epi32(b, m, a); }
    static Floats choose(Mask m, Floats a, Floats b) { return _mm512_mask_mov_ps(b, m, a); }
    static Ints minus_one(Ints a, Mask m) { return _mm512_mask_sub_epi32(a, m, a, all(1)); }

    static Ints lane_numbers() { return _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0); }
    static Ints times_channels(Ints a) { return _mm512_slli_epi32(a, 5); }
    static Ints gather(const std::int32_t* from, Ints index) { return _mm512_i32gather_epi32(index, from, 4); }
    static Floats gather(const float* from, Ints index) { return _mm512_i32gather_ps(index, from, 4); }

    static Ints add(Ints a, Ints b) { return _mm512_add_epi32(a, b); }
    static Floats add(Floats a, Floats b) { return _mm512_add_ps(a, b); }
    static Ints subtract(Ints a, Ints b) { return _mm512_sub_epi32(a, b); }
    static Floats subtract(Floats a, Floats b) { return _mm512_sub_ps(a, b); }
    static Ints multiply(Ints a, Ints b) { return _mm512_mullo_epi32(a, b); }
    static Floats multiply(Floats a, Floats b) { return _mm512_mul_ps(a, b); }
    static Floats divide(Floats a, Floats b) { return _mm512_div_ps(a, b); }
    static Ints smallest(Ints a, Ints b) { return _mm512_min_epi32(a, b); }
    static Floats smallest(Floats a, Floats b) { return _mm512_min_ps(a, b); }
    static Ints largest(Ints a, Ints b) { return _mm512_max_epi32(a, b); }
    static Floats largest(Floats a, Floats b) { return _mm512_max_ps(a, b); }
    static Floats magnitude(Floats a) { return _mm512_abs_ps(a); }
    static Floats to_float(Ints a) { return _mm512_cvtepi32_ps(a); }
    static Ints to_nearest(Floats a) { return _mm512_cvtps_epi32(a); }

    static void store_bytes(std::uint8_t* to, Ints numbers) {
        _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm512_cvtepi32_epi8(numbers));
    }
};

bool runs_on(const Cpu& cpu) { return cpu.avx512; }

}  // namespace

constexpr RowFunctions rows__avx512 = Rows<Lanes>::functions("avx512", runs_on);

}  // namespace bitlens
