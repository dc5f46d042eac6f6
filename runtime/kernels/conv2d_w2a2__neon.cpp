// Ternary weights and 2-bit codes, one cnt per bit of a code.
//
// A bit of a code adds 1 where it is set and the weight is +1, and takes 1 where it is set and the weight is -1. Where
// it is not set and the weight is -1, count 1 too: then each -1 has counted 1 too much whatever the code, and one count
// of the bits chosen from the two planes of weights serves for both. What is too much, 3 for each -1, is known
// beforehand.
// Packed: [32 channels] of int32, 3 * how many weights are -1; then [tap][group][+1, -1][32 channels] of uint32.
#include "bit_counts__neon.h"
#include "sum_kernels.h"
#include "word_packing.h"

namespace bitlens {
namespace {

constexpr int kPlanes = 2;
constexpr int kVectors = kWord / 4;
constexpr int kPart = 2;                                      // registers of channels that are counted together
constexpr int kPlaneBytes = kWord * sizeof(std::uint32_t);  // a plane of the weights of a group

// negative = code ? positive : negative
inline void choose(uint8x16_t& negative, uint8x16_t code, uint8x16_t positive) {
    asm volatile("bit %0.16b, %1.16b, %2.16b" : "+w"(negative) : "w"(positive), "w"(code));
}

struct Tile {
    static constexpr int kPixels = 1, kBlock = kWord, kGroupBytes = kPlanes * 4;

    // The planes of the weights of kPart registers; that of -1 once for each plane of the codes, which overwrites it.
    struct Part {
        uint8x16_t positive[kPart], negative[kPart][kPlanes];

        static constexpr int kLoads = kPart * (1 + kPlanes);

        void load_one(const std::uint8_t* weights, int number) {
            const int v = number / (1 + kPlanes), plane = number % (1 + kPlanes) - 1;
            if (plane < 0)
                positive[v] = load(weights + 16 * v);
            else
                negative[v][plane] = load(weights + kPlaneBytes + 16 * v);
        }
    };

    // The codes of a group and the first part of its weights are loaded; so are, in the end, those of the next group.
    template <bool last>
    static void count_group(uint8x16_t (&total)[kVectors][kPlanes], uint8x16_t (&codes)[kPlanes], Part& part,
                            const char* (&taps)[kPlanes], const std::uint8_t*& weights) {
        BITLENS_UNROLL
        for (int first = 0; first < kVectors; first += kPart) {
            const bool ends = first + kPart == kVectors;
            BITLENS_UNROLL
            for (int v = 0; v < kPart; ++v) {
                BITLENS_UNROLL
                for (int plane = 0; plane < kPlanes; ++plane)
                    choose(part.negative[v][plane], codes[plane], part.positive[v]);
            }
            uint8x16_t counts[kPart][kPlanes];
            BITLENS_UNROLL
            for (int v = 0; v < kPart; ++v) {
                BITLENS_UNROLL
                for (int plane = 0; plane < kPlanes; ++plane) {
                    counts[v][plane] = count(part.negative[v][plane]);
                    if (ends && !last && v == 0) codes[plane] = broadcast_word(taps[plane]);
                }
            }
            int loaded = 0;
            BITLENS_UNROLL
            for (int v = 0; v < kPart; ++v) {
                BITLENS_UNROLL
                for (int plane = 0; plane < kPlanes; ++plane) {
                    add(total[first + v][plane], counts[v][plane]);
                    if (!(ends && last)) {
                        part.load_one(weights, loaded++);
                        if (v > 0) part.load_one(weights, loaded++);
                    }
                    if (first == 0 && v == 0) advance(taps[plane], kGroupBytes);
                }
            }
            advance(weights, first + 2 * kPart == kVectors ? 16 * kPart + kPlaneBytes : 16 * kPart);
        }
    }

    static void count_groups(uint8x16_t (&total)[kVectors][kPlanes], int groups, const char* tap,
                             const std::uint8_t* weights) {
        const char* taps[kPlanes];
        uint8x16_t codes[kPlanes];
        BITLENS_UNROLL
        for (int plane = 0; plane < kPlanes; ++plane) {
            taps[plane] = tap + plane * 4;
            codes[plane] = broadcast_word(taps[plane]);
        }
        Part part;
        BITLENS_UNROLL
        for (int number = 0; number < Part::kLoads; ++number) part.load_one(weights, number);
        advance(weights, 16 * kPart);
        while (--groups > 0) count_group<false>(total, codes, part, taps, weights);
        count_group<true>(total, codes, part, taps, weights);
    }

    template <int pixels>
    static void run(const Row& row, const char* source, const void* packed, const std::int32_t* start,
                    std::int32_t* sums) {
        const auto* too_much = static_cast<const std::int32_t*>(packed);
        BITLENS_UNROLL
        for (int c = 0; c < kWord; c += 4)
            vst1q_s32(sums + c, vsubq_s32(vld1q_s32(start + c), vld1q_s32(too_much + c)));
        const auto* weights = static_cast<const std::uint8_t*>(packed) + kPlaneBytes;
        for (Runs runs(row, source, kGroupBytes); runs.left();) {
            uint8x16_t total[kVectors][kPlanes];
            BITLENS_UNROLL
            for (int v = 0; v < kVectors; ++v) total[v][0] = total[v][1] = vdupq_n_u8(0);
            for (int room = kGroupsInBytes, groups; room > 0 && runs.left(); room -= groups) {
                const char* tap = runs.take(room, groups);
                count_groups(total, groups, tap, weights);
                weights += groups * kPlanes * kPlaneBytes;
            }
            asm volatile("" : : : "memory");  // or the compiler holds sums in the registers that the totals need
            BITLENS_UNROLL
            for (int v = 0; v < kVectors; ++v) {
                const uint16x8_t doubled = vshlq_n_u16(vpaddlq_u8(total[v][1]), 1);
                auto* sum = reinterpret_cast<std::uint32_t*>(sums + 4 * v);
                vst1q_u32(sum, vpadalq_u16(vld1q_u32(sum), vpadalq_u8(doubled, total[v][0])));
            }
        }
    }
};

void run(const Row& row, const void* packed, const std::int32_t* start, std::int32_t* sums) {
    run_tiles<Tile>(row, packed, start, sums);
}

bool runs_on(const Cpu& cpu) { return cpu.neon; }

}  // namespace

const SumKernel conv2d_w2a2__neon{
    "conv2d_w2a2", "neon", runs_on, kWord, 0, 0, run, nullptr, counted_ternary_bytes, pack_counted_ternary};

}  // namespace bitlens
