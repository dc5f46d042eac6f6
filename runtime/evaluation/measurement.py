"""The work itself: maps of one block of images, compared to the twin's and tried on the network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from bitlens.runtime.evaluation.candidate import Candidate, Cast
from bitlens.runtime.evaluation.chunk_file import Values
from bitlens.runtime.evaluation.labelled_images import LabelledImages
from bitlens.runtime.evaluation.plan import OTHER_SEED, RANDOM_MAP, RANDOM_WEIGHTS, Chunk, Row
from bitlens.runtime.faithfulness import FAITHFULNESS
from bitlens.runtime.fidelity import METRICS
from bitlens.runtime.methods import METHODS, Passes
from bitlens.runtime.noise import uniform
from bitlens.runtime.pictures import reduce_channels
from bitlens.runtime.program import Array

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]


def method_maps(row: Row, candidate: Candidate, images: npt.NDArray[np.uint8], targets: Sequence[int]) -> Float32:
    """Make maps by a method, channels summed: float32 (N, H, W), NaN all over where one is not finite."""
    made = METHODS[row.method].function(candidate.engine, images, targets, **row.options)
    nothing = np.full(made.shape[2:], np.nan, np.float32)
    return np.stack([reduce_channels(one, "sum") if np.isfinite(one).all() else nothing for one in made])


def control_maps(title: str, places: Int64, shape: tuple[int, int], seed: int, *, signed: bool) -> Float32:
    """Make maps that look at no network: float32 (N, H, W).

    A random map is uniform in 0..1, or -1..1 where the maps it stands beside have a sign; it hangs on the seed and on
    the image's place in its source, nothing else.
    """
    if title != RANDOM_MAP:
        return np.ones((len(places), *shape), np.float32)
    values = np.stack([uniform(shape, seed=seed, stream=(int(place),)) for place in places])
    return np.float32(2.0) * values - np.float32(1.0) if signed else values


@dataclass(frozen=True)
class Scene:
    """One block of images and everyone who looks at it; what several chunks share is computed once.

    Parameters
    ----------
    cast : Cast
    block : LabelledImages
    seed : int
    """

    cast: Cast
    block: LabelledImages
    seed: int

    @cached_property
    def targets(self) -> list[int]:
        """The class that every map of a block explains: what the twin predicts."""
        return [int(label) for label in self.predicted(self.cast.twin)]

    def predicted(self, candidate: Candidate) -> Int64:
        """Most likely class of each image."""
        likeliest: Int64 = candidate.engine.forward(self.block.images).argmax(axis=1).astype(np.int64)
        return likeliest

    def maps(self, row: Row, candidate: Candidate, *, signed: bool = False) -> Float32:
        """Make the maps of a row, one value per pixel."""
        if row.is_control:
            height, width = self.block.images.shape[2:]
            return control_maps(row.title, self.block.places, (height, width), self.seed, signed=signed)
        return method_maps(row, candidate, self.block.images, self.targets)


def measured(chunk: Chunk, scene: Scene, twin_maps: Float32) -> Values:
    """Compute what a chunk's file holds.

    Parameters
    ----------
    chunk : Chunk
    scene : Scene
        Of the chunk's block.
    twin_maps : float32 (N, H, W)
        The twin's maps of the chunk's row.

    Notes
    -----
    Cost: `chunk_passes`.
    """
    plan, row = chunk.plan, chunk.plan.rows[chunk.row]
    candidate = scene.cast.judged[chunk.judged]
    maps = twin_maps if chunk.is_twin or row.is_control else scene.maps(row, candidate)
    values: dict[str, Array] = {"predicted": scene.predicted(candidate), "labels": scene.block.labels}
    for name in plan.faithfulness:
        values[f"faithfulness.{name}"] = _rated(name, candidate, scene, maps)
    if not row.is_control:
        others = _baseline_maps(chunk, scene) if chunk.is_twin else {"fidelity": maps}
        for other, other_maps in others.items():
            for name in plan.fidelity:
                values[f"{other}.{name}"] = compared_maps(name, twin_maps, other_maps)
    values["example_maps"] = np.where(np.isfinite(maps), maps, np.float32(0.0))[: chunk.examples]
    values["example_images"] = scene.block.images[: chunk.examples]
    return values


def _baseline_maps(chunk: Chunk, scene: Scene) -> dict[str, Float32]:
    if not chunk.plan.fidelity:
        return {}
    row, cast = chunk.plan.rows[chunk.row], scene.cast
    random = scene.maps(Row(RANDOM_MAP, "", {}), cast.twin, signed=METHODS[row.method].signed)
    maps = {RANDOM_WEIGHTS: scene.maps(row, cast.random_weights), RANDOM_MAP: random}
    return maps if cast.other_seed is None else maps | {OTHER_SEED: scene.maps(row, cast.other_seed)}


def compared_maps(name: str, one: Float32, other: Float32) -> Float64:
    """Compare maps (N, H, W) by a metric of `METRICS`: float64 (N,), NaN where one is not finite or it is undefined."""
    usable = np.isfinite(one).all(axis=(1, 2)) & np.isfinite(other).all(axis=(1, 2))
    values = np.full(len(one), np.nan)
    values[usable] = METRICS[name].batch(one[usable], other[usable])
    return values


def _rated(name: str, candidate: Candidate, scene: Scene, maps: Float32) -> Float64:
    usable = np.flatnonzero(np.isfinite(maps).all(axis=(1, 2)))
    values = np.full(len(maps), np.nan)
    targets = [scene.targets[place] for place in usable]
    values[usable] = FAITHFULNESS[name](candidate.engine, scene.block.images[usable], maps[usable], targets)
    return values


def chunk_passes(chunk: Chunk, cast: Cast) -> Passes:
    """Count what a chunk costs, the twin's maps, which its group shares, counted for the twin alone."""
    plan, row = chunk.plan, chunk.plan.rows[chunk.row]
    asked = Passes(1 + sum(FAITHFULNESS[name].forward_passes for name in plan.faithfulness), 0)
    if not row.is_control:
        one = METHODS[row.method].passes(cast.twin.program, **row.options)
        makers = 1
        if chunk.is_twin and plan.fidelity:
            makers += 1 if cast.other_seed is None else 2
        for _ in range(makers):
            asked += one
    size = len(plan.blocks[chunk.block])
    return Passes(size * asked.forward, size * asked.backward, asked.at_most)
