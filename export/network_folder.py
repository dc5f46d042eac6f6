"""Write a network for every engine into one folder: program, twin, ONNX graphs, golden answers, manifest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bitlens.export.hand_over import Samples
from bitlens.export.onnx_writer import onnx_model
from bitlens.runtime.atomic_file import check_replaceable, folder_written_atomically
from bitlens.runtime.autodiff import gradient_program
from bitlens.runtime.engines import open_engine
from bitlens.runtime.errors import BitlensError, context
from bitlens.runtime.golden import golden_bytes, record_golden
from bitlens.runtime.network import (
    FORWARD_ONNX,
    GOLDEN,
    GRADIENT_ONNX,
    MANIFEST,
    MANIFEST_VERSION,
    NETWORK_PROGRAM,
    TWIN_PROGRAM,
    Network,
)
from bitlens.runtime.program import Array, Program
from bitlens.runtime.program_file import program_bytes
from bitlens.runtime.type_check import infer_types

NETWORK_FILES = frozenset({MANIFEST, NETWORK_PROGRAM, TWIN_PROGRAM, FORWARD_ONNX, GRADIENT_ONNX, GOLDEN})

# A program's logits round twice in float32; more than this many epsilon from the trained model is a wrong export.
LOGIT_EPSILONS = 8.0

# The twin rounds every activation to float32 as well.
FLOAT_LOGIT_EPSILONS = 64.0

# A residual sum is rounded to float32, so a value within a rounding error of a threshold may get the next code where
# the trained model, in float64, does not; the logits of that image then differ by what the code is worth. Fed the same
# numbers no layer differs (tests/export/test_models_exact.py). Half of the images must be within this share of the
# largest logit; a network that is another one is off by all of it.
REAL_VALUED_LOGIT_ERROR = 0.05


@dataclass(frozen=True)
class ExportedNetwork:
    """What was written.

    Parameters
    ----------
    folder : Path
    sizes : mapping
        Member name -> bytes.
    logit_error : float or None
        Largest difference from the trained model's float64 logits on the samples, relative to the largest logit.
    """

    folder: Path
    sizes: Mapping[str, int]
    logit_error: float | None


def write_network(
    folder: Path, program: Program, *, samples: Samples | None = None, twin: Program | None = None
) -> ExportedNetwork:
    """Write a network folder, wholly or not at all.

    Parameters
    ----------
    folder : Path
        New, empty, or an earlier export, which is replaced.
    program : Program
    samples : Samples, optional
        Held-out images; with them the program is checked against the trained model and golden answers are stored.
    twin : Program, optional
        The full-precision twin.

    Raises
    ------
    BitlensError
        If the program cannot be written exactly for an engine, does not give the trained model's logits, or the place
        cannot be written.
    """
    folder = Path(folder)
    check_replaceable(folder, NETWORK_FILES)
    members = {NETWORK_PROGRAM: program_bytes(program)}
    with context("ONNX"):
        members[FORWARD_ONNX] = onnx_model(program).SerializeToString()
        members[GRADIENT_ONNX] = onnx_model(gradient_program(program)).SerializeToString()
    if twin is not None:
        members[TWIN_PROGRAM] = program_bytes(twin)
    error = None
    if samples is not None:
        engine = open_engine(Network(folder, program), "reference")
        golden = record_golden(engine, samples.images, samples.labels)
        if samples.logits is not None:
            error = _checked_logits(golden.logits, samples.logits, program)
        members[GOLDEN] = golden_bytes(golden)
    manifest = {
        "manifest_version": MANIFEST_VERSION,
        "members": {
            name: {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
            for name, content in sorted(members.items())
        },
        "input": {
            "shape": list(program.image_type.shape),
            "colour": {1: "grey", 3: "rgb"}.get(program.image_type.shape[0], "other"),
            "scale": "x = code / 255",
        },
        "metadata": dict(program.metadata),
    }
    with folder_written_atomically(folder) as temporary:
        for name, content in members.items():
            (temporary / name).write_bytes(content)
        (temporary / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    return ExportedNetwork(folder, {name: len(content) for name, content in members.items()}, error)


def _quantizes_real_values(program: Program) -> bool:
    types = infer_types(program)
    return any(node.op == "threshold" and not types[node.inputs[0]].is_integer for node in program.nodes)


def _checked_logits(logits: Array, trained: Array, program: Program) -> float:
    """Largest difference relative to the largest logit; a wrong export is refused."""
    if logits.shape != trained.shape:
        raise BitlensError(f"the samples hold logits of shape {trained.shape}, the network gives {logits.shape}")
    errors = np.abs(logits - trained).max(axis=1) / np.abs(trained).max()
    error = float(errors.max())
    if _quantizes_real_values(program):
        compared, bound = float(np.median(errors)), REAL_VALUED_LOGIT_ERROR
    else:
        epsilons = FLOAT_LOGIT_EPSILONS if program.is_full_precision else LOGIT_EPSILONS
        compared, bound = error, epsilons * float(np.finfo(np.float32).eps)
    if not compared <= bound:
        raise BitlensError(
            f"the program's logits differ from the trained model's by {compared:.1e} of the largest, expected at most "
            f"{bound:.1e}: the run's files do not belong together, or this is a defect of bitlens worth a report"
        )
    return error
