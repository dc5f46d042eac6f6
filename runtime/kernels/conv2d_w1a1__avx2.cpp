// Binary weights and activations, differing bits looked up for four channels of two pixels at a time.
//
// The low half of a byte that is looked up counts the first pixel's differing bits, the high half the second's. Three
// such bytes are added before a half can overflow. The sum of all bytes modulo 256, and that of their high halves, give
// both counts.
// Packed: [tap][group][nibble][channel] of uint8, the weights of 4 channels.
#include "conv2d_lookup.h"
#include "sum_kernels.h"

namespace bitlens {
namespace {

constexpr Tables differing_tables() {
    Tables tables{};
    for (int codes = 0; codes < 256; ++codes)
        for (int weights = 0; weights < 16; ++weights)
            tables[codes][weights] =
                static_cast<std::uint8_t>(ones((codes & 15) ^ weights) + 16 * ones(codes >> 4 ^ weights));
    return tables;
}

alignas(64) constexpr Tables kTables = differing_tables();

template <int vectors>
struct Differing {
    static constexpr int kVectors = vectors;
    static constexpr int kGroupBytes = kWordBytes;
    static constexpr int kPixels = 2;
    static constexpr int kChunk = 7;             // 7 * 32 bits fit in a byte
    static constexpr int kChunksPerDrain = 146;  // 146 * 7 * 32 fit in 15 bits

    template <int pixels>
    static void add_words(const char* source, std::ptrdiff_t pixel_step, const std::ptrdiff_t* offsets, int words,
                          const __m256i* weights, __m256i* counts) {
        const char* second = pixels > 1 ? source + pixel_step : source;
        const __m256i half = _mm256_set1_epi8(15);
        __m256i sums[vectors], highs[vectors];
        BITLENS_UNROLL
        for (int v = 0; v < vectors; ++v) sums[v] = highs[v] = _mm256_setzero_si256();
        for (int word = 0; word < words; ++word, weights += kLookups * vectors) {
            const std::uint64_t both = choices(word_at(source + offsets[word]), word_at(second + offsets[word]));
            BITLENS_UNROLL
            for (int i = 0; i < kLookups; i += 3) {
                const bool three = i + 2 < kLookups;
                const __m256i a = chosen(kTables, both, i), b = chosen(kTables, both, i + 1);
                const __m256i c = three ? chosen(kTables, both, i + 2) : a;
                BITLENS_UNROLL
                for (int v = 0; v < vectors; ++v) {
                    const __m256i* w = weights + i * vectors + v;
                    __m256i bytes = _mm256_add_epi8(_mm256_shuffle_epi8(a, w[0]), _mm256_shuffle_epi8(b, w[vectors]));
                    if (three) bytes = _mm256_add_epi8(bytes, _mm256_shuffle_epi8(c, w[2 * vectors]));
                    add(sums[v], bytes);
                    add(highs[v], _mm256_and_si256(_mm256_srli_epi16(bytes, 4), half));
                }
            }
        }
        BITLENS_UNROLL
        for (int v = 0; v < vectors; ++v) {
            const __m256i sixteen_highs = _mm256_andnot_si256(half, _mm256_slli_epi16(highs[v], 4));
            count(counts + 2 * v, _mm256_sub_epi8(sums[v], sixteen_highs));
            if (pixels > 1) count(counts + 2 * vectors + 2 * v, highs[v]);
        }
    }

    static __m256i sum(__m256i start, __m256i differing, int) {
        return _mm256_sub_epi32(start, _mm256_add_epi32(differing, differing));
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
        for (std::size_t word = 0; word < words; ++word)
            for (int i = 0; i < kLookups; ++i)
                to[(word * kLookups + i) * kBlock + channel] =
                    static_cast<std::uint8_t>(from[channel * words + word] >> 4 * kNibbles[i] & 15);
}

bool runs_on(const Cpu& cpu) { return cpu.avx2; }

template <int vectors>
constexpr SumKernel kernel{"conv2d_w1a1", "avx2", runs_on, vectors * kLanes, 0, 0, LookupRow<Differing<vectors>>::run,
                           nullptr, packed_bytes<vectors>, pack<vectors>};

}  // namespace

const SumKernel conv2d_w1a1__avx2_block128 = kernel<4>;
const SumKernel conv2d_w1a1__avx2_block64 = kernel<2>;
const SumKernel conv2d_w1a1__avx2_block32 = kernel<1>;

}  // namespace bitlens
