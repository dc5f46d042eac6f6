"""The `tflite` engine: the exported TFLite graphs, forward and gradient, on ai-edge-litert or tflite-runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np

from bitlens.runtime.autodiff import gradient_program, spatial_activations
from bitlens.runtime.engines.engine import Choices, Engine, EngineInfo, RunGraph
from bitlens.runtime.engines.registry import register_engine
from bitlens.runtime.engines.tflite_interpreter import PACKAGES, TFLiteModel, load_runtime, open_tflite
from bitlens.runtime.errors import BitlensError, context
from bitlens.runtime.network import FORWARD_TFLITE, FORWARD_TFLITE_INT8, GRADIENT_TFLITE, Network
from bitlens.runtime.program import Array, Program
from bitlens.runtime.type_check import infer_types

MANIFEST_FACTS, REFUSED = "tflite", "refused"
"""What of the manifest says how the gradient graph was fixed at export, or why there is none."""


def run_tflite(model: TFLiteModel, program: Program) -> RunGraph:
    """Run a TFLite model that was written from `program`, on images one after the other.

    Parameters
    ----------
    model : TFLiteModel
        What `bitlens.export.tflite_model` made, loaded: maps are (1, H, W, C), all numbers float32.
    program : Program
        Says what shape and dtype each tensor has.

    Returns
    -------
    callable
        (inputs by name, names of outputs) -> arrays by name, maps (N, C, H, W).

    Raises
    ------
    BitlensError
        When it runs, if the model reads or gives something else than the program says.
    """
    types = infer_types(program)

    def run(feeds: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        given = {name: _channels_last(value) for name, value in feeds.items()}
        count = len(next(iter(feeds.values())))
        rows = [model.run({name: value[at : at + 1] for name, value in given.items()}, outputs) for at in range(count)]
        results = {}
        for name in outputs:
            whole, shape = np.concatenate([row[name] for row in rows]), types[name].shape
            turned = np.moveaxis(whole, -1, 1) if len(shape) == 3 and whole.ndim == 4 else whole
            if turned.shape != (count, *shape):
                raise BitlensError(
                    f"the TFLite model gives {name!r} as {whole.shape[1:]}, expected {shape}, channels last: it was "
                    "not written from this program, export the network again"
                )
            results[name] = np.ascontiguousarray(turned, types[name].dtype)
        return results

    return run


def _channels_last(value: Array) -> Array:
    """Turn a batch (N, C, H, W) or (N, F) into what lies in a TFLite file, float32."""
    turned = np.moveaxis(value, 1, -1) if value.ndim == 4 else value
    return np.ascontiguousarray(turned, np.float32)


def tflite_refusal(manifest: Mapping[str, object]) -> str:
    """Say why a bundle has no TFLite files, from its manifest; empty if it does not say."""
    facts = manifest.get(MANIFEST_FACTS)
    reason = facts.get(REFUSED, "") if isinstance(facts, dict) else ""
    return reason if isinstance(reason, str) else ""


def exported_feature(network: Network) -> str | None:
    """Name of the feature map whose gradient the gradient file gives; None if it gives none.

    Raises
    ------
    BitlensError
        If the manifest does not say it, or names none of the network's.
    """
    facts = network.manifest.get(MANIFEST_FACTS)
    name = facts.get("feature", "") if isinstance(facts, dict) else ""
    if name is None or (isinstance(name, str) and name in spatial_activations(network.program)):
        return name
    raise BitlensError("the manifest does not say what its TFLite files were made for: export the network again")


def _opened_file(network: Network, file: str, program: Program, threads: int) -> tuple[TFLiteModel, RunGraph]:
    with context(file):
        model = open_tflite(network.read(file), threads=threads)
    return model, run_tflite(model, program)


def _engine(network: Network, threads: int, name: str, model: TFLiteModel, forward: RunGraph) -> Engine:
    program, feature, runtime = network.program, exported_feature(network), load_runtime()

    @cache
    def gradient() -> RunGraph:
        return _opened_file(network, GRADIENT_TFLITE, gradient_program(program), threads)[1]

    info = EngineInfo(name, f"{runtime.package} {runtime.version}", threads, str(model.delegation))
    choices = Choices(windows=False, guided=False, features=() if feature is None else (feature,))
    return Engine(info, program, forward, lambda feeds, outputs: gradient()(feeds, outputs), choices=choices)


@register_engine(
    "tflite",
    speed=5,
    modules=tuple(PACKAGES),
    extra="tflite",
    files=(FORWARD_TFLITE, GRADIENT_TFLITE),
    load=load_runtime,
)
def open_exact(network: Network, threads: int) -> Engine:
    """Open the exported TFLite files; the gradient file is loaded when it is first needed."""
    load_runtime()  # what it refuses has nothing to do with the files
    model, forward = _opened_file(network, FORWARD_TFLITE, network.program, threads)
    return _engine(network, threads, "tflite", model, forward)


@register_engine(
    "tflite-int8",
    speed=-2,
    modules=tuple(PACKAGES),
    extra="tflite",
    files=(FORWARD_TFLITE_INT8, FORWARD_TFLITE, GRADIENT_TFLITE),
    load=load_runtime,
    is_exact=False,
    export_option="with --tflite int8",
)
def open_int8(network: Network, threads: int) -> Engine:
    """Open the fast forward file, which is near the program; all else is that of `tflite`.

    It holds the codes of a camera, 0..255: an image with others, as methods that add noise make, goes through the
    exact file.
    """
    load_runtime()
    program = network.program
    image = program.inputs[0].name
    fast, forward_fast = _opened_file(network, FORWARD_TFLITE_INT8, program, threads)

    @cache
    def exact() -> RunGraph:
        return _opened_file(network, FORWARD_TFLITE, program, threads)[1]

    def forward(feeds: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        codes = feeds[image]
        fits = bool(codes.size) and codes.min() >= 0 and codes.max() <= 255
        return (forward_fast if fits else exact())(feeds, outputs)

    return _engine(network, threads, "tflite-int8", fast, forward)
