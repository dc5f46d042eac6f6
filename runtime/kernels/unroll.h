// Loops over an array of registers must be unrolled in full, or the compiler keeps the array in memory.
#pragma once

#if defined(__clang__)
#define BITLENS_UNROLL _Pragma("unroll")
#else
#define BITLENS_UNROLL _Pragma("GCC unroll 16")
#endif
