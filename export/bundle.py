"""Write a network for every engine into one bundle: program, twin, ONNX and TFLite graphs, golden answers, manifest."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bitlens.export.hand_over import Samples
from bitlens.export.onnx_writer import onnx_model
from bitlens.export.tflite_int8 import int8_model
from bitlens.export.tflite_writer import tflite_model
from bitlens.runtime.atomic_file import check_place, write_bytes_atomically
from bitlens.runtime.autodiff import gradient_name, gradient_program, spatial_activations
from bitlens.runtime.bundle_file import SUFFIX, Bundle, bundle_bytes, is_bundle, open_bundle
from bitlens.runtime.engines import open_engine
from bitlens.runtime.engines.tflite import MANIFEST_FACTS, REFUSED, tflite_refusal
from bitlens.runtime.errors import BitlensError, context
from bitlens.runtime.golden import golden_bytes, record_golden
from bitlens.runtime.layer_cost import layer_costs
from bitlens.runtime.network import (
    FORWARD_ONNX,
    FORWARD_TFLITE,
    FORWARD_TFLITE_INT8,
    GOLDEN,
    GRADIENT_ONNX,
    GRADIENT_TFLITE,
    NETWORK_PROGRAM,
    TWIN_PROGRAM,
    Network,
)
from bitlens.runtime.program import Array, Program
from bitlens.runtime.program_file import program_bytes
from bitlens.runtime.resize import RULE, RULE_IN_WORDS
from bitlens.runtime.type_check import infer_types

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
    bundle : Bundle
        As a reader finds it.
    logit_error : float or None
        Largest difference from the trained model's float64 logits on the samples, relative to the largest logit.
    """

    bundle: Bundle
    logit_error: float | None

    @property
    def sizes(self) -> Mapping[str, int]:
        """Member name -> bytes of its content."""
        return {name: member.bytes for name, member in self.bundle.places.items()}

    @property
    def tflite_refusal(self) -> str:
        """Why there are no TFLite files; empty where there are."""
        return tflite_refusal(self.bundle.manifest)


def check_bundle_place(path: Path) -> None:
    """Refuse a place where no bundle could be written, or where something else would be lost.

    Raises
    ------
    BitlensError
        If the name does not end in `.bitlens`, something that is no bundle is there, or nothing can be made there.
    """
    path = Path(path)
    if path.suffix != SUFFIX or path.name == SUFFIX:
        raise BitlensError(f"a bundle is one file NAME{SUFFIX}, got the name {str(path)!r}: add {SUFFIX}")
    if path.is_dir() or (path.exists() and not is_bundle(path)):
        raise BitlensError(f"{path} is there and is no bundle, so it is not ours to replace: choose another name")
    check_place(path)


INT8_FACTS = "tflite_int8"
"""What of the manifest says how near the 8-bit graph is."""

# What writes some of a bundle's members: program, its gradient program -> (member name -> content, what the manifest
# says of them).
WriteGraphs = Callable[[Program, Program], tuple[dict[str, bytes], dict[str, object]]]


def written_graphs(program: Program, graphs: Iterable[WriteGraphs]) -> tuple[dict[str, bytes], dict[str, object]]:
    """Write all of these, the gradient program made once: member name -> content, and what the manifest says of them.

    Raises
    ------
    BitlensError
        If an op has no gradient, or one of them refuses the program.
    """
    members: dict[str, bytes] = {}
    facts: dict[str, object] = {}
    if chosen := tuple(graphs):
        gradient = gradient_program(program)
        for write in chosen:
            written, said = write(program, gradient)
            members |= written
            facts |= said
    return members, facts


def onnx_graphs(program: Program, gradient: Program) -> tuple[dict[str, bytes], dict[str, object]]:
    """Write the ONNX files: member name -> content; the manifest says nothing of them.

    Raises
    ------
    BitlensError
        If the program cannot be written exactly; the message names the node.
    """
    with context("ONNX"):
        models = {FORWARD_ONNX: onnx_model(program), GRADIENT_ONNX: onnx_model(gradient)}
    return {name: model.SerializeToString() for name, model in models.items()}, {}


def tflite_graphs(program: Program, gradient: Program) -> tuple[dict[str, bytes], dict[str, object]]:
    """Write the TFLite files, and what the manifest says of them.

    Returns
    -------
    dict
        Member name -> content; empty where TFLite cannot hold the program exactly.
    dict
        `tflite`: `refused`, why not; or what was chosen for the gradient file and cannot be any more: `feature`, the
        one feature map whose gradient it gives (the last, which class-activation methods take by default; None if there
        is none), `windows`, `guided` and `batch`.
    """
    features = spatial_activations(program)
    left_out = {gradient_name(name) for name in features[:-1]}
    outputs = [name for name in gradient.outputs if name not in left_out]
    try:
        members = {
            FORWARD_TFLITE: tflite_model(program),
            GRADIENT_TFLITE: tflite_model(gradient, outputs, signature="gradient"),
        }
    except BitlensError as error:
        return {}, {MANIFEST_FACTS: {REFUSED: str(error)}}
    feature = features[-1] if features else None
    return members, {MANIFEST_FACTS: {"feature": feature, "windows": "as trained", "guided": False, "batch": 1}}


def tflite_int8_graph(program: Program, _: Program) -> tuple[dict[str, bytes], dict[str, object]]:
    """Write the fast TFLite forward graph, which is near the program: member name -> content.

    Returns
    -------
    dict
        Member name -> content.
    dict
        `tflite_int8`: `thresholds`, how many there are in all channels together, and `missed`, beside how many of them
        some sum gets another code.

    Raises
    ------
    BitlensError
        If the program has no 8-bit form, real-valued sums for one; the message names the node.
    """
    with context("TFLite int8"):
        model = int8_model(program)
    facts = {"thresholds": model.thresholds, "missed": model.missed}
    return {FORWARD_TFLITE_INT8: model.content}, {INT8_FACTS: facts}


EXACT_GRAPHS: Mapping[str, WriteGraphs] = {"onnx": onnx_graphs, "tflite": tflite_graphs}


def manifest_facts(program: Program, twin: Program | None) -> dict[str, object]:
    """Give what the manifest says beside version and members: how to feed the network, what it is, where it is from.

    It is there for people and for readers without bitlens. The programs carry all that is needed to run them.
    """
    channels, *size = program.image_type.shape
    training = {name: value for name, value in program.metadata.items() if name not in ("labels", "precision")}
    return {
        "labels": program.metadata.get("labels"),
        "input": {
            "shape": list(program.image_type.shape),
            "colour": {1: "grey", 3: "rgb"}.get(channels, "other"),
            "dtype": program.image_type.dtype,
            "value": "float32 x" if program.is_full_precision else "code 0..255, x = code / 255",
            "range": [program.image_type.low, program.image_type.high] if program.image_type.is_integer else None,
        },
        "preprocessing": {"rule": RULE, "size": size, "in_words": RULE_IN_WORDS},
        "precision": program.metadata.get("precision"),
        "layers": [
            {
                "name": cost.name,
                "op": cost.op,
                "weights": cost.weights,
                "weight_bits": cost.weight_bits,
                "input_bits": cost.input_bits,
            }
            for cost in layer_costs(program)
        ],
        "training": training or None,
        "twin": None if twin is None else {"training": dict(twin.metadata) or None},
    }


def write_bundle(
    path: Path,
    program: Program,
    *,
    samples: Samples | None = None,
    twin: Program | None = None,
    graphs: Iterable[WriteGraphs] = tuple(EXACT_GRAPHS.values()),
) -> ExportedNetwork:
    """Write a bundle, wholly or not at all.

    Parameters
    ----------
    path : Path
        `NAME.bitlens`: new, or an earlier bundle, which is replaced.
    program : Program
    samples : Samples, optional
        Held-out images; with them the program is checked against the trained model and golden answers are stored.
    twin : Program, optional
        The full-precision twin.
    graphs : iterable of callable
        What else is written; none for a bundle of programs only, which the `native` and `reference` engines run.

    Raises
    ------
    BitlensError
        If the program cannot be written exactly in ONNX, does not give the trained model's logits, or the place
        cannot be written.
    """
    path = Path(path)
    check_bundle_place(path)
    members, facts = {NETWORK_PROGRAM: program_bytes(program)}, manifest_facts(program, twin)
    written, said = written_graphs(program, graphs)
    members |= written
    facts |= said
    if twin is not None:
        members[TWIN_PROGRAM] = program_bytes(twin)
    error = None
    if samples is not None:
        engine = open_engine(Network(path, program), "reference")
        twin_engine = None if twin is None else open_engine(Network(path, twin), "reference")
        golden = record_golden(engine, samples.images, samples.labels, twin=twin_engine)
        if samples.logits is not None:
            error = _checked_logits(golden.logits, samples.logits, program)
        members[GOLDEN] = golden_bytes(golden)
    content = bundle_bytes(members, facts)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error_of_folder:
        raise BitlensError(f"cannot make {path.parent} ({error_of_folder.strerror}): choose another place") from None
    write_bytes_atomically(path, content)
    return ExportedNetwork(open_bundle(path), error)


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
