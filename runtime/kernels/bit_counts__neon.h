// What the two families that count bits share on NEON: counts are added up in bytes for as long as those hold them.
// Included by files compiled for NEON only, so all of it is in an anonymous namespace.
#pragma once

#include <arm_neon.h>

#include "row_tiles.h"

namespace bitlens {
namespace {

constexpr int kGroupsInBytes = 31;  // 31 counts of at most 8 are below 256

// The instructions of the inner loops, volatile so that they stay in the order written. It suits processors that
// execute in order: a result is used several instructions later, and what comes next is loaded meanwhile.
inline uint8x16_t load(const std::uint8_t* from) {
    uint8x16_t a;
    asm volatile("ldr %q0, %1" : "=w"(a) : "m"(*reinterpret_cast<const uint8x16_t*>(from)));
    return a;
}
inline uint8x16_t broadcast_word(const char* from) {
    uint8x16_t a;
    asm volatile("ld1r {%0.4s}, %1" : "=w"(a) : "Q"(*reinterpret_cast<const std::uint32_t*>(from)));
    return a;
}
inline uint8x16_t count(uint8x16_t a) {
    uint8x16_t counts;
    asm volatile("cnt %0.16b, %1.16b" : "=w"(counts) : "w"(a));
    return counts;
}
inline void add(uint8x16_t& total, uint8x16_t a) {
    asm volatile("add %0.16b, %0.16b, %1.16b" : "+w"(total) : "w"(a));
}
template <class T>
void advance(const T*& pointer, int elements) {
    pointer += elements;
    asm volatile("" : "+r"(pointer));  // here, not just before it is needed
}

// The groups of a pixel's taps, in runs of neighbours.
class Runs {
public:
    Runs(const Row& row, const char* source, int group_bytes)
        : row_(row), source_(source), group_bytes_(group_bytes), left_(row.groups), tap_(source) {}

    bool left() const { return y_ < row_.taps_high; }

    // A run of at most `most` groups, and how many it has.
    const char* take(int most, int& groups) {
        const char* from = tap_;
        groups = left_ < most ? left_ : most;
        left_ -= groups;
        tap_ += groups * group_bytes_;
        if (left_ == 0) {
            left_ = row_.groups;
            if (++x_ == row_.taps_wide) {
                x_ = 0;
                ++y_;
            }
            tap_ = source_ + y_ * row_.row_pitch + x_ * row_.tap_step;
        }
        return from;
    }

private:
    const Row& row_;
    const char* source_;
    int group_bytes_, y_ = 0, x_ = 0, left_;
    const char* tap_;
};

}  // namespace
}  // namespace bitlens
