// Ternary weights and 2-bit codes, sums of four channels' codes looked up: of those that +1 chooses, less those of -1.
//
// A nibble adds at most 12 either way, so that the sum of a word, and 128, fit in a byte.
// Packed: [tap][group][nibble][channel] of uint8, which of 4 channels have +1 (low half) and which -1 (high half).
#include "conv2d_lookup.h"
#include "sum_kernels.h"

namespace bitlens {
namespace {

constexpr int kPlanes = 2;
constexpr int kMiddle = 128;

constexpr Tables code_tables() {
    Tables tables{};
    for (int codes = 0; codes < 256; ++codes)
        for (int weights = 0; weights < 16; ++weights)
            tables[codes][weights] = static_cast<std::uint8_t>(ones(codes & weights) + 2 * ones(codes >> 4 & weights));
    return tables;
}

alignas(64) constexpr Tables kTables = code_tables();

template <int vectors>
struct Codes {
    static constexpr int kVectors = vectors;
    static constexpr int kGroupBytes = kPlanes * kWordBytes;
    static constexpr int kPixels = 4;
    static constexpr int kChunk = 8;            // 4 KB of weights
    static constexpr int kChunksPerDrain = 42;  // 42 * 8 * 96 fit in 15 bits

    template <int pixels>
    static void add_words(const char* source, std::ptrdiff_t pixel_step, const std::ptrdiff_t* offsets, int words,
                          const __m256i* weights, __m256i* counts) {
        const __m256i half = _mm256_set1_epi8(15), middle = _mm256_set1_epi8(static_cast<char>(kMiddle));
        for (int word = 0; word < words; ++word, weights += kLookups * vectors) {
            __m256i sums[pixels][vectors];
            std::uint64_t both[pixels];
            BITLENS_UNROLL
            for (int p = 0; p < pixels; ++p) {
                const char* codes = source + p * pixel_step + offsets[word];
                both[p] = choices(word_at(codes), word_at(codes + kWordBytes));
                BITLENS_UNROLL
                for (int v = 0; v < vectors; ++v) sums[p][v] = middle;
            }
            BITLENS_UNROLL
            for (int i = 0; i < kLookups; ++i) {
                __m256i positive[vectors], negative[vectors];
                BITLENS_UNROLL
                for (int v = 0; v < vectors; ++v) {
                    const __m256i w = weights[i * vectors + v];
                    positive[v] = _mm256_and_si256(w, half);
                    negative[v] = _mm256_and_si256(_mm256_srli_epi16(w, 4), half);
                }
                BITLENS_UNROLL
                for (int p = 0; p < pixels; ++p) {
                    const __m256i table = chosen(kTables, both[p], i);
                    BITLENS_UNROLL
                    for (int v = 0; v < vectors; ++v) {
                        add(sums[p][v], _mm256_shuffle_epi8(table, positive[v]));
                        subtract(sums[p][v], _mm256_shuffle_epi8(table, negative[v]));
                    }
                }
            }
            BITLENS_UNROLL
            for (int p = 0; p < pixels; ++p) {
                BITLENS_UNROLL
                for (int v = 0; v < vectors; ++v) count(counts + (p * vectors + v) * 2, sums[p][v]);
            }
            __asm__ volatile("" : : : "memory");  // or gcc wants the counts in registers too, and none is left
        }
    }

    static __m256i sum(__m256i start, __m256i counts, int words) {
        // The counts came round at 16 bits; less their middle they have not.
        const __m256i sums = _mm256_sub_epi32(counts, _mm256_set1_epi32(kMiddle * words));
        return _mm256_add_epi32(start, _mm256_srai_epi32(_mm256_slli_epi32(sums, 16), 16));
    }
};

template <int vectors>
std::size_t packed_bytes(int taps, int groups) {
    return std::size_t(taps) * groups * kLookups * vectors * kLanes;
}

template <int vectors>
void pack(const void* canonical, int taps, int groups, void* packed) {
    constexpr int kBlock = vectors * kLanes;
    const auto* from = static_cast<const std::uint32_t*>(canonical);
    auto* to = static_cast<std::uint8_t*>(packed);
    const std::size_t words = std::size_t(taps) * groups;
    for (int channel = 0; channel < kBlock; ++channel)
        for (std::size_t word = 0; word < words; ++word) {
            const std::uint32_t* planes = from + (channel * words + word) * kPlanes;
            for (int i = 0; i < kLookups; ++i) {
                const int shift = 4 * kNibbles[i];
                to[(word * kLookups + i) * kBlock + channel] =
                    static_cast<std::uint8_t>((planes[0] >> shift & 15) | (planes[1] >> shift & 15) << 4);
            }
        }
}

bool runs_on(const Cpu& cpu) { return cpu.avx2; }

template <int vectors>
constexpr SumKernel kernel{"conv2d_w2a2", "avx2", runs_on, vectors * kLanes, 0, 0, LookupRow<Codes<vectors>>::run,
                           nullptr, packed_bytes<vectors>, pack<vectors>};

}  // namespace

const SumKernel conv2d_w2a2__avx2_block64 = kernel<2>;
const SumKernel conv2d_w2a2__avx2_block32 = kernel<1>;

}  // namespace bitlens
