"""Pytest plugin: the kernels of build/sanitize take the place of the installed ones; `make sanitize` asks for it."""

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import bitlens.runtime

NAME = "bitlens.runtime._kernels"
(built,) = (Path(__file__).parents[1] / "build" / "sanitize").glob("_kernels*.so")
spec = spec_from_file_location(NAME, built)
assert spec is not None
assert spec.loader is not None
sys.modules[NAME] = module_from_spec(spec)
spec.loader.exec_module(sys.modules[NAME])
vars(bitlens.runtime)["_kernels"] = sys.modules[NAME]
