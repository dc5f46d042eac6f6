// Packed fields to panels, a byte of fields at a time.
#include "sum_kernels.h"

namespace bitlens {
namespace {

template <class T>
void expand(const std::uint8_t* fields, int bits, int low, int step, std::size_t count, T* panel) {
    if (bits == 8) {
        for (std::size_t i = 0; i < count; ++i) panel[i] = static_cast<T>(static_cast<std::int8_t>(fields[i]));
        return;
    }
    T values[16];  // what each field stands for
    for (int field = 0; field < 1 << bits; ++field) values[field] = static_cast<T>(low + step * field);
    const int per_byte = 8 / bits, mask = (1 << bits) - 1;
    for (std::size_t i = 0; i < count; i += static_cast<std::size_t>(per_byte)) {
        unsigned byte = *fields++;
        for (int k = 0; k < per_byte; ++k, byte >>= bits) *panel++ = values[byte & static_cast<unsigned>(mask)];
    }
}

bool runs_on(const Cpu&) { return true; }

}  // namespace

const ExpandKernel expand__scalar{"scalar", runs_on, expand<std::int8_t>, expand<float>};

}  // namespace bitlens
