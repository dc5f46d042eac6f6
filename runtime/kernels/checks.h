// Refusing what Python hands over.
#pragma once

#include <stdexcept>
#include <string>

namespace bitlens {

[[noreturn]] inline void refuse(const std::string& what) { throw std::invalid_argument(what); }

inline void expect(bool holds, const char* what) {
    if (!holds) refuse(what);
}

}  // namespace bitlens
