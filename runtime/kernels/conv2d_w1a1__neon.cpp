// Binary weights and activations: cnt of the differing bits of each byte, added up in bytes. Packed: [tap][group][32
// channels] of uint32, so that a register holds a word of four channels and meets one word of a pixel in all its lanes.
#include <cstring>

#include "bit_counts__neon.h"
#include "sum_kernels.h"
#include "word_packing.h"

namespace bitlens {
namespace {

constexpr int kHalf = kWord / 8;         // registers of half the channels
constexpr int kWordBytes = kWord * 4;    // a word of every channel

inline uint8x16_t differing(uint8x16_t a, uint8x16_t b) {
    uint8x16_t c;
    asm volatile("eor %0.16b, %1.16b, %2.16b" : "=w"(c) : "w"(a), "w"(b));
    return c;
}

struct Tile {
    static constexpr int kPixels = 2, kBlock = kWord, kGroupBytes = 4;

    // A word of every pixel and half the channels' weights are loaded; so are, in the end, those of the next word.
    template <int pixels, bool last>
    static void count_word(uint8x16_t (&total)[2][pixels][kHalf], uint8x16_t (&codes)[pixels],
                           uint8x16_t (&channels)[kHalf], const char* (&taps)[pixels], const std::uint8_t*& weights) {
        BITLENS_UNROLL
        for (int half = 0; half < 2; ++half) {
            const bool load_next = half == 0 || !last;
            uint8x16_t part[kHalf][pixels];
            BITLENS_UNROLL
            for (int v = 0; v < kHalf; ++v) {
                BITLENS_UNROLL
                for (int p = 0; p < pixels; ++p) part[v][p] = differing(codes[p], channels[v]);
            }
            BITLENS_UNROLL
            for (int v = 0; v < kHalf; ++v) {
                BITLENS_UNROLL
                for (int p = 0; p < pixels; ++p) part[v][p] = count(part[v][p]);
                if (half == 1 && load_next && v < pixels) codes[v] = broadcast_word(taps[v]);
            }
            BITLENS_UNROLL
            for (int v = 0; v < kHalf; ++v) {
                BITLENS_UNROLL
                for (int p = 0; p < pixels; ++p) {
                    add(total[half][p][v], part[v][p]);
                    if (load_next && p == 0) channels[v] = load(weights + 16 * v);
                    if (half == 0 && v == 0) advance(taps[p], kGroupBytes);
                }
            }
            advance(weights, kWordBytes / 2);
        }
    }

    // `words` words of every pixel, from `tap` and `weights` on: at most kGroupsInBytes.
    template <int pixels>
    static void count_words(uint8x16_t (&total)[2][pixels][kHalf], int words, const char* tap,
                            std::ptrdiff_t pixel_step, const std::uint8_t* weights) {
        const char* taps[pixels];
        uint8x16_t codes[pixels], channels[kHalf];
        BITLENS_UNROLL
        for (int p = 0; p < pixels; ++p) {
            taps[p] = tap + p * pixel_step;
            codes[p] = broadcast_word(taps[p]);
        }
        BITLENS_UNROLL
        for (int v = 0; v < kHalf; ++v) channels[v] = load(weights + 16 * v);
        advance(weights, kWordBytes / 2);
        while (--words > 0) count_word<pixels, false>(total, codes, channels, taps, weights);
        count_word<pixels, true>(total, codes, channels, taps, weights);
    }

    template <int pixels>
    static void run(const Row& row, const char* source, const void* packed, const std::int32_t* start,
                    std::int32_t* sums) {
        const auto* weights = static_cast<const std::uint8_t*>(packed);
        std::memset(sums, 0, pixels * kWord * sizeof *sums);  // first how many bits differ, then the sums
        for (Runs runs(row, source, kGroupBytes); runs.left();) {
            uint8x16_t total[2][pixels][kHalf];
            BITLENS_UNROLL
            for (int p = 0; p < pixels; ++p) {
                BITLENS_UNROLL
                for (int v = 0; v < kHalf; ++v) total[0][p][v] = total[1][p][v] = vdupq_n_u8(0);
            }
            for (int room = kGroupsInBytes, words; room > 0 && runs.left(); room -= words) {
                const char* tap = runs.take(room, words);
                count_words(total, words, tap, row.pixel_step, weights);
                weights += words * kWordBytes;
            }
            asm volatile("" : : : "memory");  // or the compiler holds sums in the registers that the totals need
            BITLENS_UNROLL
            for (int p = 0; p < pixels; ++p) {
                BITLENS_UNROLL
                for (int v = 0; v < 2 * kHalf; ++v) {
                    auto* sum = reinterpret_cast<std::uint32_t*>(sums + p * kWord + 4 * v);
                    vst1q_u32(sum, vpadalq_u16(vld1q_u32(sum), vpaddlq_u8(total[v / kHalf][p][v % kHalf])));
                }
            }
        }
        for (int p = 0; p < pixels; ++p, sums += kWord) {
            BITLENS_UNROLL
            for (int c = 0; c < kWord; c += 4)
                vst1q_s32(sums + c, vsubq_s32(vld1q_s32(start + c), vshlq_n_s32(vld1q_s32(sums + c), 1)));
        }
    }
};

void run(const Row& row, const void* packed, const std::int32_t* start, std::int32_t* sums) {
    run_tiles<Tile>(row, packed, start, sums);
}

bool runs_on(const Cpu& cpu) { return cpu.neon; }

}  // namespace

const SumKernel conv2d_w1a1__neon{"conv2d_w1a1", "neon", runs_on, kWord, 0, 0, run, nullptr, binary_bytes, pack_binary};

}  // namespace bitlens
