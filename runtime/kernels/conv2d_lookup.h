// A row of sums by lookup, for instruction sets that look up 16 bytes in a register at once (AVX2's pshufb).
//
// A byte lane is an output channel. Four channels of two words of bits choose one of 256 tables, and four weights
// choose the byte in it. Bytes are added in registers over a few words, then into 16-bit counts in memory, which stay
// in L1 with the weights of those words while 16 pixels pass; so weights come from further away once for 16 pixels.
#pragma once

#include <immintrin.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "row_tiles.h"

namespace bitlens {
namespace {

constexpr int kWordBytes = sizeof(std::uint32_t);
constexpr int kLanes = 32;
constexpr int kNibbles[] = {0, 2, 4, 6, 1, 3, 5, 7};  // of a word, in the order in which they are looked up
constexpr int kLookups = 8;                           // per word

using Table = std::array<std::uint8_t, 16>;
using Tables = std::array<Table, 256>;

constexpr int ones(int nibble) { return (nibble & 1) + (nibble >> 1 & 1) + (nibble >> 2 & 1) + (nibble >> 3 & 1); }

inline std::uint32_t word_at(const char* source) {
    std::uint32_t word;
    std::memcpy(&word, source, sizeof word);
    return word;
}

// Which tables two words choose: a byte each, its low half from `first`.
inline std::uint64_t choices(std::uint32_t first, std::uint32_t second) {
    constexpr std::uint32_t kLow = 0x0f0f0f0f;
    const std::uint32_t even = (first & kLow) | (second & kLow) << 4;
    const std::uint32_t odd = (first >> 4 & kLow) | (second & ~kLow);
    return even | std::uint64_t(odd) << 32;
}

inline __m256i chosen(const Tables& tables, std::uint64_t choices, int lookup) {
    const int turn = (8 * lookup + 60) % 64;  // the byte times 16
    const std::uint64_t offset = (choices >> turn | choices << (64 - turn)) & 0xff0;
    const auto* table = reinterpret_cast<const __m128i*>(reinterpret_cast<const char*>(tables.data()) + offset);
    return _mm256_broadcastsi128_si256(_mm_load_si128(table));
}

// As intrinsics they are added in another order, for which the registers do not suffice.
inline void add(__m256i& sum, __m256i bytes) { __asm__("vpaddb %1, %0, %0" : "+x"(sum) : "x"(bytes)); }
inline void subtract(__m256i& sum, __m256i bytes) { __asm__("vpsubb %1, %0, %0" : "+x"(sum) : "x"(bytes)); }

// 32 unsigned bytes more: counts[0] adds them as if each two were one number, counts[1] the odd bytes alone.
inline void count(__m256i* counts, __m256i bytes) {
    counts[0] = _mm256_add_epi16(counts[0], bytes);
    counts[1] = _mm256_add_epi16(counts[1], _mm256_srli_epi16(bytes, 8));
}

// Lookup says what is looked up:
//   kVectors              registers of channels
//   kGroupBytes           of the source
//   kPixels               of one call of add_words
//   kChunk                words of one call of add_words
//   kChunksPerDrain       after which the counts may exceed 15 bits
//   add_words<pixels>()   adds to the counts of some pixels
//   sum()                 8 sums from what they start with, counts, and of how many words
template <class Lookup>
struct LookupRow {
    static constexpr int kBlock = Lookup::kVectors * kLanes;
    static constexpr int kRowPixels = 16;

    template <int pixels = Lookup::kPixels>
    static void add_words(int some, const char* source, const Row& row, const std::ptrdiff_t* offsets, int words,
                          const __m256i* weights, __m256i* counts) {
        if constexpr (pixels > 1)
            if (some < pixels) return add_words<pixels - 1>(some, source, row, offsets, words, weights, counts);
        Lookup::template add_words<pixels>(source, row.pixel_step, offsets, words, weights, counts);
    }

    static void drain(const __m256i* counts, int words, const std::int32_t* from, std::int32_t* sums) {
        for (int vector = 0; vector < Lookup::kVectors; ++vector, counts += 2, from += kLanes, sums += kLanes) {
            const __m256i odd = counts[1], even = _mm256_sub_epi16(counts[0], _mm256_slli_epi16(odd, 8));
            const __m256i low = _mm256_unpacklo_epi16(even, odd), high = _mm256_unpackhi_epi16(even, odd);
            const __m128i eights[] = {_mm256_castsi256_si128(low), _mm256_castsi256_si128(high),
                                      _mm256_extracti128_si256(low, 1), _mm256_extracti128_si256(high, 1)};
            BITLENS_UNROLL
            for (int i = 0; i < 4; ++i) {
                const __m256i start = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from + 8 * i));
                const __m256i eight = Lookup::sum(start, _mm256_cvtepi16_epi32(eights[i]), words);
                _mm256_storeu_si256(reinterpret_cast<__m256i*>(sums + 8 * i), eight);
            }
        }
    }

    static void run_pixels(const Row& row, const char* source, int pixels, const void* packed,
                           const std::int32_t* start, std::int32_t* sums) {
        __m256i counts[kRowPixels * 2 * Lookup::kVectors];
        const auto* weights = static_cast<const __m256i*>(packed);
        int y = 0, x = 0, group = 0;
        for (bool first = true; y < row.taps_high; first = false) {
            std::memset(counts, 0, sizeof counts);
            int counted = 0;
            for (int chunk = 0; chunk < Lookup::kChunksPerDrain && y < row.taps_high; ++chunk) {
                std::ptrdiff_t offsets[Lookup::kChunk];
                int words = 0;
                while (words < Lookup::kChunk && y < row.taps_high) {
                    offsets[words++] = y * row.row_pitch + x * row.tap_step + group * Lookup::kGroupBytes;
                    if (++group < row.groups) continue;
                    group = 0;
                    if (++x < row.taps_wide) continue;
                    x = 0;
                    ++y;
                }
                for (int p = 0; p < pixels; p += Lookup::kPixels)
                    add_words(pixels - p, source + p * row.pixel_step, row, offsets, words, weights,
                              counts + p * 2 * Lookup::kVectors);
                weights += words * Lookup::kVectors * kLookups;
                counted += words;
            }
            for (int p = 0; p < pixels; ++p)
                drain(counts + p * 2 * Lookup::kVectors, counted, first ? start : sums + p * kBlock, sums + p * kBlock);
        }
    }

    static void run(const Row& given, const void* packed, const std::int32_t* start, std::int32_t* sums) {
        const Row row = merged(given, Lookup::kGroupBytes);
        const auto* source = static_cast<const char*>(row.source);
        for (int left = row.pixels; left > 0; left -= kRowPixels) {
            run_pixels(row, source, std::min(left, kRowPixels), packed, start, sums);
            source += kRowPixels * row.pixel_step;
            sums += kRowPixels * kBlock;
        }
    }
};

}  // namespace
}  // namespace bitlens
