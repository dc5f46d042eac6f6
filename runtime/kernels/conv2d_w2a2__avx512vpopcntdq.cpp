// Ternary weights and 2-bit codes, popcounts of 32-bit lanes.
//
// A bit of a code adds 1 where it is set and the weight is +1, and takes 1 where it is set and the weight is -1. Where
// it is not set and the weight is -1, count 1 too: then each -1 has counted 1 too much whatever the code, and one
// popcount of the bits chosen from the two planes of weights serves for both. What is too much, 3 for each -1 as the
// bits weigh 1 and 2, is known beforehand.
// Packed: [32 channels] of int32, 3 * how many weights are -1; then [tap][group][+1, -1][32 channels] of uint32.
#include <immintrin.h>

#include <cstring>

#include "row_tiles.h"
#include "sum_kernels.h"
#include "word_packing.h"

namespace bitlens {
namespace {

constexpr int kLanes = 16;  // a lane is an output channel
constexpr int kVectors = kWord / kLanes;
constexpr int kPlanes = 2;
constexpr int kWordBytes = sizeof(std::uint32_t);

constexpr int kChoose = 0xca;  // a ? b : c

__m512i broadcast(const char* word) {
    int bits;
    std::memcpy(&bits, word, sizeof bits);
    return _mm512_set1_epi32(bits);
}

// Of the intrinsic's result gcc 12 makes a copy, for which the registers do not suffice.
void add(__m512i& sum, __m512i count) { __asm__("vpaddd %1, %0, %0" : "+v"(sum) : "v"(count)); }

struct Tile {
    static constexpr int kBlock = kWord, kGroupBytes = kPlanes * kWordBytes;
    static constexpr int kPixels = 4;  // 16 of 32 registers hold sums, 4 hold weights

    template <int pixels>
    static void run(const Row& row, const char* source, const void* packed, const std::int32_t* start,
                    std::int32_t* sums) {
        const auto* weights = static_cast<const __m512i*>(packed) + kVectors;
        __m512i low[pixels][kVectors], high[pixels][kVectors];
        BITLENS_UNROLL
        for (int p = 0; p < pixels; ++p) {
            BITLENS_UNROLL
            for (int v = 0; v < kVectors; ++v) low[p][v] = high[p][v] = _mm512_setzero_si512();
        }
        for (int y = 0; y < row.taps_high; ++y)
            for (int x = 0; x < row.taps_wide; ++x) {
                const char* tap = source + y * row.row_pitch + x * row.tap_step;
                for (int group = 0; group < row.groups; ++group, tap += kGroupBytes, weights += kPlanes * kVectors) {
                    BITLENS_UNROLL
                    for (int p = 0; p < pixels; ++p) {
                        const char* word = tap + p * row.pixel_step;
                        const __m512i ones = broadcast(word), twos = broadcast(word + kWordBytes);
                        BITLENS_UNROLL
                        for (int v = 0; v < kVectors; ++v) {
                            const __m512i positive = weights[v], negative = weights[kVectors + v];
                            add(low[p][v], _mm512_popcnt_epi32(
                                               _mm512_ternarylogic_epi32(ones, positive, negative, kChoose)));
                            add(high[p][v], _mm512_popcnt_epi32(
                                                _mm512_ternarylogic_epi32(twos, positive, negative, kChoose)));
                        }
                    }
                }
            }
        BITLENS_UNROLL
        for (int p = 0; p < pixels; ++p) {
            BITLENS_UNROLL
            for (int v = 0; v < kVectors; ++v) {
                const __m512i first = _mm512_sub_epi32(_mm512_loadu_si512(start + v * kLanes),
                                                       static_cast<const __m512i*>(packed)[v]);
                const __m512i counts = _mm512_add_epi32(low[p][v], _mm512_add_epi32(high[p][v], high[p][v]));
                _mm512_storeu_si512(sums + p * kWord + v * kLanes, _mm512_add_epi32(first, counts));
            }
        }
    }
};

bool runs_on(const Cpu& cpu) { return cpu.avx512vpopcntdq; }

}  // namespace

const SumKernel conv2d_w2a2__avx512vpopcntdq{
    "conv2d_w2a2", "avx512vpopcntdq", runs_on, kWord, 0, 0, run_tiles<Tile>, nullptr, counted_ternary_bytes,
    pack_counted_ternary};

}  // namespace bitlens
