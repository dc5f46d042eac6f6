# Everything a person or the CI does here; each target sets up what it needs. `make` alone lists them.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed.stamp

# Real data sets for the tests and studies that want them; a checkout beside a `shared` folder finds them there.
ifneq ($(wildcard ../shared/data/.),)
export BITLENS_DATA ?= $(abspath ../shared/data)
endif

.DEFAULT_GOAL := help
SANITIZED := LD_PRELOAD="$$(c++ -print-file-name=libasan.so) $$(c++ -print-file-name=libubsan.so)" \
	ASAN_OPTIONS=detect_leaks=0 PYTHONMALLOC=malloc PYTHONPATH=.ci OMP_NUM_THREADS=1

.PHONY: help setup test test-long lint kernels sanitize sanitized fuzz boards board-system device-tests deploy-tests tflite-matrix bench demo wheel wheels clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | while IFS='	' read -r name text; do printf '%-13s %s\n' "$$name" "$$text"; done

setup: $(INSTALLED) ## make .venv and install bitlens there with everything a developer needs

# The compiled part too: an editable install does not build itself again.
$(INSTALLED): pyproject.toml $(wildcard runtime/kernels/*.cpp runtime/kernels/*.h runtime/kernels/CMakeLists.txt)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -e '.[dev]'
	touch $@

# One thread: the same speed on every machine, and several checkouts can test side by side.
# The bare `pytest`, not `python -m pytest`: the latter puts the root on the path, where `train` is importable twice.
test: $(INSTALLED) ## run the tests, under 10 minutes
	OMP_NUM_THREADS=1 $(BIN)/pytest -m "not long"

test-long: $(INSTALLED) ## run the long tests too
	OMP_NUM_THREADS=1 $(BIN)/pytest

lint: $(INSTALLED) ## ruff, formatting and mypy --strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python .ci/typing_links.py
	$(BIN)/mypy --strict -p bitlens -p bench

kernels: ## build the C++ kernels again after an edit, and put them into .venv; faster than `make setup`
	test -e $(INSTALLED) || $(MAKE) setup
	cmake -S runtime/kernels -B build/kernels -G Ninja -DCMAKE_BUILD_TYPE=Release -DBITLENS_WERROR=ON \
		-DPython_EXECUTABLE=$(abspath $(BIN)/python) -Dnanobind_DIR=$$($(BIN)/python -m nanobind --cmake_dir)
	cmake --build build/kernels
	cp build/kernels/_kernels*.so $$(dirname $$($(BIN)/python -c 'import bitlens.runtime._kernels as k; print(k.__file__)'))
	touch $(INSTALLED)

sanitized:
	cmake -S runtime/kernels -B build/sanitize -G Ninja -DCMAKE_BUILD_TYPE=Release -DBITLENS_SANITIZE=ON \
		-DPython_EXECUTABLE=$(abspath $(BIN)/python) -Dnanobind_DIR=$$($(BIN)/python -m nanobind --cmake_dir)
	cmake --build build/sanitize

# With gcc, whose sanitizers come as libraries that a Python built without them can load first.
sanitize: $(INSTALLED) sanitized ## run the kernels' tests under AddressSanitizer and UBSan
	$(SANITIZED) $(BIN)/pytest -p sanitized_kernels tests/runtime/test_sum_kernels.py \
		tests/runtime/test_row_functions.py tests/runtime/test_native_engine.py tests/runtime/test_plan_checks.py \
		tests/runtime/test_native_threads.py tests/runtime/test_program_fuzzing.py

fuzz: $(INSTALLED) sanitized ## feed the loader and the native engine with odd programs for 10 minutes; writes out/fuzz
	$(SANITIZED) $(BIN)/python tests/program_fuzzing.py --sanitized --folder out/fuzz

BENCH_INSTALLED := $(VENV)/bench.stamp
$(BENCH_INSTALLED): $(INSTALLED)
	$(BIN)/python -m pip install -e '.[dev,bench]'
	touch $@

# e.g. make bench BENCH='--rounds 3 --only vgg_small'
bench: $(BENCH_INSTALLED) ## time layers and networks on our engine and on others; writes out/bench
	OMP_NUM_THREADS=1 PYTHONPATH=device_tests $(BIN)/python -m bench $(BENCH)

boards: ## cross-build the aarch64 wheel and test it on emulated boards
	.ci/boards

# 12 to 31 minutes on a busy machine, so .ci/run leaves it out.
board-system: $(INSTALLED) ## a whole emulated board: systemd, a camera, `bitlens deploy` to it; takes long
	.ci/board_system

tflite-matrix: $(INSTALLED) ## run the demo's networks on every TFLite interpreter, here and on emulated boards
	.ci/tflite-matrix

deploy-tests: $(INSTALLED) ## deploy to boards on loopback, over a real SSH server
	OMP_NUM_THREADS=1 $(BIN)/pytest tests/runtime/test_deploy_to_boards.py

demo: $(INSTALLED) ## train, export and explain five small nets; writes out/demo (`bitlens demo` is the live camera)
	$(BIN)/python examples/digits_demo.py --output out/demo

# e.g. make device-tests BOARD=pi4; without a board, on this machine
device-tests: $(INSTALLED) ## the device tests on this machine, or on an emulated board: BOARD=pi5, pi4 or zero2w
	.ci/boards $(or $(BOARD),this)

wheels: ## a release's wheels, x86_64 and aarch64, for Python 3.11 and 3.12 and later, and its sdist, into dist/
	.ci/wheels

wheel: $(INSTALLED) ## build this machine's wheel into dist/
	$(BIN)/python -m pip wheel --no-deps --wheel-dir dist .

clean: ## remove what is built or cached; .venv, out and runs stay
	rm -rf build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -exec rm -rf {} +
