#include "word_packing.h"

#include <cstdint>

#include "kernel.h"

namespace bitlens {
namespace {

constexpr int kPlanes = 2;

std::size_t word_bytes(std::size_t words) { return words * kWord * sizeof(std::uint32_t); }

std::size_t words_of(int taps, int groups) { return std::size_t(taps) * static_cast<std::size_t>(groups); }

// [32 channels][word] to [word][32 channels].
void turn_round(const void* canonical, std::size_t words, std::uint32_t* to) {
    const auto* from = static_cast<const std::uint32_t*>(canonical);
    for (int channel = 0; channel < kWord; ++channel)
        for (std::size_t word = 0; word < words; ++word) to[word * kWord + channel] = from[channel * words + word];
}

}  // namespace

std::size_t binary_bytes(int taps, int groups) { return word_bytes(words_of(taps, groups)); }

void pack_binary(const void* canonical, int taps, int groups, void* packed) {
    turn_round(canonical, words_of(taps, groups), static_cast<std::uint32_t*>(packed));
}

std::size_t ternary_bytes(int taps, int groups) { return word_bytes(kPlanes * words_of(taps, groups)); }

void pack_ternary(const void* canonical, int taps, int groups, void* packed) {
    turn_round(canonical, kPlanes * words_of(taps, groups), static_cast<std::uint32_t*>(packed));
}

std::size_t counted_ternary_bytes(int taps, int groups) { return word_bytes(1) + ternary_bytes(taps, groups); }

void pack_counted_ternary(const void* canonical, int taps, int groups, void* packed) {
    const std::size_t words = kPlanes * words_of(taps, groups);
    auto* count = static_cast<std::uint32_t*>(packed);
    std::uint32_t* planes = count + kWord;
    turn_round(canonical, words, planes);
    for (int channel = 0; channel < kWord; ++channel) {
        std::uint32_t negative = 0;
        for (std::size_t word = 1; word < words; word += kPlanes)
            negative += static_cast<std::uint32_t>(__builtin_popcount(planes[word * kWord + channel]));
        count[channel] = 3 * negative;
    }
}

}  // namespace bitlens
