// Unsigned bytes times int8 weights where either is small (binary, ternary and 4-bit weights): pairs of products are
// added up in int16 for kSteps groups before they are widened.
#include <immintrin.h>

#include "conv2d_tile.h"
#include "sum_kernels.h"

namespace bitlens {
namespace {

constexpr int kSteps = 8;  // 64 would be a sixth faster, but admit +-1 alone
constexpr int kLargestProduct = 32767 / kSteps;  // 4095 admits 255 * 8, so every 4-bit weight

// Not __m256i: gcc 12 then carries each sum twice through the loop, as int64 and as int16.
using Pairs = std::int16_t __attribute__((vector_size(32)));

struct Tile : PanelTile {
    using Number = std::int32_t;
    static constexpr int kLanes = 8, kPixels = 6, kVectors = 2, kChannels = kVectors * kLanes;

    template <int pixels>
    static void run(const Row& row, const char* source, const void* packed, const Number* start, Number* out) {
        const auto* panel = static_cast<const char*>(packed);
        BITLENS_UNROLL
        for (int p = 0; p < pixels; ++p) {
            BITLENS_UNROLL
            for (int v = 0; v < kVectors; ++v) store(out + p * kWord + v * kLanes, load(start + v * kLanes));
        }
        for (int y = 0; y < row.taps_high; ++y)
            for (int x = 0; x < row.taps_wide; ++x) {
                const char* tap = source + y * row.row_pitch + x * row.tap_step;
                for (int left = row.groups; left > 0; left -= kSteps) {
                    const int steps = left < kSteps ? left : kSteps;
                    add_groups<pixels>(steps, tap, row.pixel_step, panel, out);
                    tap += steps * kGroupBytes;
                    panel += steps * kPanelBytes;
                }
            }
    }

    static __m256i load(const void* from) { return _mm256_loadu_si256(static_cast<const __m256i*>(from)); }
    static void store(Number* to, __m256i sums) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), sums); }

    // Not inlined: beside the loops over taps gcc 12 has too few registers.
    template <int pixels>
    __attribute__((noinline)) static void add_groups(int steps, const char* tap, std::ptrdiff_t pixel_step,
                                                     const char* panel, Number* out) {
        Pairs pairs[pixels][kVectors];
        BITLENS_UNROLL
        for (int p = 0; p < pixels; ++p) {
            BITLENS_UNROLL
            for (int v = 0; v < kVectors; ++v) pairs[p][v] = Pairs{};
        }
        do {
            __m256i weights[kVectors];
            BITLENS_UNROLL
            for (int v = 0; v < kVectors; ++v) weights[v] = load(panel + v * kLanes * kGroupBytes);
            BITLENS_UNROLL
            for (int p = 0; p < pixels; ++p) {
                int bytes;
                __builtin_memcpy(&bytes, tap + p * pixel_step, sizeof bytes);
                const __m256i codes = _mm256_set1_epi32(bytes);
                BITLENS_UNROLL
                for (int v = 0; v < kVectors; ++v)
                    pairs[p][v] += reinterpret_cast<Pairs>(_mm256_maddubs_epi16(codes, weights[v]));
            }
            tap += kGroupBytes;
            panel += kPanelBytes;
        } while (--steps);
        BITLENS_UNROLL
        for (int p = 0; p < pixels; ++p) {
            BITLENS_UNROLL
            for (int v = 0; v < kVectors; ++v) {
                Number* sums = out + p * kWord + v * kLanes;
                const auto both = reinterpret_cast<__m256i>(pairs[p][v]);
                store(sums, _mm256_add_epi32(load(sums), _mm256_madd_epi16(both, _mm256_set1_epi16(1))));
            }
        }
    }
};

void run(const Row& row, const void* packed, const std::int32_t* start, std::int32_t* sums) {
    run_channels<Tile>(row, packed, start, sums);
}

bool runs_on(const Cpu& cpu) { return cpu.avx2; }

}  // namespace

const SumKernel conv2d_i8__avx2maddubs{
    "conv2d_i8", "avx2maddubs", runs_on, kWord, 0, kLargestProduct, run, nullptr, nullptr, nullptr};

}  // namespace bitlens
