"""Doing what is missing: chunk by chunk, each on the disk before the next begins."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from itertools import groupby
from pathlib import Path

from bitlens.runtime.atomic_file import write_bytes_atomically
from bitlens.runtime.errors import BitlensError
from bitlens.runtime.evaluation.candidate import Candidate, Cast
from bitlens.runtime.evaluation.chunk_file import CHUNKS, read_chunk, write_chunk
from bitlens.runtime.evaluation.labelled_images import LabelledImages
from bitlens.runtime.evaluation.measurement import Scene, chunk_passes, measured
from bitlens.runtime.evaluation.plan import BLOCK, CONTROLS, Block, Chunk, Judged, Plan, Row, block_sha256, plan_bytes
from bitlens.runtime.methods import METHODS, Passes, method

PLAN = "plan.json"

Say = Callable[[str], None]
"""Takes a line of text for a person who waits."""

SAID_EVERY = 5.0  # seconds, at least, between two lines on how far it is


@dataclass(frozen=True)
class Shard:
    """Which part of the groups of chunks is done here: number 1..count of count."""

    number: int
    count: int

    def has(self, chunk: Chunk) -> bool:
        """Whether a chunk belongs to it."""
        return chunk.group % self.count == self.number - 1

    @staticmethod
    def parsed(text: str) -> Shard:
        """Read `i/n`.

        Raises
        ------
        BitlensError
            If it is not of that form, or i does not lie in 1..n.
        """
        number, slash, count = text.partition("/")
        if slash and number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count):
            return Shard(int(number), int(count))
        raise BitlensError(f"--shard is {text!r}, expected I/N with I from 1 to N: 1/2 for the first of two machines")


WHOLE = Shard(1, 1)


def judged(candidate: Candidate) -> Judged:
    """Say of a network what a plan does."""
    info = candidate.engine.info
    return Judged(candidate.name, candidate.precision, candidate.sha256, f"{info.name} {info.version}")


def planned(
    cast: Cast,
    images: LabelledImages,
    rows: Sequence[Row],
    *,
    fidelity: Sequence[str],
    faithfulness: Sequence[str],
    seed: int,
) -> Plan:
    """Plan an evaluation.

    Parameters
    ----------
    cast : Cast
    images : LabelledImages
        All that are looked at.
    rows : sequence of Row
        Methods; the controls are added where something is measured on them.
    fidelity, faithfulness : sequences of str
        Metrics by name.
    seed : int

    Raises
    ------
    BitlensError
        If a label is no class of the networks.
    """
    if images.labels.max() >= cast.twin.engine.classes:
        raise BitlensError(
            f"{images.name} has class {images.labels.max()}, the network has 0 to {cast.twin.engine.classes - 1}: "
            "choose the data it was trained on"
        )
    blocks = []
    for start in range(0, len(images), BLOCK):
        part = images.subset(slice(start, start + BLOCK))
        blocks.append(Block(start, start + len(part), block_sha256(part.images, part.labels, part.places)))
    controls = tuple(Row(title, "", {}) for title in CONTROLS) if faithfulness else ()
    channels, height, width = cast.twin.program.image_type.shape
    return Plan(
        bitlens=version("bitlens"),
        data=images.name,
        labels=cast.labels,
        shape=(channels, height, width),
        blocks=tuple(blocks),
        judged=tuple(judged(candidate) for candidate in cast.judged),
        other_seed=None if cast.other_seed is None else judged(cast.other_seed),
        rows=(*rows, *controls),
        fidelity=tuple(fidelity),
        faithfulness=tuple(faithfulness),
        seed=seed,
    )


def missing_chunks(plan: Plan, folder: Path, shard: Shard, say: Say) -> list[Chunk]:
    """List the chunks of a shard that are not there, or not whole."""
    missing = []
    for chunk in plan.chunks():
        if shard.has(chunk):
            try:
                found = read_chunk(folder, chunk) is not None
            except BitlensError as error:
                say(f"{error}; it is computed again")
                found = False
            if not found:
                missing.append(chunk)
    return missing


def weight(passes: Passes) -> int:
    """Measure time in passes: a backward pass takes about twice as long as a forward one."""
    return passes.forward + 2 * passes.backward


def duration(seconds: float) -> str:
    """Say a time as a person would.

    >>> duration(42), duration(600), duration(9000)
    ('42 s', '10 min', '2.5 h')
    """
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def do_missing(plan: Plan, cast: Cast, images: LabelledImages, output: Path, shard: Shard, say: Say) -> None:
    """Compute the chunks of a shard that `output` lacks; stopped at any moment, all but the last chunk is kept.

    Raises
    ------
    BitlensError
        If the place is not writable, or a method or metric refuses the networks.
    """
    folder = output / CHUNKS
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BitlensError(f"cannot make {folder} ({error.strerror}): choose another place with --output") from error
    write_bytes_atomically(output / PLAN, plan_bytes(plan))
    own = sum(shard.has(chunk) for chunk in plan.chunks())
    missing = missing_chunks(plan, folder, shard, say)
    costs = [chunk_passes(chunk, cast) for chunk in missing]
    whole = sum(costs, Passes(0, 0))
    say(
        f"{plan.images} images, {len(plan.judged)} networks, {len(plan.rows)} kinds of maps: {own} chunks"
        + (f" of shard {shard.number}/{shard.count}" if shard != WHOLE else "")
        + (f", {own - len(missing)} of them done before" if own != len(missing) else "")
    )
    if not missing:
        return
    say(f"to do: {'at most ' * whole.at_most}{whole.forward:,} forward and {whole.backward:,} backward passes")
    begun = said = time.monotonic()
    done = 0
    remaining = list(zip(missing, costs, strict=True))
    for _, group in groupby(remaining, key=lambda pair: pair[0].group):
        pairs = list(group)
        first = pairs[0][0]
        block, row = plan.blocks[first.block], plan.rows[first.row]
        scene = Scene(cast, images.subset(slice(block.start, block.stop)), plan.seed)
        # Once for the group. They are made again when a group was interrupted, and are the same then.
        twin_maps = scene.maps(row, cast.twin)
        for chunk, cost in pairs:
            write_chunk(folder, chunk, measured(chunk, scene, twin_maps))
            done += weight(cost)
            now = time.monotonic()
            if now - said >= SAID_EVERY:
                said = now
                left = (now - begun) * (weight(whole) - done) / done
                say(f"{100 * done / weight(whole):.0f} %, about {duration(left)} left: {chunk.title} is done")


def parsed_rows(text: str) -> tuple[Row, ...]:
    """Read --methods: `all`, or names with commas between, each with `:option=value` as often as needed.

    Raises
    ------
    BitlensError
        If there is no such method or option, or one is given twice.
    """
    titles = list(METHODS) if text == "all" else [part.strip() for part in text.split(",")]
    for title in titles:
        if titles.count(title) > 1:
            raise BitlensError(f"method {title!r} is given twice: give it once")
    return tuple(_row(title) for title in titles)


def _row(title: str) -> Row:
    name, *settings = title.split(":")
    return Row(title, name, method(name).settings(settings))
