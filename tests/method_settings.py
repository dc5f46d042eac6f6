"""Options under which every method takes a few passes only, and an engine that counts passes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from bitlens.runtime.engines import Engine
from bitlens.runtime.engines.engine import Float32
from bitlens.runtime.methods import Value
from bitlens.runtime.program import Array

QUICK: dict[str, dict[str, Value]] = {
    "smoothgrad": {"nsamples": 5},
    "smoothgrad_squared": {"nsamples": 5},
    "smoothgrad_x_input": {"nsamples": 5},
    "integrated_gradients": {"n_steps": 7},
    "smooth_taylor": {"roots": 6},
    "adaptive_smooth_taylor": {"roots": 3, "max_iteration": 2},
    "neuromask": {"iterations": 6},
    "rise": {"masks": 35},
}


def quick(name: str) -> dict[str, Value]:
    return QUICK.get(name, {})


def counting(engine: Engine) -> tuple[Engine, Counter[str]]:
    """The engine, and a count of the images that went through each of its two graphs."""
    passed: Counter[str] = Counter()
    image = engine.program.inputs[0].name

    def forward(feeds: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        passed["forward"] += len(feeds[image])
        return engine.run_forward(feeds, outputs)

    def gradient(feeds: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        passed["forward"] += len(feeds[image])
        passed["backward"] += len(feeds[image])
        return engine.run_gradient(feeds, outputs)

    def near(one: Array, others: Array) -> Float32:
        assert engine.run_near is not None
        passed["forward"] += len(others)
        return engine.run_near(one, others)

    counted = replace(engine, run_forward=forward, run_gradient=gradient)
    return (counted if engine.run_near is None else replace(counted, run_near=near)), passed
