"""The result of an evaluation: per-image values of all chunks, and the means that `evaluation.json` holds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bitlens.runtime.bootstrap import BootstrapMean, bootstrap_mean
from bitlens.runtime.evaluation.chunk_file import CHUNKS, Values, read_chunk
from bitlens.runtime.evaluation.plan import Plan
from bitlens.runtime.faithfulness import FAITHFULNESS, FaithfulnessMetric
from bitlens.runtime.fidelity import METRICS, Metric
from bitlens.runtime.methods import METHODS
from bitlens.runtime.program import Array

EVALUATION_VERSION = 1
CONFIDENCE = 0.95

Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Result:
    """Every value of every image.

    Parameters
    ----------
    plan : Plan
    chunks : mapping
        (judged, row, block) -> the values of that chunk.
    """

    plan: Plan
    chunks: Mapping[tuple[int, int, int], Values]

    def per_image(self, judged: int, row: int, name: str) -> Array:
        """Join one array of a network's chunks: shape (images, ...), in the order of the images."""
        blocks = range(len(self.plan.blocks))
        return np.concatenate([self.chunks[judged, row, block][name] for block in blocks])

    def accuracy(self, judged: int) -> BootstrapMean:
        """Share of images that a network gets right."""
        right = self.per_image(judged, 0, "predicted") == self.per_image(judged, 0, "labels")
        return bootstrap_mean(right.astype(np.float64), confidence=CONFIDENCE)

    def agreement(self, judged: int) -> BootstrapMean:
        """Share of images on which a network says what the twin says."""
        same = self.per_image(judged, 0, "predicted") == self.per_image(0, 0, "predicted")
        return bootstrap_mean(same.astype(np.float64), confidence=CONFIDENCE)

    def fidelity(self, row: int, of: str, metric: str) -> BootstrapMean:
        """How close the maps of `of`, a network or a baseline by name, are to the twin's."""
        names = [judged.name for judged in self.plan.judged]
        if of in names:
            return bootstrap_mean(self.per_image(names.index(of), row, f"fidelity.{metric}"), confidence=CONFIDENCE)
        return bootstrap_mean(self.per_image(0, row, f"{of}.{metric}"), confidence=CONFIDENCE)

    def faithfulness(self, judged: int, row: int, metric: str) -> BootstrapMean:
        """How a network's own maps fare on that network."""
        return bootstrap_mean(self.per_image(judged, row, f"faithfulness.{metric}"), confidence=CONFIDENCE)

    @property
    def compared(self) -> tuple[str, ...]:
        """Whose maps are compared to the twin's: the networks, then the baselines."""
        return (*(judged.name for judged in self.plan.judged[1:]), *self.plan.baselines)

    @property
    def method_rows(self) -> tuple[int, ...]:
        """Places of the rows that are methods."""
        return tuple(place for place, row in enumerate(self.plan.rows) if not row.is_control)


def collected(plan: Plan, folders: Sequence[Path]) -> Result | None:
    """Read every chunk of a plan from the first folder that has it; None if one is in none of them.

    Raises
    ------
    BitlensError
        If a file is damaged.
    """
    found: dict[tuple[int, int, int], Values] = {}
    for chunk in plan.chunks():
        values = next((got for folder in folders if (got := read_chunk(folder / CHUNKS, chunk)) is not None), None)
        if values is None:
            return None
        found[chunk.judged, chunk.row, chunk.block] = values
    return Result(plan, found)


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None  # JSON has no word for the others


def mean_facts(mean: BootstrapMean) -> dict[str, object]:
    """Say a mean as JSON values."""
    return {
        "mean": _number(mean.mean),
        "low": _number(mean.low),
        "high": _number(mean.high),
        "images": mean.images,
        "undefined": mean.undefined,
    }


def _metric_facts(kind: str, metric: Metric | FaithfulnessMetric) -> dict[str, object]:
    return {
        "name": metric.name,
        "kind": kind,
        "title": metric.title,
        "lowest": _number(metric.lowest),
        "highest": _number(metric.highest),
        "higher_is_better": metric.higher_is_better,
        "meaning": metric.meaning,
        "undefined": metric.undefined,
    }


def evaluation_facts(result: Result) -> dict[str, object]:
    """Say a whole result as JSON values: what `evaluation.json` holds (docs/file-formats.md)."""
    plan = result.plan
    fidelity = [
        {"method": plan.rows[row].title, "of": of, "metric": metric} | mean_facts(result.fidelity(row, of, metric))
        for row in result.method_rows
        for of in result.compared
        for metric in plan.fidelity
    ]
    faithfulness = [
        {"network": network.name, "maps": maps.title, "metric": metric}
        | mean_facts(result.faithfulness(judged, row, metric))
        for row, maps in enumerate(plan.rows)
        for judged, network in enumerate(plan.judged)
        for metric in plan.faithfulness
    ]
    return {
        "evaluation_version": EVALUATION_VERSION,
        "bitlens": plan.bitlens,
        "data": plan.data,
        "images": plan.images,
        "images_sha256": [block.sha256 for block in plan.blocks],
        "seed": plan.seed,
        "target": "the class that the twin predicts",
        "confidence": CONFIDENCE,
        "other_seed": None
        if plan.other_seed is None
        else {"sha256": plan.other_seed.sha256, "engine": plan.other_seed.engine},
        "networks": [
            {
                "name": network.name,
                "role": "network" if place else "twin",
                "precision": network.precision,
                "sha256": network.sha256,
                "engine": network.engine,
                "accuracy": mean_facts(result.accuracy(place)),
                "agreement": mean_facts(result.agreement(place)),
            }
            for place, network in enumerate(plan.judged)
        ],
        "methods": [
            {
                "title": plan.rows[row].title,
                "method": plan.rows[row].method,
                "options": dict(plan.rows[row].options),
                "meaning": METHODS[plan.rows[row].method].meaning,
            }
            for row in result.method_rows
        ],
        "metrics": [_metric_facts("fidelity", METRICS[name]) for name in plan.fidelity]
        + [_metric_facts("faithfulness", FAITHFULNESS[name]) for name in plan.faithfulness],
        "fidelity": fidelity,
        "faithfulness": faithfulness,
    }
