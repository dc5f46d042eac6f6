"""A TFLite graph under construction: what the TFLite cells of the op table append to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from bitlens.export.tflite_file import NONE, Operator, Tensor
from bitlens.runtime.program import Array, Node, TensorType


def nhwc(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape in the file of one image's (C, H, W) or (F,): (1, H, W, C) or (1, F)."""
    return (1, *shape[1:], shape[0]) if len(shape) == 3 else (1, *shape)


class TfliteGraph:
    """Tensors and operators of one file.

    Maps are (1, H, W, C), so that a per-channel constant (C,) meets a map and a flat tensor alike. Codes, accumulators
    and masks are float32 tensors that hold whole numbers below 2^24, which every engine adds exactly in any order.

    Parameters
    ----------
    types : mapping
        Type of every tensor of the program.
    fixed : mapping
        Value of every input of the program that the file does not ask for.
    writers : mapping
        Node that writes a tensor of the program.
    """

    def __init__(
        self, types: Mapping[str, TensorType], fixed: Mapping[str, Array], writers: Mapping[str, Node]
    ) -> None:
        self.types, self.fixed, self.writers = types, fixed, writers
        self.tensors: list[Tensor] = []
        self.operators: list[Operator] = []
        self._places: dict[str, int] = {}
        self._constants: dict[tuple[str, tuple[int, ...], float, bytes], int] = {}
        self._made: dict[tuple[str, ...], int] = {}

    def place(self, tensor: str) -> int:
        """Place in the file of a tensor of the program."""
        return self._places[tensor]

    def shape(self, place: int) -> tuple[int, ...]:
        """Shape in the file of what lies at a place."""
        return self.tensors[place].shape

    def input(self, tensor: str) -> int:
        """Add a tensor that is fed from outside, as float32."""
        return self._tensor(Tensor(tensor, "float32", nhwc(self.types[tensor].shape)), tensor)

    def _tensor(self, tensor: Tensor, program_name: str | None) -> int:
        self.tensors.append(tensor)
        place = len(self.tensors) - 1
        if program_name is not None:
            self._places[program_name] = place
        return place

    def add(
        self,
        name: str,
        inputs: Sequence[int],
        output: str | None = None,
        *,
        shape: tuple[int, ...] | None = None,
        activation: int = NONE,
        options: Mapping[str, int] | None = None,
    ) -> int:
        """Append an operator; return the place of what it writes.

        Parameters
        ----------
        name : str
            A key of `OPERATORS`.
        inputs : sequence of int
        output : str, optional
            Tensor of the program that this is.
        shape : tuple of int, optional
            Shape in the file; without it that of the broadcast inputs.
        activation : int
            Fused into the operator: `RELU`, or `RELU_N1_TO_1`, which clips to -1..1.
        options : mapping, optional
            Names as in `OPERATORS`.
        """
        if shape is None:
            shape = np.broadcast_shapes(*(self.shape(place) for place in inputs))
        chosen = dict(options or {}) | ({"activation": activation} if activation else {})
        place = self._tensor(Tensor(output or f"{name}_{len(self.operators)}", "float32", shape), output)
        self.operators.append(Operator(name, tuple(inputs), (place,), chosen))
        return place

    def once(self, key: tuple[str, ...], make: Callable[[], int]) -> int:
        """Give what was made under this key, or make it: two cells that need the same thing share it."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    def constant(self, array: Array, *, scale: float = 0.0) -> int:
        """Add a constant; equal contents are stored once."""
        key = (array.dtype.str, array.shape, scale, array.tobytes())
        if key not in self._constants:
            name = f"constant_{len(self._constants)}"
            tensor = Tensor(name, array.dtype.name, array.shape, np.ascontiguousarray(array), scale)
            self._constants[key] = self._tensor(tensor, None)
        return self._constants[key]

    def number(self, value: float) -> int:
        """Add one float32 for all elements."""
        return self.constant(np.array([value], np.float32))

    def channels(self, array: Array) -> int:
        """Add a per-channel constant (C,) as float32; one number where all are equal."""
        values = array.astype(np.float32)
        return self.constant(values[:1] if np.all(values == values[0]) else values)

    def integers(self, values: npt.ArrayLike) -> int:
        """Add an int32 constant."""
        return self.constant(np.array(values, np.int32))

    def weights(self, array: Array) -> int:
        """Add weights as float32; 8-bit ones are stored as they are, and widened when the file is loaded."""
        if array.dtype != np.int8:
            return self.constant(array.astype(np.float32))
        stored = self.constant(array, scale=1.0)
        return self.once(("weights", str(stored)), lambda: self.add("DEQUANTIZE", [stored], shape=array.shape))
