// One kernel at a time, for tests and the benchmark: every length is checked before the kernel runs.
#pragma once

#include <nanobind/nanobind.h>

namespace bitlens {

void bind_kernels(nanobind::module_& module);

}  // namespace bitlens
