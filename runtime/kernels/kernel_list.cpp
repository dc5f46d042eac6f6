#include "kernel_list.h"

#include "sum_kernels.h"

namespace bitlens {

const std::vector<SumKernel>& sum_kernels() {
    static const std::vector<SumKernel> list{
#if defined(__x86_64__)
        conv2d_w1a1__avx512vpopcntdq,
        conv2d_w1a1__avx2_block128,
        conv2d_w1a1__avx2_block64,
        conv2d_w1a1__avx2_block32,
        conv2d_w2a2__avx512vpopcntdq,
        conv2d_w2a2__avx2_block64,
        conv2d_w2a2__avx2_block32,
        conv2d_i8__avx512vnni,
        conv2d_i8__avxvnni,
        conv2d_i8__avx2maddubs,
        conv2d_i8__avx2,
        conv2d_i16__avx512vnni,
        conv2d_i16__avx2,
        conv2d_f32__avx512,
        conv2d_f32__avx2,
#elif defined(__aarch64__)
        conv2d_w1a1__neon,
        conv2d_w2a2__neon,
        conv2d_i8__neondot,
        conv2d_i8__neon,
        conv2d_i16__neon,
        conv2d_f32__neon,
#endif
        conv2d_w1a1__scalar, conv2d_w2a2__scalar, conv2d_i8__scalar, conv2d_i16__scalar, conv2d_f32__scalar,
    };
    return list;
}

const std::vector<ExpandKernel>& expand_kernels() {
    static const std::vector<ExpandKernel> list{
#if defined(__x86_64__)
        expand__avx512,
        expand__avx2,
#elif defined(__aarch64__)
        expand__neon,
#endif
        expand__scalar,
    };
    return list;
}

const std::vector<RowFunctions>& row_functions() {
    static const std::vector<RowFunctions> list{
#if defined(__x86_64__)
        rows__avx512,
        rows__avx2,
#elif defined(__aarch64__)
        rows__neon,
#endif
        rows__scalar,
    };
    return list;
}

}  // namespace bitlens
