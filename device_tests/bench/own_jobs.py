"""Our engine's jobs: layers, and whole networks' forward passes, gradient maps, SmoothGrad and occlusion."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bench.job import CHAIN, Call, Check, Job, Key
from bench.layer_program import last_codes, layer_program
from bench.network_program import network_program
from bench.shapes import LayerShape, NetworkShape
from bitlens.runtime.engines import Engine, one_hot, open_engine
from bitlens.runtime.engines.native import KERNELS_VARIABLE
from bitlens.runtime.methods.smoothgrad import noisy_copies, smoothgrad
from bitlens.runtime.native.kernels import kernels
from bitlens.runtime.network import Network
from bitlens.runtime.parity import GRADIENT_TOLERANCE, relative_errors
from bitlens.runtime.program import Program
from bitlens.runtime.subject import gradients_at, subjects

OWN = "native"
OWN_AVX2 = "native avx2"

SMOOTHGRAD_SAMPLES, SMOOTHGRAD_SPREAD = 25, 0.15
OCCLUSION_SIDE = 4
OCCLUSIONS = 64

# 1 - cosine of the fast gradient with the exact one. A trained network stays below 1e-3; these have random weights, and
# a wrong mask, weight or scale is worth a tenth and more.
INT8_GRADIENT_BOUND = 0.01

Codes = npt.NDArray[np.uint8]


def own_engines() -> Mapping[str, str]:
    """Name in the table -> instruction sets it may use, none for all; AVX2 by itself where there is more."""
    engines = {OWN: ""}
    features = cpu_features()
    narrow = [isa for _, isa, *_ in kernels().sum_kernels() if isa.startswith("avx2")]
    if features.get("avx2") and any(features.get(name) for name in ("avxvnni", "avx512")):
        engines[OWN_AVX2] = ",".join(sorted(set(narrow)))
    return engines


def cpu_features() -> Mapping[str, bool]:
    """Ask the kernels' own detection about this processor."""
    return dict(kernels().cpu_features())


def cpu_class() -> str:
    """Which of the classes that the targets name this processor belongs to."""
    features = cpu_features()
    classes = {
        "avx512vpopcntdq": "AVX-512 VPOPCNTDQ",
        "avx512": "AVX-512",
        "avxvnni": "AVX2 + AVX-VNNI",
        "avx2": "AVX2",
        "neondot": "NEON dot product",
        "neon": "NEON",
    }
    return next((name for feature, name in classes.items() if features.get(feature)), "scalar")


@contextmanager
def _allowed(instruction_sets: str) -> Iterator[None]:
    """Hold the engines that are opened and first run within to these instruction sets."""
    before = os.environ.get(KERNELS_VARIABLE)
    os.environ[KERNELS_VARIABLE] = instruction_sets
    try:
        yield
    finally:
        if before is None:
            del os.environ[KERNELS_VARIABLE]
        else:
            os.environ[KERNELS_VARIABLE] = before


def _open(program: Program, name: str) -> Engine:
    return open_engine(Network(Path("bench.program"), program), name)


def _differing(got: npt.NDArray[np.generic], expected: npt.NDArray[np.generic], what: str) -> Check:
    return Check(float((got != expected).sum()), 0.0, f"{what} that differ from the reference engine's")


def layer_jobs(shape: LayerShape) -> Iterator[Job]:
    """One job for each precision and set of kernels."""
    image = np.random.default_rng(5).integers(0, 256, (1, 1, shape.height, shape.width)).astype(np.uint8)
    feeds = {"image": image.astype(np.int16)}
    for precision in shape.precisions:
        chains = {length: layer_program(shape, precision, length) for length in (CHAIN, 1)}
        wanted = {length: ("logits", last_codes(length)) for length in chains}
        expected = {
            length: _open(program, "reference").run_forward(feeds, wanted[length]) for length, program in chains.items()
        }
        for name, sets in own_engines().items():
            with _allowed(sets):
                engines = {length: _open(program, "native") for length, program in chains.items()}
                checks = []
                for length, engine in engines.items():
                    right, got = expected[length], engine.run_forward(feeds, wanted[length])
                    checks.append(_differing(engine.forward(image), right["logits"], f"logits of {length} layers"))
                    codes = last_codes(length)
                    checks.append(_differing(got[codes], right[codes], f"codes of layer {length}"))
            calls = tuple(_forward_call(engine, image) for engine in engines.values())
            yield Job(Key(name, precision, "layer"), calls, tuple(checks), engines[CHAIN].info.kernels)


class _OwnNetwork:
    """One precision of a network on the reference engine, and what it computes there."""

    def __init__(self, shape: NetworkShape, precision: str) -> None:
        self.shape, self.precision = shape, precision
        self.program = network_program(shape, precision)
        self.image: Codes = np.random.default_rng(6).integers(0, 256, (1, *shape.image)).astype(np.uint8)
        self.seed = one_hot([0], shape.classes)
        self.reference = _open(self.program, "reference")
        self.expected = self.reference.traced_gradient(self.image, self.seed)

    @cached_property
    def occlusions(self) -> Codes:
        """Copies of the image with a grey square each, in rows."""
        _, height, width = self.shape.image
        across = round(OCCLUSIONS**0.5)
        copies = np.repeat(self.image, OCCLUSIONS, axis=0)
        for index, copy in enumerate(copies):
            top, left = index // across * height // across, index % across * width // across
            copy[:, top : top + OCCLUSION_SIDE, left : left + OCCLUSION_SIDE] = 127
        return copies

    def jobs(self, name: str, sets: str) -> tuple[Job, ...]:
        """Every task on one set of kernels: what is timed has run once, so that its plan is laid out on them."""
        with _allowed(sets):
            return tuple(self._jobs(name))

    def _jobs(self, name: str) -> Iterator[Job]:
        exact, fast = _open(self.program, "native"), _open(self.program, "native-int8")
        kernels = exact.info.kernels
        traced = exact.traced_gradient(self.image, self.seed)
        own, right = ({**each.codes, **each.masks} for each in (traced, self.expected))
        wrong = sum(int((own[tensor] != right[tensor]).sum()) for tensor in right)
        codes = Check(float(wrong), 0.0, "codes and mask bits that differ from the reference engine's")
        logits = _differing(exact.forward(self.image), self.expected.logits, "logits")
        yield Job(Key(name, self.precision, "forward"), (_forward_call(exact, self.image),), (logits, codes), kernels)
        if "gradient" in self.shape.tasks:
            got, rough = (engine.gradient(self.image, self.seed) for engine in (exact, fast))
            error = float(relative_errors(got.input_gradient, self.expected.input_gradient).max())
            near = Check(error, GRADIENT_TOLERANCE, "largest relative error of the gradient")
            logits = _differing(got.logits, self.expected.logits, "logits")
            yield self._gradient_job(name, "gradient float32", exact, (logits, codes, near), kernels)
            far = 1.0 - _cosine(rough.input_gradient, self.expected.input_gradient)
            close = Check(far, INT8_GRADIENT_BOUND, "1 - cosine with the reference engine's gradient")
            logits = _differing(rough.logits, self.expected.logits, "logits")
            yield self._gradient_job(name, "gradient int8", fast, (logits, close), kernels)
        if "smoothgrad" in self.shape.tasks:
            yield self._smoothgrad_job(name, "smoothgrad float32", exact, kernels)
            yield self._smoothgrad_job(name, "smoothgrad int8", fast, kernels)
        if "occlusion" in self.shape.tasks:
            yield from self._occlusion_jobs(name, exact, kernels)

    def _gradient_job(self, name: str, task: str, engine: Engine, checks: tuple[Check, ...], kernels: str) -> Job:
        return Job(Key(name, self.precision, task), (lambda: engine.gradient(self.image, self.seed),), checks, kernels)

    def _smoothgrad_job(self, name: str, task: str, engine: Engine, kernels: str) -> Job:
        def whole() -> npt.NDArray[np.float32]:
            return smoothgrad(
                engine, self.image, [0], stdev_spread=SMOOTHGRAD_SPREAD, nsamples=SMOOTHGRAD_SAMPLES, seed=0
            )

        singly = _mean_of_single_gradients(engine, self.image)
        error = float(relative_errors(whole(), singly).max())
        check = Check(error, GRADIENT_TOLERANCE, "largest relative error against the samples run one by one")
        return Job(Key(name, self.precision, task), (whole,), (check,), kernels)

    def _occlusion_jobs(self, name: str, engine: Engine, kernels: str) -> Iterator[Job]:
        copies = self.occlusions
        few = copies[:: OCCLUSIONS // 4]
        whole = engine.forward(copies)
        right = _differing(whole[:: OCCLUSIONS // 4], self.reference.forward(few), "logits of four copies")
        near = _differing(engine.forward_near(self.image[0], copies), whole, "logits, of those computed whole,")
        yield Job(
            Key(name, self.precision, "occlusion near"),
            (lambda: engine.forward_near(self.image[0], copies),),
            (right, near),
            kernels,
        )
        yield Job(Key(name, self.precision, "occlusion whole"), (lambda: engine.forward(copies),), (right,), kernels)


def _mean_of_single_gradients(engine: Engine, image: Codes) -> npt.NDArray[np.float64]:
    """SmoothGrad with every sample run by itself."""
    (subject,) = subjects(engine, image, [0])
    sigma = SMOOTHGRAD_SPREAD * float(np.ptp(subject.x))
    copies = noisy_copies(subject.x, sigma, range(SMOOTHGRAD_SAMPLES), 0)
    mean: npt.NDArray[np.float64] = np.mean([gradients_at(engine, copy[None], 0) for copy in copies], axis=0)
    return mean


def _cosine(first: npt.NDArray[np.float32], second: npt.NDArray[np.float32]) -> float:
    a, b = first.ravel().astype(np.float64), second.ravel().astype(np.float64)
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def _forward_call(engine: Engine, image: Codes) -> Call:
    return lambda: engine.forward(image)


def network_jobs(shape: NetworkShape) -> Iterator[Job]:
    """Every task, precision and set of kernels of a network."""
    for precision in shape.precisions:
        network = _OwnNetwork(shape, precision)
        for name, sets in own_engines().items():
            yield from network.jobs(name, sets)
