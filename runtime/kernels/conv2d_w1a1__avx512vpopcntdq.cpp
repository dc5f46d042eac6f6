// Binary weights and activations, popcounts of 32-bit lanes. Packed: [tap][group][32 channels] of uint32.
#include <immintrin.h>

#include <cstring>

#include "row_tiles.h"
#include "sum_kernels.h"
#include "word_packing.h"

namespace bitlens {
namespace {

constexpr int kLanes = 16;  // a lane is an output channel
constexpr int kVectors = kWord / kLanes;
constexpr int kWordBytes = sizeof(std::uint32_t);

__m512i broadcast(const char* word) {
    int bits;
    std::memcpy(&bits, word, sizeof bits);
    return _mm512_set1_epi32(bits);
}

// Of the intrinsic's result gcc 12 makes a copy, for which the registers do not suffice.
void add(__m512i& sum, __m512i count) { __asm__("vpaddd %1, %0, %0" : "+v"(sum) : "v"(count)); }

struct Tile {
    static constexpr int kBlock = kWord, kGroupBytes = kWordBytes;
    static constexpr int kPixels = 8;  // 16 of 32 registers hold sums, 2 hold weights

    template <int pixels>
    static void run(const Row& row, const char* source, const void* packed, const std::int32_t* start,
                    std::int32_t* sums) {
        const auto* weights = static_cast<const __m512i*>(packed);
        __m512i differing[pixels][kVectors];
        BITLENS_UNROLL
        for (int p = 0; p < pixels; ++p) {
            BITLENS_UNROLL
            for (int v = 0; v < kVectors; ++v) differing[p][v] = _mm512_setzero_si512();
        }
        for (int y = 0; y < row.taps_high; ++y)
            for (int x = 0; x < row.taps_wide; ++x) {
                const char* tap = source + y * row.row_pitch + x * row.tap_step;
                for (int group = 0; group < row.groups; ++group, tap += kWordBytes, weights += kVectors) {
                    BITLENS_UNROLL
                    for (int p = 0; p < pixels; ++p) {
                        const __m512i word = broadcast(tap + p * row.pixel_step);
                        BITLENS_UNROLL
                        for (int v = 0; v < kVectors; ++v)
                            add(differing[p][v], _mm512_popcnt_epi32(_mm512_xor_si512(word, weights[v])));
                    }
                }
            }
        BITLENS_UNROLL
        for (int p = 0; p < pixels; ++p) {
            BITLENS_UNROLL
            for (int v = 0; v < kVectors; ++v) {
                const __m512i first = _mm512_loadu_si512(start + v * kLanes);
                const __m512i twice = _mm512_add_epi32(differing[p][v], differing[p][v]);
                _mm512_storeu_si512(sums + p * kWord + v * kLanes, _mm512_sub_epi32(first, twice));
            }
        }
    }
};

bool runs_on(const Cpu& cpu) { return cpu.avx512vpopcntdq; }

}  // namespace

const SumKernel conv2d_w1a1__avx512vpopcntdq{
    "conv2d_w1a1", "avx512vpopcntdq", runs_on, kWord, 0, 0, run_tiles<Tile>, nullptr, binary_bytes, pack_binary};

}  // namespace bitlens
