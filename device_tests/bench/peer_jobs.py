"""Jobs of the other engines, on standard networks of the same shapes; an engine that is not installed says so."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

import numpy as np

from bench.job import CHAIN, Absence, Call, Check, Job, Key
from bench.quantization import Scale, activation_scales
from bench.shapes import LayerShape, NetworkShape
from bench.standard_network import (
    Reals,
    StandardNetwork,
    evaluate,
    standard_chain,
    standard_network,
    tensor_ranges,
)

# Of |difference| / |result|, both Euclidean. Float32 errs by 1e-6 here, Winograd's sums too; 8-bit codes by 0.03 after
# nine layers; a wrong weight, padding or scale by a tenth and more.
FLOAT_BOUND = 1e-4
BYTES_BOUND = 0.06

# The gradient times one direction, against the slope along it in float64.
SLOPE_BOUND = 1e-3
_SLOPE_STEP = 1e-7

_CALIBRATION_IMAGES = 4
_PROJECTIONS = 4


@dataclass(frozen=True)
class Peer:
    """Another engine.

    Parameters
    ----------
    name, precision : str
        As in the table.
    module, package : str
        What is imported, and the name under which pip knows it.
    needs : tuple of str
        Further modules, to write its model with.
    """

    name: str
    precision: str
    module: str
    package: str
    needs: tuple[str, ...] = ()


ORT_FLOAT = Peer("onnxruntime", "float32", "onnxruntime", "onnxruntime", ("onnx",))
ORT_BYTES = Peer("onnxruntime", "u8s8", "onnxruntime", "onnxruntime", ("onnx",))
LITERT_FLOAT = Peer("litert", "float32", "ai_edge_litert", "ai-edge-litert", ("flatbuffers",))
LITERT_BYTES = Peer("litert", "int8", "ai_edge_litert", "ai-edge-litert", ("flatbuffers",))
TORCH = Peer("torch", "float32", "torch", "torch")
NCNN = Peer("ncnn", "float32", "ncnn", "ncnn")
LARQ = Peer("larq indirect", "w1a1", "larq_compute_engine", "larq-compute-engine", ("ai_edge_litert", "flatbuffers"))
PEERS = (ORT_FLOAT, ORT_BYTES, LITERT_FLOAT, LITERT_BYTES, TORCH, NCNN, LARQ)


def missing_module(peer: Peer) -> str:
    """Name of a module that a peer lacks here; empty if it can run."""
    return next((name for name in (peer.module, *peer.needs) if find_spec(name) is None), "")


def peer_versions() -> dict[str, str]:
    """Version of every peer; empty where it is not installed."""
    found = {}
    for peer in PEERS:
        try:
            found[peer.package] = version(peer.package)
        except PackageNotFoundError:
            found[peer.package] = ""
    return found


@dataclass(frozen=True)
class _Subject:
    """A network with an image, what float64 makes of it, and 8-bit scales."""

    network: StandardNetwork
    image: Reals
    result: Reals
    scales: dict[str, Scale]


def _subject(network: StandardNetwork) -> _Subject:
    images = np.random.default_rng(8).random((_CALIBRATION_IMAGES, *network.image))
    scales = activation_scales(network, tensor_ranges(network, images))
    return _Subject(network, images[0], evaluate(network, images[0])[network.output], scales)


def _open(peer: Peer, subject: _Subject) -> Callable[[], Reals]:
    """Give a call that runs the subject's network once; imported here, since not every engine is everywhere."""
    network, image = subject.network, subject.image
    if peer.module == "onnxruntime":
        from bench.onnx_model import onnx_model
        from bench.peers.onnx_runtime import open_onnx

        return open_onnx(onnx_model(network, subject.scales if peer is ORT_BYTES else None), image)
    if peer.module == "ai_edge_litert":
        from bench.peers.litert import open_tflite
        from bench.tflite_model import tflite_model

        return open_tflite(tflite_model(network, subject.scales if peer is LITERT_BYTES else None), image)
    if peer is NCNN:
        from bench.ncnn_model import ncnn_model
        from bench.peers.ncnn_net import open_ncnn

        return open_ncnn(ncnn_model(network), network.output, image)
    from bench.peers.pytorch import open_forward

    return open_forward(network, image)


def _check(peer: Peer, call: Callable[[], Reals], subject: _Subject) -> Check:
    got = call().astype(np.float64)
    is_bytes = peer in (ORT_BYTES, LITERT_BYTES)
    error = float("nan")
    if got.shape == subject.result.shape:
        error = float(np.linalg.norm(got - subject.result) / np.linalg.norm(subject.result))
    return Check(error, BYTES_BOUND if is_bytes else FLOAT_BOUND, "relative error against NumPy in float64")


def _present(peers: tuple[Peer, ...], task: str) -> Iterator[Peer | Absence]:
    for peer in peers:
        lacking = missing_module(peer)
        if lacking:
            yield Absence(Key(peer.name, peer.precision, task), f"not installed (no module {lacking})")
        else:
            yield peer


def layer_jobs(shape: LayerShape) -> Iterator[Job | Absence]:
    """One job for each engine."""
    subjects = [_subject(standard_chain(shape, length)) for length in (CHAIN, 1)]
    for peer in _present((ORT_FLOAT, ORT_BYTES, LITERT_FLOAT, LITERT_BYTES, TORCH, NCNN), "layer"):
        if isinstance(peer, Absence):
            yield peer
            continue
        calls = tuple(_open(peer, subject) for subject in subjects)
        checks = tuple(_check(peer, call, subject) for call, subject in zip(calls, subjects, strict=True))
        yield Job(Key(peer.name, peer.precision, "layer"), calls, checks)
    for peer in _present((LARQ,), "layer"):
        yield peer if isinstance(peer, Absence) else _larq_job(shape)


def _larq_job(shape: LayerShape) -> Job:
    from bench.larq_model import binary_chain, binary_signs, larq_model
    from bench.peers.larq import open_larq

    draw = np.random.default_rng(9)
    image = draw.standard_normal((shape.channels, shape.height, shape.width))
    calls: list[Call] = []
    wrong = 0
    for length in (CHAIN, 1):
        chain = binary_chain(shape, length)
        calls.append(open_larq(larq_model(shape, chain, image)))
        signs = binary_signs(chain, image)
        for _ in range(_PROJECTIONS):
            projection = draw.integers(-7, 8, image.shape).astype(np.float32)  # sums stay below 2^24, exact
            got = open_larq(larq_model(shape, chain, image, projection))()
            wrong += int(got != (signs * projection).sum())
    check = Check(float(wrong), 0.0, "weighted sums of the signs that differ from NumPy's")
    return Job(Key(LARQ.name, LARQ.precision, "layer"), tuple(calls), (check,))


def network_jobs(shape: NetworkShape) -> Iterator[Job | Absence]:
    """Forward passes on every engine, and the input gradient on PyTorch."""
    subject = _subject(standard_network(shape))
    for peer in _present((ORT_FLOAT, ORT_BYTES, LITERT_FLOAT, LITERT_BYTES, TORCH, NCNN), "forward"):
        if isinstance(peer, Absence):
            yield peer
            continue
        call = _open(peer, subject)
        yield Job(Key(peer.name, peer.precision, "forward"), (call,), (_check(peer, call, subject),))
    yield Absence(Key(LARQ.name, LARQ.precision, "forward"), "layers only: no network is written for it")
    if "gradient" in shape.tasks:
        for peer in _present((TORCH,), "gradient"):
            yield peer if isinstance(peer, Absence) else _torch_gradient_job(subject)


def _torch_gradient_job(subject: _Subject) -> Job:
    from bench.peers.pytorch import open_gradient

    call = open_gradient(subject.network, subject.image, 0)
    direction = np.random.default_rng(10).standard_normal(subject.image.shape)
    ends = [
        evaluate(subject.network, subject.image + step * direction)[subject.network.output][0]
        for step in (_SLOPE_STEP, -_SLOPE_STEP)
    ]
    slope, got = (ends[0] - ends[1]) / (2 * _SLOPE_STEP), float((call() * direction).sum())
    check = Check(abs(got - slope) / abs(slope), SLOPE_BOUND, "relative error of the slope along one direction")
    return Job(Key(TORCH.name, TORCH.precision, "gradient"), (call,), (check,))
