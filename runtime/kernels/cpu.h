// What the processor can do. Compiled for the baseline of the architecture.
#pragma once

namespace bitlens {

struct Cpu {
    bool avx2 = false;             // with BMI and FMA, as every processor with AVX2 has
    bool avxvnni = false;          // vpdpbusd on 256 bits, without AVX-512
    bool avx512 = false;           // F, BW, DQ and VL
    bool avx512vnni = false;       // with avx512
    bool avx512vpopcntdq = false;  // with avx512
    bool neon = false;
    bool neondot = false;          // SDOT: HWCAP_ASIMDDP
};

// What this processor and its operating system offer; asked once.
const Cpu& this_cpu();

}  // namespace bitlens
