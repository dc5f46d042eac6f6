// Where a code lies in a pixel of each integer form: what is stored of one channel, read and written.
#pragma once

#include "plan.h"

namespace bitlens {

inline int stored_code(const char* pixel, Form form, int c) {
    const auto* words = reinterpret_cast<const std::uint32_t*>(pixel);
    switch (form) {
        case Form::bits:
        case Form::mask:
            return static_cast<int>(words[c / 32] >> c % 32 & 1);
        case Form::planes:
            return static_cast<int>((words[c / 32 * 2] >> c % 32 & 1) + 2 * (words[c / 32 * 2 + 1] >> c % 32 & 1));
        case Form::u8:
        case Form::index:
            return static_cast<std::uint8_t>(pixel[c]);
        case Form::i16:
            return reinterpret_cast<const std::int16_t*>(pixel)[c];
        default:
            return reinterpret_cast<const std::int32_t*>(pixel)[c];
    }
}

inline void store_code(char* pixel, Form form, int c, int value) {
    auto* words = reinterpret_cast<std::uint32_t*>(pixel);
    const auto put = [c](std::uint32_t& word, int bit) {
        word = (word & ~(std::uint32_t(1) << c % 32)) | std::uint32_t(bit & 1) << c % 32;
    };
    switch (form) {
        case Form::bits:
        case Form::mask:
            return put(words[c / 32], value);
        case Form::planes:
            put(words[c / 32 * 2], value);
            return put(words[c / 32 * 2 + 1], value >> 1);
        case Form::u8:
        case Form::index:
            pixel[c] = static_cast<char>(value);
            return;
        case Form::i16:
            reinterpret_cast<std::int16_t*>(pixel)[c] = static_cast<std::int16_t>(value);
            return;
        default:
            reinterpret_cast<std::int32_t*>(pixel)[c] = value;
    }
}

}  // namespace bitlens
