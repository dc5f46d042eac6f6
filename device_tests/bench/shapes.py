"""What is timed: lines of layers.txt and networks.txt."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from bitlens.runtime.errors import BitlensError

LAYER_PRECISIONS = ("w1a1", "w2a2", "w4a4")
TASKS = ("forward", "gradient", "smoothgrad", "occlusion")
_NAME = re.compile(r"[A-Za-z0-9_.-]+")

T = TypeVar("T")


@dataclass(frozen=True)
class LayerShape:
    """A convolution that gives the shape it takes, padded to the size of its map.

    Parameters
    ----------
    name : str
    height, width, channels, kernel : int
    precisions : tuple of str
        Those that our engine runs it at.
    """

    name: str
    height: int
    width: int
    channels: int
    kernel: int
    precisions: tuple[str, ...]

    @property
    def macs(self) -> int:
        """Multiplications of one layer."""
        return self.height * self.width * self.channels**2 * self.kernel**2


@dataclass(frozen=True)
class NetworkShape:
    """A whole network.

    Parameters
    ----------
    name : str
    model : str
        Key of `bitlens.train.models.MODELS`, and of `standard_network.NETWORKS`.
    image : tuple of int
        (channels, height, width).
    classes : int
    precisions : tuple of str
    tasks : tuple of str
        From `TASKS`.
    """

    name: str
    model: str
    image: tuple[int, int, int]
    classes: int
    precisions: tuple[str, ...]
    tasks: tuple[str, ...]


def read_layers(path: Path) -> tuple[LayerShape, ...]:
    """Read layers.txt.

    Raises
    ------
    BitlensError
        For a line that cannot be read, naming the file and the line.
    """
    return _read(path, ("name", "height", "width", "in", "out", "kernel", "stride", "precisions"), _layer)


def read_networks(path: Path) -> tuple[NetworkShape, ...]:
    """Read networks.txt; raises as `read_layers`."""
    columns = ("name", "model", "channels", "height", "width", "classes", "precisions", "tasks")
    return _read(path, columns, _network)


def _read(path: Path, columns: Sequence[str], parse: Callable[[Sequence[str]], T]) -> tuple[T, ...]:
    found: dict[str, T] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        fields = line.split()
        if not fields or fields[0].startswith("#"):
            continue
        try:
            if len(fields) != len(columns):
                raise ValueError(f"{len(fields)} columns, expected {len(columns)}: {' '.join(columns)}")
            if not _NAME.fullmatch(fields[0]):
                raise ValueError(f"the name {fields[0]!r} has other signs than letters, digits, '.', '_' and '-'")
            if fields[0] in found:
                raise ValueError(f"{fields[0]!r} stands in this file already: choose another name")
            found[fields[0]] = parse(fields)
        except ValueError as error:
            raise BitlensError(f"{path}, line {number}: {error}") from None
    if not found:
        raise BitlensError(f"{path} has no line to time")
    return tuple(found.values())


def _layer(fields: Sequence[str]) -> LayerShape:
    name, *numbers, precisions = fields
    height, width, inputs, outputs, kernel, stride = (_positive(word) for word in numbers)
    if inputs != outputs or stride != 1:
        raise ValueError(
            f"{inputs} channels become {outputs} at stride {stride}: expected a layer that gives the shape it takes, "
            "since it is timed in a chain"
        )
    if kernel % 2 == 0:
        raise ValueError(f"a kernel of {kernel} has no middle: expected an odd one")
    return LayerShape(name, height, width, inputs, kernel, _words(precisions, LAYER_PRECISIONS))


def _network(fields: Sequence[str]) -> NetworkShape:
    name, model, *numbers, precisions, tasks = fields
    channels, height, width, classes = (_positive(word) for word in numbers)
    image = (channels, height, width)
    return NetworkShape(name, model, image, classes, tuple(precisions.split(",")), _words(tasks, TASKS))


def _positive(word: str) -> int:
    if not word.isascii() or not word.isdigit() or not 1 <= int(word) <= 10_000:
        raise ValueError(f"{word!r} is no number from 1 to 10000")
    return int(word)


def _words(text: str, known: Sequence[str]) -> tuple[str, ...]:
    words = tuple(text.split(","))
    for word in words:
        if word not in known:
            raise ValueError(f"{word!r} is unknown: choose from {', '.join(known)}")
    return words
