#include "cpu.h"

#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__)
#include <sys/auxv.h>
#endif

namespace bitlens {
namespace {

#if defined(__x86_64__)
unsigned long long enabled_state() {
    unsigned low, high;
    __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return static_cast<unsigned long long>(high) << 32 | low;
}
#endif

Cpu detected() {
    Cpu cpu;
#if defined(__x86_64__)
    unsigned a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c >> 27 & 1)) return cpu;  // OSXSAVE: xgetbv may be asked
    const bool fma = c >> 12 & 1;
    const unsigned long long state = enabled_state();
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return cpu;
    const unsigned leaves = a;
    cpu.avx2 = (state & 0x6) == 0x6 && fma && (b >> 5 & 1) && (b >> 3 & 1) && (b >> 8 & 1);
    const bool state512 = (state & 0xe6) == 0xe6;
    cpu.avx512 = cpu.avx2 && state512 && (b >> 16 & 1) && (b >> 17 & 1) && (b >> 30 & 1) && (b >> 31 & 1);
    cpu.avx512vnni = cpu.avx512 && (c >> 11 & 1);
    cpu.avx512vpopcntdq = cpu.avx512 && (c >> 14 & 1);
    if (leaves >= 1 && __get_cpuid_count(7, 1, &a, &b, &c, &d)) cpu.avxvnni = cpu.avx2 && (a >> 4 & 1);
#elif defined(__aarch64__)
    cpu.neon = true;
    cpu.neondot = getauxval(AT_HWCAP) >> 20 & 1;
#endif
    return cpu;
}

}  // namespace

const Cpu& this_cpu() {
    static const Cpu cpu = detected();
    return cpu;
}

}  // namespace bitlens
