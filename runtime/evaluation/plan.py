"""What is evaluated, cut into chunks: each has a key made of all that its numbers hang on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bitlens.runtime.errors import BitlensError
from bitlens.runtime.faithfulness import FAITHFULNESS
from bitlens.runtime.fidelity import METRICS
from bitlens.runtime.methods import METHODS, Value

PLAN_VERSION = 1
BLOCK = 20  # images of a chunk: what a killed run loses at most
EXAMPLES = 3  # images shown on the page

RANDOM_MAP, UNIFORM_MAP = "random map", "uniform map"
CONTROLS = (RANDOM_MAP, UNIFORM_MAP)
"""Maps that look at no network: what chance, and what a map without any content gets."""

RANDOM_WEIGHTS, OTHER_SEED = "random weights", "another seed"


@dataclass(frozen=True)
class Row:
    """Where a map comes from: a method with its options, or a control.

    Parameters
    ----------
    title : str
        As it was asked for: `grad_cam:layer=act2`.
    method : str
        A key of `METHODS`; empty for a control.
    options : mapping
    """

    title: str
    method: str
    options: Mapping[str, Value]

    @property
    def is_control(self) -> bool:
        """Whether no network made it."""
        return not self.method


@dataclass(frozen=True)
class Judged:
    """The twin or a network, by name, precision, SHA-256, and the engine that ran it."""

    name: str
    precision: str
    sha256: str
    engine: str


@dataclass(frozen=True)
class Block:
    """Images start..stop-1 of those chosen, and the SHA-256 of images, labels and places."""

    start: int
    stop: int
    sha256: str

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True)
class Plan:
    """What is evaluated.

    Parameters
    ----------
    bitlens : str
        Version.
    data : str
        Name of the images.
    labels : tuple of str
        Names of the classes.
    shape : tuple of int
        (C, H, W).
    blocks : tuple of Block
    judged : tuple of Judged
        The twin first.
    other_seed : Judged or None
    rows : tuple of Row
        Methods first, then controls.
    fidelity, faithfulness : tuple of str
        Metrics by name.
    seed : int
    """

    bitlens: str
    data: str
    labels: tuple[str, ...]
    shape: tuple[int, ...]
    blocks: tuple[Block, ...]
    judged: tuple[Judged, ...]
    other_seed: Judged | None
    rows: tuple[Row, ...]
    fidelity: tuple[str, ...]
    faithfulness: tuple[str, ...]
    seed: int

    @property
    def images(self) -> int:
        """How many images are looked at."""
        return self.blocks[-1].stop

    @property
    def baselines(self) -> tuple[str, ...]:
        """What fidelity stands beside."""
        seeds = () if self.other_seed is None else (OTHER_SEED,)
        return (*seeds, RANDOM_WEIGHTS, RANDOM_MAP)

    def chunks(self) -> Iterator[Chunk]:
        """All of them: row by row, block by block, the twin before the networks."""
        for row in range(len(self.rows)):
            for block in range(len(self.blocks)):
                for judged in range(len(self.judged)):
                    yield Chunk(self, judged, row, block)


@dataclass(frozen=True)
class Chunk:
    """One network, one row, one block of images: the unit of work."""

    plan: Plan
    judged: int
    row: int
    block: int

    @property
    def is_twin(self) -> bool:
        """Whether it is of the twin."""
        return self.judged == 0

    @property
    def group(self) -> int:
        """Chunks of one group are compared to the same maps of the twin, and are made on one machine."""
        return self.row * len(self.plan.blocks) + self.block

    @property
    def title(self) -> str:
        """What it is, for a person."""
        block = self.plan.blocks[self.block]
        judged, row = self.plan.judged[self.judged], self.plan.rows[self.row]
        return f"{judged.name}, {row.title}, images {block.start + 1} to {block.stop}"

    @property
    def examples(self) -> int:
        """How many of its maps are kept for the page."""
        block = self.plan.blocks[self.block]
        if self.plan.rows[self.row].is_control:
            return 0
        return max(0, min(block.stop, EXAMPLES) - block.start)

    @property
    def key(self) -> bytes:
        """All that its numbers hang on, as canonical JSON."""
        plan, row = self.plan, self.plan.rows[self.row]
        compared = plan.fidelity if not row.is_control else ()
        facts = {
            "chunk": PLAN_VERSION,
            "bitlens": plan.bitlens,
            "network": _numbers_of(plan.judged[self.judged]),
            "twin": _numbers_of(plan.judged[0]),
            "other_seed": _numbers_of(plan.other_seed) if self.is_twin and compared else None,
            "method": row.method or row.title,
            "options": dict(row.options),
            "fidelity": compared,
            "faithfulness": plan.faithfulness,
            "images": plan.blocks[self.block].sha256,
            "examples": self.examples,
            "seed": plan.seed,
        }
        return json.dumps(facts, sort_keys=True, separators=(",", ":")).encode()

    @property
    def file_name(self) -> str:
        """SHA-256 of the key, so that a chunk of anything else is never found."""
        return f"{hashlib.sha256(self.key).hexdigest()}.npz"

    def arrays(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Say what its file holds: name -> dtype and shape."""
        plan, size = self.plan, (len(self.plan.blocks[self.block]),)
        expected: dict[str, tuple[str, tuple[int, ...]]] = {"predicted": ("int64", size), "labels": ("int64", size)}
        expected |= {f"faithfulness.{name}": ("float64", size) for name in plan.faithfulness}
        if not plan.rows[self.row].is_control:
            compared = plan.baselines if self.is_twin else ("fidelity",)
            expected |= {f"{other}.{name}": ("float64", size) for other in compared for name in plan.fidelity}
        if self.examples:
            _, height, width = plan.shape
            expected["example_maps"] = ("float32", (self.examples, height, width))
            if self.is_twin:
                expected["example_images"] = ("uint8", (self.examples, *plan.shape))
        return expected


def _numbers_of(judged: Judged | None) -> dict[str, str] | None:
    """Say what of a network changes numbers: not what it is called."""
    return None if judged is None else {"sha256": judged.sha256, "engine": judged.engine}


def block_sha256(images: npt.NDArray[np.uint8], labels: npt.NDArray[np.int64], places: npt.NDArray[np.int64]) -> str:
    """Hash images, their labels and their places, in the byte order of the file formats."""
    digest = hashlib.sha256(json.dumps(images.shape).encode())
    for part in (images, labels.astype("<i8"), places.astype("<i8")):
        digest.update(np.ascontiguousarray(part).tobytes())
    return digest.hexdigest()


def plan_bytes(plan: Plan) -> bytes:
    """Write a plan as JSON; equal plans give equal bytes."""
    return (json.dumps({"plan_version": PLAN_VERSION} | asdict(plan), indent=1, sort_keys=True) + "\n").encode()


def plan_from_bytes(content: bytes) -> Plan:
    """Read a plan and check it.

    Raises
    ------
    BitlensError
        If it is damaged, or of another version.
    """
    try:
        facts = json.loads(content)
        version = facts.pop("plan_version")
        if version != PLAN_VERSION:
            raise BitlensError(f"has version {version!r}, this bitlens reads {PLAN_VERSION}: evaluate again")
        plan = _plan_of(facts)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BitlensError(f"is damaged ({error}): evaluate again, which keeps what is whole") from error
    if not _is_sound(plan):
        raise BitlensError("is damaged: evaluate again, which keeps what is whole")
    return plan


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.isprintable():
        raise TypeError(f"{value!r:.40} is no name")
    return value


def _texts(values: Sequence[Any]) -> tuple[str, ...]:
    return tuple(_text(value) for value in list(values))


def _judged_of(facts: Mapping[str, Any]) -> Judged:
    return Judged(*(_text(facts[name]) for name in ("name", "precision", "sha256", "engine")))


def _plan_of(facts: Mapping[str, Any]) -> Plan:
    other = facts["other_seed"]
    return Plan(
        bitlens=_text(facts["bitlens"]),
        data=_text(facts["data"]),
        labels=_texts(facts["labels"]),
        shape=tuple(int(size) for size in facts["shape"]),
        blocks=tuple(Block(int(one["start"]), int(one["stop"]), str(one["sha256"])) for one in facts["blocks"]),
        judged=tuple(_judged_of(one) for one in facts["judged"]),
        other_seed=None if other is None else _judged_of(other),
        rows=tuple(Row(_text(one["title"]), _text(one["method"]), dict(one["options"])) for one in facts["rows"]),
        fidelity=_texts(facts["fidelity"]),
        faithfulness=_texts(facts["faithfulness"]),
        seed=int(facts["seed"]),
    )


def _is_sound(plan: Plan) -> bool:
    stops = [0, *(block.stop for block in plan.blocks)]
    return (
        bool(plan.blocks and plan.judged and plan.rows)
        and all(block.start == at and 0 < len(block) <= BLOCK for block, at in zip(plan.blocks, stops, strict=False))
        and len(plan.shape) == 3
        and all(0 < size < 2**16 for size in plan.shape)
        and set(plan.fidelity) <= set(METRICS)
        and set(plan.faithfulness) <= set(FAITHFULNESS)
        and all(row.method in METHODS or (row.is_control and row.title in CONTROLS) for row in plan.rows)
    )
