// Plans for Python: `bitlens.runtime.native` lays a program out, this builds and runs it.
#pragma once

#include <nanobind/nanobind.h>

namespace bitlens {

void bind_plans(nanobind::module_& module);

}  // namespace bitlens
