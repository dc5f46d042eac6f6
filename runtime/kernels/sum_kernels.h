// Declarations of every kernel, one line each; kernel_list.cpp says on which architecture it exists.
#pragma once

#include "kernel.h"
#include "row_functions.h"

namespace bitlens {

extern const SumKernel conv2d_w1a1__neon;
extern const SumKernel conv2d_w1a1__avx512vpopcntdq;
extern const SumKernel conv2d_w1a1__avx2_block128;
extern const SumKernel conv2d_w1a1__avx2_block64;
extern const SumKernel conv2d_w1a1__avx2_block32;
extern const SumKernel conv2d_w1a1__scalar;
extern const SumKernel conv2d_w2a2__avx512vpopcntdq;
extern const SumKernel conv2d_w2a2__avx2_block64;
extern const SumKernel conv2d_w2a2__avx2_block32;
extern const SumKernel conv2d_w2a2__neon;
extern const SumKernel conv2d_w2a2__scalar;
extern const SumKernel conv2d_i8__avx512vnni;
extern const SumKernel conv2d_i8__avxvnni;
extern const SumKernel conv2d_i8__avx2maddubs;
extern const SumKernel conv2d_i8__avx2;
extern const SumKernel conv2d_i8__neondot;
extern const SumKernel conv2d_i8__neon;
extern const SumKernel conv2d_i8__scalar;
extern const SumKernel conv2d_i16__avx512vnni;
extern const SumKernel conv2d_i16__avx2;
extern const SumKernel conv2d_i16__neon;
extern const SumKernel conv2d_i16__scalar;
extern const SumKernel conv2d_f32__avx512;
extern const SumKernel conv2d_f32__avx2;
extern const SumKernel conv2d_f32__neon;
extern const SumKernel conv2d_f32__scalar;
extern const ExpandKernel expand__avx512;
extern const ExpandKernel expand__avx2;
extern const ExpandKernel expand__neon;
extern const ExpandKernel expand__scalar;
extern const RowFunctions rows__avx512;
extern const RowFunctions rows__avx2;
extern const RowFunctions rows__neon;
extern const RowFunctions rows__scalar;

}  // namespace bitlens
