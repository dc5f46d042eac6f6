// Every kernel there is; one list feeds dispatch, tests and the benchmark.
#pragma once

#include <vector>

#include "kernel.h"
#include "row_functions.h"

namespace bitlens {

// In order of preference inside a family: the first that runs on a processor is taken.
const std::vector<SumKernel>& sum_kernels();
const std::vector<ExpandKernel>& expand_kernels();
const std::vector<RowFunctions>& row_functions();

}  // namespace bitlens
