"""What the engine must reach, and whether it did: ratios within one run, on the processors they were set for."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.job import Key
from bench.measurement import Table
from bench.own_jobs import OWN, OWN_AVX2
from bench.peer_jobs import LARQ, ORT_BYTES, ORT_FLOAT, TORCH, Peer


@dataclass(frozen=True)
class Target:
    """A bound on `numerator` time over `denominator` time.

    Parameters
    ----------
    what : str
        In words.
    kind, name : str
        Of the table; an empty name stands for every table of the kind, and the worst of them counts.
    numerator, denominator : Key
    bound : float
    at_least : bool
        Whether the ratio must be at least or at most the bound.
    feature : str
        Name in the kernels' `cpu_features` without which the target does not apply; empty for every processor.
    """

    what: str
    kind: str
    name: str
    numerator: Key
    denominator: Key
    bound: float
    at_least: bool = True
    feature: str = ""


@dataclass(frozen=True)
class Outcome:
    """A target with the ratio that was found: not a number if it was not measured."""

    target: Target
    ratio: float
    place: str

    @property
    def verdict(self) -> str:
        """`met`, `missed` or `not measured`."""
        if math.isnan(self.ratio):
            return "not measured"
        met = self.ratio >= self.target.bound if self.target.at_least else self.ratio <= self.target.bound
        return "met" if met else "missed"


def _key(peer: Peer, task: str) -> Key:
    return Key(peer.name, peer.precision, task)


def _own(task: str, precision: str = "w1a1", engine: str = OWN) -> Key:
    return Key(engine, precision, task)


_POPCOUNT = "avx512vpopcntdq"
_ORT, _ORT8 = _key(ORT_FLOAT, "forward"), _key(ORT_BYTES, "forward")
_VGG, _BIREAL = ("network", "vgg_small"), ("network", "bireal_resnet18")

TARGETS = (
    Target("VGG-small binary, faster than onnxruntime float32", *_VGG, _ORT, _own("forward"), 20, feature=_POPCOUNT),
    Target("VGG-small binary, faster than onnxruntime u8s8", *_VGG, _ORT8, _own("forward"), 5, feature=_POPCOUNT),
    Target(
        "VGG-small binary on AVX2 alone, faster than onnxruntime float32 on all there is",
        *_VGG,
        _ORT,
        _own("forward", engine=OWN_AVX2),
        5,
    ),
    Target(
        "VGG-small binary on AVX2 alone, faster than onnxruntime u8s8 on all there is",
        *_VGG,
        _ORT8,
        _own("forward", engine=OWN_AVX2),
        1.2,
    ),
    Target(
        "Bi-Real ResNet-18, faster than the standard one on onnxruntime float32",
        *_BIREAL,
        _ORT,
        _own("forward"),
        12,
        feature=_POPCOUNT,
    ),
    Target(
        "Bi-Real ResNet-18, faster than the standard one on onnxruntime u8s8",
        *_BIREAL,
        _ORT8,
        _own("forward"),
        3.5,
        feature=_POPCOUNT,
    ),
    Target(
        "every w2a2 3x3 layer, faster than onnxruntime u8s8",
        "layer",
        "",
        _key(ORT_BYTES, "layer"),
        _own("layer", "w2a2"),
        1.3,
    ),
    Target(
        "every w1a1 3x3 layer, faster than larq's indirect path", "layer", "", _key(LARQ, "layer"), _own("layer"), 15
    ),
    Target(
        "gradient map (forward and int8 backward) of VGG-small binary, in onnxruntime float32 forwards",
        *_VGG,
        _own("gradient int8"),
        _ORT,
        0.30,
        at_least=False,
    ),
    Target(
        "the same map, faster than torch's forward and input gradient",
        *_VGG,
        _key(TORCH, "gradient"),
        _own("gradient int8"),
        10,
    ),
    Target(
        "SmoothGrad of 25 samples, in single maps",
        *_VGG,
        _own("smoothgrad int8"),
        _own("gradient int8"),
        20,
        at_least=False,
    ),
    Target(
        "64 occlusions of 4x4 near one image, faster than 64 whole forwards",
        *_VGG,
        _own("occlusion whole"),
        _own("occlusion near"),
        3,
    ),
)


def outcomes(tables: Sequence[Table], features: Mapping[str, bool]) -> list[Outcome]:
    """Judge every target that applies to this processor."""
    found = []
    for target in TARGETS:
        if target.feature and not features.get(target.feature):
            continue
        fitting = [table for table in tables if table.kind == target.kind and target.name in ("", table.name)]
        ratios = [(table.ratio(target.numerator, target.denominator), table.name) for table in fitting]
        if not ratios or any(math.isnan(ratio) for ratio, _ in ratios):
            found.append(Outcome(target, math.nan, ""))
            continue
        ratio, place = min(ratios) if target.at_least else max(ratios)
        found.append(Outcome(target, ratio, place))
    return found
