"""What is timed: the forward pass of one image, or one map of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from bitlens.runtime.engines import Engine
from bitlens.runtime.evaluation.plan import Row
from bitlens.runtime.evaluation.work import parsed_rows
from bitlens.runtime.golden import golden_of
from bitlens.runtime.methods import METHODS
from bitlens.runtime.methods.registry import Passes
from bitlens.runtime.network import GOLDEN, Network
from bitlens.runtime.program import Array, Program

FORWARD = "forward"

GOLDEN_IMAGE, DRAWN_IMAGE = "golden", "drawn"


@dataclass(frozen=True)
class Task:
    """One thing an engine can be asked for.

    Parameters
    ----------
    title : str
        `forward`, or a method with its options, `grad_cam:layer=act2`.
    row : Row or None
        The method; None for the forward pass.
    """

    title: str
    row: Row | None

    def passes(self, program: Program) -> Passes:
        """Count what it costs."""
        return Passes(1, 0) if self.row is None else METHODS[self.row.method].passes(program, **self.row.options)

    def call(self, engine: Engine, image: Array) -> Callable[[], object]:
        """Give what does it once, for an image (1, C, H, W) and the class that the engine sees in it."""
        if self.row is None:
            return lambda: engine.forward(image)
        function, options = METHODS[self.row.method].function, self.row.options
        targets = engine.forward(image).argmax(axis=1).tolist()
        return lambda: function(engine, image, targets, **options)


def parsed_tasks(methods: str) -> tuple[Task, ...]:
    """Read --methods: the forward pass always, then methods as `parsed_rows` reads them, or `none`.

    Raises
    ------
    BitlensError
        If there is no such method or option.
    """
    rows = () if methods == "none" else parsed_rows(methods)
    return (Task(FORWARD, None), *(Task(row.title, row) for row in rows))


def parsed_task(title: str) -> Task:
    """Read the title of one task.

    Raises
    ------
    BitlensError
        As `parsed_tasks`.
    """
    return parsed_tasks("none")[0] if title == FORWARD else parsed_tasks(title)[1]


def image_for(network: Network) -> tuple[Array, str]:
    """Give an image uint8 (1, C, H, W) to be timed on, and which: the first golden one, or noise where there is none.

    Raises
    ------
    BitlensError
        If the golden inputs are damaged.
    """
    if network.has(GOLDEN):
        return golden_of(network).images[:1], GOLDEN_IMAGE
    shape = network.program.image_type.shape
    return np.random.default_rng(0).integers(0, 256, (1, *shape)).astype(np.uint8), DRAWN_IMAGE
