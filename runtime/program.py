"""The program: a short, flat list of typed ops over named tensors. Plain data; what an op means stands in `ops/`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from bitlens.runtime.errors import BitlensError

Attribute = int | float | str | tuple[int, ...]
Array = npt.NDArray[Any]  # of one of DTYPES, float64 or int64; what an op takes its type rule checks

INTEGER_RANGES = {
    "int8": (-128, 127),
    "uint8": (0, 255),
    "int16": (-(2**15), 2**15 - 1),
    "int32": (-(2**31), 2**31 - 1),
}
DTYPES = frozenset({*INTEGER_RANGES, "float32", "bool"})

# A float32 holds every integer up to here, so an engine without integer convolutions can compute the same codes
# in floats, in any order of summation.
ACCUMULATOR_LIMIT = 2**24

# Bounds on what a file may ask for before anything is allocated (per image, not per batch).
MAX_TENSOR_ELEMENTS = 2**26
MAX_NODES = 10_000


@dataclass(frozen=True)
class TensorType:
    """What is known of a tensor before it exists.

    Parameters
    ----------
    dtype : str
        One of `DTYPES`.
    shape : tuple of int
        Without the batch: (C, H, W) or (F,).
    low, high : int
        For integers, the range every element lies in; both 0 for other types.
    scale : float
        Real value of one step, where one number says it for the whole tensor (codes); 1 elsewhere.
    batched : bool
        Whether a leading batch dimension comes before `shape`.
    """

    dtype: str
    shape: tuple[int, ...]
    low: int = 0
    high: int = 0
    scale: float = 1.0
    batched: bool = True

    @property
    def is_integer(self) -> bool:
        """Whether elements are codes or accumulators."""
        return self.dtype in INTEGER_RANGES

    @property
    def elements(self) -> int:
        """Number of elements for one image."""
        return int(np.prod(self.shape, dtype=np.int64))


def integer_type(shape: tuple[int, ...], low: int, high: int, scale: float = 1.0) -> TensorType:
    """Type of an integer tensor in the smallest dtype that holds [low, high].

    Raises
    ------
    BitlensError
        If no int32 holds the range.
    """
    for dtype, (dtype_low, dtype_high) in INTEGER_RANGES.items():
        if dtype_low <= low and high <= dtype_high:
            return TensorType(dtype, shape, low, high, scale)
    raise BitlensError(f"values from {low} to {high} do not fit 32 bits: use fewer bits or a smaller kernel")


def accumulator_type(shape: tuple[int, ...], low: int, high: int) -> TensorType:
    """Type of an exact int32 sum; refuses one that float engines could not hold exactly.

    Raises
    ------
    BitlensError
        If a sum can reach 2^24.
    """
    if max(-low, high) >= ACCUMULATOR_LIMIT:
        raise BitlensError(
            f"the sum can reach {max(-low, high)}, expected below 2^24 = {ACCUMULATOR_LIMIT}, up to which every "
            "engine is exact: use fewer input channels, a smaller kernel or fewer bits"
        )
    return TensorType("int32", shape, low, high)


@dataclass(frozen=True)
class Node:
    """One op at one place: reads `inputs`, writes `outputs`; `arrays` are its constants."""

    op: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Attribute] = field(default_factory=dict)
    arrays: Mapping[str, Array] = field(default_factory=dict)

    def integers(self, name: str) -> tuple[int, ...]:
        """Attribute `name` as a tuple of whole numbers, or a refusal."""
        value = self.attributes.get(name)
        if not isinstance(value, tuple) or not all(isinstance(item, int) for item in value):
            raise BitlensError(f"attribute {name!r} is {value!r}, expected whole numbers")
        return value

    def integer(self, name: str) -> int:
        """Attribute `name` as a whole number, or a refusal."""
        value = self.attributes.get(name)
        if not isinstance(value, int) or isinstance(value, bool):
            raise BitlensError(f"attribute {name!r} is {value!r}, expected a whole number")
        return value

    def number(self, name: str) -> float:
        """Attribute `name` as a finite float, or a refusal."""
        value = self.attributes.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(value):
            raise BitlensError(f"attribute {name!r} is {value!r}, expected a finite number")
        return float(value)

    def array(self, name: str, dtypes: tuple[str, ...], shape: tuple[int | None, ...]) -> Array:
        """Constant `name`, checked: one of `dtypes`, `shape` with None for any size, finite; or a refusal."""
        value = self.arrays.get(name)
        if value is None:
            raise BitlensError(f"constant {name!r} is missing")
        fits = len(value.shape) == len(shape) and all(
            want is None or want == got for want, got in zip(shape, value.shape, strict=True)
        )
        if value.dtype.name not in dtypes or not fits:
            wanted = f"{' or '.join(dtypes)} of shape ({', '.join('any' if n is None else str(n) for n in shape)})"
            raise BitlensError(f"constant {name!r} is {value.dtype.name} of shape {value.shape}, expected {wanted}")
        if not np.isfinite(value).all():
            raise BitlensError(f"constant {name!r} holds a value that is not finite")
        return value


@dataclass(frozen=True)
class ProgramInput:
    """A tensor fed from outside; one with a `default` may be left out."""

    name: str
    type: TensorType
    default: Array | None = None


@dataclass(frozen=True)
class Program:
    """A network, or the gradient of one.

    Parameters
    ----------
    inputs : tuple of ProgramInput
        The first one is the image.
    nodes : tuple of Node
        In an order in which every input is written before it is read; names are unique.
    outputs : tuple of str
        Names of tensors; the first one is the logits.
    metadata : mapping
        What a person or a tool wants to know (labels, precision, ...): JSON values only, never needed to run.
    """

    inputs: tuple[ProgramInput, ...]
    nodes: tuple[Node, ...]
    outputs: tuple[str, ...]
    metadata: Mapping[str, object] = field(default_factory=dict)

    @property
    def image_type(self) -> TensorType:
        """Type of the image input: int16 codes, or float32 x for a full-precision twin."""
        return self.inputs[0].type

    @property
    def is_full_precision(self) -> bool:
        """Whether this is a float twin."""
        return not self.image_type.is_integer

    def node(self, name: str) -> Node:
        """Return the node of that name.

        Raises
        ------
        BitlensError
            If there is none; the message lists what there is.
        """
        for node in self.nodes:
            if node.name == name:
                return node
        raise BitlensError(f"no layer named {name!r}; this network has: {', '.join(node.name for node in self.nodes)}")


def needed_nodes(program: Program, outputs: Iterable[str]) -> list[Node]:
    """Nodes that the outputs depend on, in the program's order."""
    wanted = set(outputs)
    for node in reversed(program.nodes):
        if wanted & set(node.outputs):
            wanted |= set(node.inputs)
    return [node for node in program.nodes if wanted & set(node.outputs)]
