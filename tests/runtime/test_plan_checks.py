"""Steps with numbers that do not fit: a plan refuses them, or runs them without leaving its buffers."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

kernels: Any = pytest.importorskip("bitlens.runtime._kernels", reason="a wheel without compiled kernels")

EXTREMES = (-(2**31), -1, 0, 2, 255, 4096, 2**20, 2**30, 2**31 - 1)


def small_plan() -> tuple[Any, dict[str, int]]:
    """An empty plan of maps of 5x6 pixels with 32 channels, and its buffers by form."""
    plan = kernels.Plan(kernels.ThreadPool(1), ["scalar"])
    zeros = np.zeros(32, np.int32)
    forms = ("bits", "u8", "i32", "f32", "mask", "index")
    buffers = {form: plan.buffer(form, 32, 5, 6, [1, 1, 1, 1], zeros, False) for form in forms}
    return plan, buffers | {"pooled": plan.buffer("f32", 32, 2, 3, [0, 0, 0, 0], zeros, False)}


def threshold(buffers: dict[str, int]) -> dict[str, Any]:
    zeros = np.zeros(32, np.int32)
    return {
        "levels": 1, "code_step": 1, "turn": zeros, "thresholds": zeros, "mask_low": zeros, "mask_high": zeros,
        "codes": buffers["u8"], "mask": buffers["mask"],
    }  # fmt: skip


def records(buffers: dict[str, int]) -> dict[str, Any]:
    """A convolution, what is done to its rows, and the pixels of a buffer with a pool: all of them fit."""
    ones, zeros = np.ones(32, np.float32), np.zeros(32, np.float32)
    affine = {"slope": ones, "offset": zeros, "scale_slot": -1}
    return {
        "convolution": {
            "source": buffers["bits"], "family": "conv2d_w1a1", "taps": [3, 3, 1], "merged": False, "first": [0, 0],
            "stride": [1, 1], "size": [5, 6], "fields": [0, 0, 1], "largest": [0, 0],
            "weights": np.zeros(32 * 9 * 4, np.uint8), "start": np.zeros(32, np.int32),
        },
        "epilogue": {
            "channels": 32, "rows": 5, "columns": 6, "origin": [0, 0, 1, 1], "affine": affine,
            "reals": buffers["f32"], "threshold": threshold(buffers),
        },
        "pixels": {
            "channels": 32, "rows": 2, "columns": 3, "origin": [0, 0, 1, 1], "affine": affine,
            "pool": {"window": [2, 2, 2, 2, 0, 0], "turn": np.zeros(32, np.int32), "index": -1},
            "reals": buffers["pooled"],
        },
        "first": [1, 1],
    }  # fmt: skip


def places(record: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where the whole numbers of a record lie."""
    if isinstance(record, dict | list):
        for key in record if isinstance(record, dict) else range(len(record)):
            yield from places(record[key], (*path, key))
    elif isinstance(record, int) and not isinstance(record, bool):
        yield path


def put(record: Any, path: tuple[Any, ...], number: int) -> None:
    for key in path[:-1]:
        record = record[key]
    record[path[-1]] = number


def run(plan: Any, given: dict[str, Any]) -> None:
    plan.convolution(given["convolution"], given["epilogue"], 0)
    plan.pixels(given["convolution"]["source"] + 2, given["first"], given["pixels"], 0)  # the i32 behind the bits
    plan.finish(1, 1 << 24)
    plan.run(1, 0)


def test_what_fits_runs() -> None:
    plan, buffers = small_plan()
    run(plan, records(buffers))


NUMBERS = [path for path in places(records(small_plan()[1])) if path[:2] != ("convolution", "fields") or path[2] == 0]
"""Weights that are bits have no lowest value and no step."""


@pytest.mark.parametrize("path", NUMBERS, ids=lambda path: ".".join(map(str, path)))
def test_a_number_that_does_not_fit_is_refused_or_does_no_harm(path: tuple[Any, ...]) -> None:
    refused = 0
    for number in EXTREMES:
        plan, buffers = small_plan()
        given = copy.deepcopy(records(buffers))
        put(given, path, number)
        try:
            run(plan, given)
        except ValueError:
            refused += 1
    assert refused, "every number was accepted"


@pytest.mark.parametrize("number", EXTREMES)
def test_windows_of_plain_steps(number: int) -> None:
    for place in range(6):
        window = [2, 2, 2, 2, 0, 0]
        window[place] = number
        for step in ("sum_pool", "max_pool", "sum_pool_gradient", "max_pool_gradient", "quantize"):
            plan, buffers = small_plan()
            slot, zeros = plan.scale_slot(), np.zeros(32, np.int32)
            small_index = plan.buffer("index", 32, 2, 3, [0, 0, 0, 0], zeros, False)
            arguments = {
                "sum_pool": (buffers["f32"], buffers["pooled"], window, 0),
                "max_pool": (buffers["f32"], buffers["pooled"], -1, window, zeros),
                "sum_pool_gradient": (buffers["pooled"], buffers["f32"], window),
                "max_pool_gradient": (buffers["pooled"], small_index, buffers["f32"], window),
                "quantize": (buffers["pooled"], slot, np.ones(32, np.float32), small_index, window, buffers["u8"]),
            }
            try:
                getattr(plan, step)(*arguments[step])
            except ValueError:
                continue
            plan.finish(1, 1 << 24)
            plan.run(1, 0)
