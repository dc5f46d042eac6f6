"""The `native` engine: C++ kernels on packed codes, forward and gradient."""

from __future__ import annotations

import logging
import math
import os
import platform
import threading
from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np
import numpy.typing as npt

from bitlens import __version__
from bitlens.runtime.autodiff import gradient_program
from bitlens.runtime.engines.engine import FLOAT32_GRADIENTS, INT8_GRADIENTS, Engine, EngineInfo, Float32
from bitlens.runtime.engines.registry import register_engine
from bitlens.runtime.errors import BitlensError
from bitlens.runtime.native.kernels import MODULE, kernels
from bitlens.runtime.native.layout import Layout, lay_out
from bitlens.runtime.native.quantizer import turned_box
from bitlens.runtime.native.rows import NARROW, WIDE
from bitlens.runtime.network import Network
from bitlens.runtime.ops.threshold import GUIDED_FLOOR, NO_FLOOR
from bitlens.runtime.program import Array, Program

KERNELS_VARIABLE = "BITLENS_KERNELS"
"""Environment variable that names the instruction sets that may be used, e.g. `avx2` or `scalar`; all if not set."""

_LOG = logging.getLogger("bitlens")

MOST_LAYOUTS = 8
"""Plans that a program keeps, each with its own memory; the one that was not asked for the longest goes."""

MOST_THREADS = 256
MOST_IMAGES = 32
MEMORY_BYTES = 16 * 2**20
"""A batch is cut so that its maps fit this; one image always runs. More is no faster: it only leaves the cache."""


def allowed_instruction_sets() -> list[str]:
    """Instruction sets that kernels may use on this processor.

    Raises
    ------
    BitlensError
        If the environment names one that no kernel is written for.
    """
    module = kernels()
    known = {name for _, name, *_ in module.sum_kernels()} | {name for name, _ in module.row_function_sets()}
    known |= {name for name, _ in module.expand_kernels()}
    forced = os.environ.get(KERNELS_VARIABLE, "")
    if not forced:
        return sorted(known)
    names = [name.strip() for name in forced.split(",")]
    unknown = sorted(set(names) - known)
    if unknown:
        raise BitlensError(
            f"{KERNELS_VARIABLE} names {unknown[0]!r}, for which there are no kernels here: choose from "
            f"{', '.join(sorted(known))}"
        )
    # `avx2maddubs` needs nothing but AVX2: it is a kernel for small products beside the general one.
    return [*names, *(["avx2maddubs"] if "avx2" in names else [])]


class LaidOutProgram:
    """A program on the kernels: one plan for each set of outputs that is asked for, laid out when it first is.

    Parameters
    ----------
    program : Program
    threads : int
    int8_gradients : bool
        See `lay_out`.
    """

    def __init__(self, program: Program, threads: int, *, int8_gradients: bool) -> None:
        self.program, self.int8_gradients = program, int8_gradients
        self._lock = threading.Lock()  # a plan has one arena, and all share the threads: one call at a time
        self._layouts: dict[tuple[tuple[str, ...], bool], Layout] = {}  # the one asked for last comes last
        try:
            self._threads = kernels().ThreadPool(threads)
        except RuntimeError as error:
            raise BitlensError(f"{threads} threads do not start ({error}): ask for fewer") from error

    def layout(self, outputs: Sequence[str], *, reuses_memory: bool = True) -> Layout:
        """Give the plan that computes these outputs, in any order; see `lay_out`."""
        key = tuple(sorted(set(outputs))), reuses_memory
        layout = self._layouts.pop(key, None)
        if layout is None:
            while len(self._layouts) >= MOST_LAYOUTS:
                del self._layouts[next(iter(self._layouts))]
            layout = lay_out(
                self.program,
                key[0],
                kernels().Plan(self._threads, allowed_instruction_sets()),
                int8_gradients=self.int8_gradients,
                reuses_memory=reuses_memory,
                most_images=MOST_IMAGES if reuses_memory else 1,
                memory_bytes=MEMORY_BYTES,
            )
        self._layouts[key] = layout
        return layout

    def run(self, feeds: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        """Compute `outputs`; as the reference's `interpret`."""
        with self._lock:
            layout = self.layout(outputs)
            _set_parameters(layout, feeds)
            images = feeds[self.program.inputs[0].name]
            most = layout.plan.max_batch
            parts = [_computed(layout, feeds, slice(at, at + most)) for at in range(0, len(images), most)]
        if len(parts) == 1:
            return parts[0]
        return {name: np.concatenate([part[name] for part in parts]) for name in outputs}

    def run_near(self, image: Array, others: Array) -> Float32:
        """Compute the first output, float32 (M, F), of inputs (M, C, H, W) near one (1, C, H, W); see `Engine`."""
        name = self.program.outputs[0]
        with self._lock:
            layout = self.layout((name,), reuses_memory=False)
            shape, result = layout.types[name].shape, layout.reals.get(name)
        if result is None or len(shape) != 1:  # an odd program, whose first output is not logits
            return self.run({self.program.inputs[0].name: others}, (name,))[name].astype(np.float32)
        with self._lock:
            results = np.empty((len(others), *shape), np.float32)
            if not layout.image:
                buffer = layout.floats[self.program.inputs[0].name]
                reals = [np.ascontiguousarray(each, np.float32) for each in (image, others)]
                layout.plan.run_near_floats(buffer, *reals, result, 0, results)
                return results
            codes = [np.ascontiguousarray(each, np.int16) for each in (image, others)]
            is_narrow = "u8" in layout.image and all(_fits_bytes(each) for each in codes)
            form, variant = ("u8", NARROW) if is_narrow else ("i16", WIDE)
            layout.plan.run_near_codes(layout.image[form], *codes, result, variant, results)
            return results


def _fits_bytes(codes: npt.NDArray[np.int16]) -> bool:
    return bool(codes.view(np.uint16).max() <= 255)  # a negative code is a large one


def _set_parameters(layout: Layout, feeds: Mapping[str, Array]) -> None:
    layout.plan.guided_floor = float(feeds[GUIDED_FLOOR][0]) if GUIDED_FLOOR in feeds else NO_FLOOR
    given = {name for name in layout.boxes if f"{name}.mask_low" in feeds or f"{name}.mask_high" in feeds}
    # Those that a call before this one changed go back to what was trained, even if that call failed half-way.
    layout.widened |= given
    for name in sorted(layout.widened):
        box, node = layout.boxes[name], layout.program.node(name)
        low, high = (feeds.get(f"{name}.{end}", node.arrays[end]) for end in ("mask_low", "mask_high"))
        layout.plan.set_box(box.buffer, *turned_box(np.asarray(low), np.asarray(high), box.direction))
    layout.widened &= given


def _computed(layout: Layout, feeds: Mapping[str, Array], part: slice) -> dict[str, Array]:
    plan, name = layout.plan, layout.program.inputs[0].name
    images = feeds[name][part]
    variant = 0
    if layout.image:
        codes = np.ascontiguousarray(images, np.int16)
        form, variant = ("u8", NARROW) if "u8" in layout.image and _fits_bytes(codes) else ("i16", WIDE)
        plan.write_codes(layout.image[form], codes)
    for other, buffer in layout.floats.items():
        values = np.ascontiguousarray(feeds[other][part], np.float32)
        plan.write_floats(buffer, values.reshape(len(values), *_as_map(values.shape[1:])))
    plan.run(len(images), variant)
    results: dict[str, Array] = {}
    for output, buffer in layout.reals.items():
        shape = layout.types[output].shape
        real = np.empty((len(images), *_as_map(shape)), np.float32)
        plan.read_floats(buffer, real)
        results[output] = real.reshape(len(images), *shape)
    for output, kept in layout.codes.items():
        type = layout.types[output]
        whole = np.empty((len(images), *_as_map(type.shape)), np.int32)
        plan.read_integers(kept.buffer, whole, kept.low, kept.step)
        results[output] = whole.reshape(len(images), *type.shape).astype(type.dtype)
    return results


def _as_map(shape: tuple[int, ...]) -> tuple[int, int, int]:
    return (shape[0], shape[1], shape[2]) if len(shape) == 3 else (math.prod(shape), 1, 1)


def _open(network: Network, threads: int, name: str, *, int8_gradients: bool) -> Engine:
    if threads > MOST_THREADS:
        raise BitlensError(f"threads is {threads}, expected 1 to {MOST_THREADS}")
    program = network.program
    forward = LaidOutProgram(program, threads, int8_gradients=False)
    plan = forward.layout(program.outputs[:1]).plan

    @cache
    def gradient() -> LaidOutProgram:
        return LaidOutProgram(gradient_program(program), threads, int8_gradients=int8_gradients)

    kernels = ", ".join(sorted({*plan.kernels_used, f"rows__{plan.rows_used}"}))
    gradients = INT8_GRADIENTS if int8_gradients and not program.is_full_precision else FLOAT32_GRADIENTS
    info = EngineInfo(name, f"{__version__} on {platform.machine()}", threads, kernels, gradients)
    _LOG.info("%s on %s thread%s: %s", name, threads, "" if threads == 1 else "s", kernels)
    return Engine(info, program, forward.run, lambda feeds, outputs: gradient().run(feeds, outputs), forward.run_near)


@register_engine("native", speed=20, modules=(MODULE,))
def open_native(network: Network, threads: int) -> Engine:
    """Open a program on the kernels, gradients in float32."""
    return _open(network, threads, "native", int8_gradients=False)


@register_engine("native-int8", speed=-1, modules=(MODULE,))
def open_native_int8(network: Network, threads: int) -> Engine:
    """Open a program on the kernels, gradients in bytes with one scale per image and layer: faster, and not exact."""
    return _open(network, threads, "native-int8", int8_gradients=True)
