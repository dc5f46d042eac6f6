// bitlens.runtime._kernels
#include <nanobind/nanobind.h>

#include "kernel_bindings.h"
#include "plan_bindings.h"

NB_MODULE(_kernels, module) {
    bitlens::bind_kernels(module);
    bitlens::bind_plans(module);
}
