from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from brevitas_oracle import OracleRun, run_brevitas
from torch import nn
from traces import Trace, feeds_of, reference_trace

from bitlens.runtime.autodiff import gradient_program
from bitlens.runtime.engines import one_hot
from bitlens.runtime.interpreter import interpret
from bitlens.runtime.program import Program
from bitlens.train.datasets import SplitDataset

CLASSES = 10


@pytest.fixture(scope="session")
def held_out(digits: SplitDataset) -> npt.NDArray[np.uint8]:
    """All test images, as codes."""
    images: npt.NDArray[np.uint8] = digits.test().images.numpy()
    assert images.shape == (397, 1, 28, 28)
    return images


@pytest.fixture(scope="session")
def gradients(programs: dict[str, Program]) -> dict[str, Program]:
    return {precision: gradient_program(program) for precision, program in programs.items()}


@pytest.fixture(scope="session")
def targets(programs: dict[str, Program], held_out: npt.NDArray[np.uint8]) -> dict[str, npt.NDArray[np.int64]]:
    """The class each network gives each held-out image."""
    return {
        precision: interpret(program, feeds_of(program, held_out), ["logits"])["logits"].argmax(axis=1)
        for precision, program in programs.items()
    }


@pytest.fixture(scope="session")
def references(
    gradients: dict[str, Program], held_out: npt.NDArray[np.uint8], targets: dict[str, npt.NDArray[np.int64]]
) -> dict[str, Trace]:
    """Forward and gradient of every network on the NumPy reference."""
    return {
        precision: reference_trace(program, feeds_of(program, held_out, one_hot(targets[precision], CLASSES)))
        for precision, program in gradients.items()
    }


@pytest.fixture(scope="session")
def oracles(
    trained: dict[str, nn.Sequential], held_out: npt.NDArray[np.uint8], targets: dict[str, npt.NDArray[np.int64]]
) -> dict[str, OracleRun]:
    """The Brevitas models in float64, with sums on their grid (see `brevitas_oracle`)."""
    return {
        precision: run_brevitas(model, oracle_image(model, held_out), one_hot(targets[precision], CLASSES))
        for precision, model in trained.items()
    }


def oracle_image(model: nn.Module, codes: npt.NDArray[np.uint8]) -> npt.NDArray[np.floating]:
    """x = code / 255; for the twin the float32 that its program reads."""
    is_twin = isinstance(model.get_submodule("act1"), nn.ReLU)
    return (codes / 255.0).astype(np.float32) if is_twin else codes / 255.0
