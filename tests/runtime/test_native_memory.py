"""The native engine's memory: nothing is allocated while a plan runs, and weights stay packed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from small_programs import binary_network, residual_network, small_network, small_twin

from bitlens.runtime.autodiff import INPUT_GRADIENT, gradient_program
from bitlens.runtime.engines.native import KERNELS_VARIABLE, LaidOutProgram, allowed_instruction_sets
from bitlens.runtime.program import Program

pytest.importorskip("bitlens.runtime._kernels", reason="bitlens was installed without its compiled part")

# glibc's own allocator under its internal names, each call counted.
COUNTER = """
#include <errno.h>
#include <stdatomic.h>
#include <stddef.h>
extern void* __libc_malloc(size_t);
extern void* __libc_calloc(size_t, size_t);
extern void* __libc_realloc(void*, size_t);
extern void* __libc_memalign(size_t, size_t);
static atomic_long count;
long allocations(void) { return count; }
void* malloc(size_t bytes) { ++count; return __libc_malloc(bytes); }
void* calloc(size_t number, size_t bytes) { ++count; return __libc_calloc(number, bytes); }
void* realloc(void* old, size_t bytes) { ++count; return __libc_realloc(old, bytes); }
void* memalign(size_t alignment, size_t bytes) { ++count; return __libc_memalign(alignment, bytes); }
void* aligned_alloc(size_t alignment, size_t bytes) { ++count; return __libc_memalign(alignment, bytes); }
int posix_memalign(void** made, size_t alignment, size_t bytes) {
    ++count;
    *made = __libc_memalign(alignment, bytes);
    return *made ? 0 : ENOMEM;
}
"""


def count_allocations() -> dict[str, int]:
    """Allocations of 20 runs of each of some plans; run in a process of its own, by `main` below."""
    import ctypes

    library = ctypes.CDLL(None)
    library.allocations.restype = ctypes.c_long
    counts = {}
    networks = {
        "small": small_network(), "residual": residual_network(), "twin": small_twin(), "binary": binary_network(2)
    }  # fmt: skip
    for name, program in networks.items():
        backward = gradient_program(program)
        for threads in (1, 3):
            for what, laid_out, outputs in (
                ("forward", LaidOutProgram(program, threads, int8_gradients=False), program.outputs[:1]),
                ("gradient", LaidOutProgram(backward, threads, int8_gradients=False), (INPUT_GRADIENT,)),
                ("int8 gradient", LaidOutProgram(backward, threads, int8_gradients=True), (INPUT_GRADIENT,)),
            ):
                plan = laid_out.layout(outputs).plan
                for variant in (1, 2):
                    plan.run(3, variant)
                before = library.allocations()
                for _ in range(20):
                    plan.run(1, 1)
                    plan.run(3, 2)
                counts[f"{name}, {what}, {threads} threads"] = library.allocations() - before
    before = library.allocations()
    kept = bytearray(10_000)
    counts["a bytearray"] = library.allocations() - before
    assert kept
    return counts


def test_a_plan_runs_without_allocating(tmp_path: Path) -> None:
    compiler = shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("counts the calls of glibc's allocator, with a C compiler")
    (tmp_path / "counter.c").write_text(COUNTER)
    counter = tmp_path / "counter.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", counter, tmp_path / "counter.c"], check=True)
    environment = os.environ | {"LD_PRELOAD": str(counter), "PYTHONPATH": str(Path(__file__).parents[1])}
    child = subprocess.run([sys.executable, __file__], env=environment, capture_output=True, text=True, check=True)
    counts = json.loads(child.stdout)
    assert counts.pop("a bytearray") >= 1  # the counter counts
    assert len(counts) == 24
    assert {name: count for name, count in counts.items() if count} == {}


@pytest.mark.parametrize("channels", [32, 128, 160])
def test_binary_weights_stay_packed(channels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What one more layer adds to a plan, for each choice of kernels; a lookup kernel's codes take a byte for four.

    Its blocks are of 64 or 128 channels: 160 fill three of 64, which waste less than two of 128.
    """
    weights = channels * channels * 9
    whole_blocks = -(-channels // 64) * 64 / channels if channels > 32 else 1
    for isa in ("", *allowed_instruction_sets()):
        monkeypatch.setenv(KERNELS_VARIABLE, isa)
        bits = {}
        for what, make, output in (("forward", Program, "logits"), ("gradient", gradient_program, INPUT_GRADIENT)):
            sizes = []
            for layers in (1, 2):
                program = binary_network(layers, channels)
                program = program if make is Program else gradient_program(program)
                plan = LaidOutProgram(program, 1, int8_gradients=False).layout((output,)).plan
                sizes.append(plan.weight_bytes)
            bits[what] = 8 * (sizes[1] - sizes[0]) / weights
        is_lookup = any(name.startswith("conv2d_w1a1__avx2") for name in plan.kernels_used)
        assert 1 <= bits["forward"] <= (2 * whole_blocks if is_lookup else 1), (isa, bits)
        assert bits["gradient"] <= 2 * bits["forward"], (isa, bits)


if __name__ == "__main__":
    print(json.dumps(count_allocations()))
