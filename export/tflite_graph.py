"""A TFLite graph under construction: what the TFLite cells of the op table append to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from bitlens.export.tflite_file import NONE, Operator, Quantization, Tensor
from bitlens.runtime.program import Array, Node, TensorType

# Measured on a map of 32x32: times a constant of 16 channels 3.0 us, of rows 1.1 us; from 64 channels on little is won.
_MANY_CHANNELS = 64
_LONGEST_ROW = 4096  # 16 kB, so that it stays in the cache


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
        self._owed: dict[str, Array] = {}
        self._constants: dict[tuple[str, tuple[int, ...], Quantization | None, bytes], int] = {}
        self._made: dict[tuple[str, ...], int] = {}

    def place(self, tensor: str) -> int:
        """Place in the file of a tensor of the program."""
        owed = self._owed.pop(tensor, None)
        if owed is not None:
            source = self._places[tensor]
            self.add("MUL", [source, self.channels(owed, source)], tensor)
        return self._places[tensor]

    def owe(self, tensor: str, place: int, factors: Array) -> None:
        """Say that what lies at a place, times a factor for each channel (C,), is a tensor of the program."""
        self._places[tensor] = place
        if np.any(factors != 1.0):
            self._owed[tensor] = factors.astype(np.float64)

    def owing(self, tensor: str) -> tuple[int, Array | None]:
        """Place of a tensor as far as it was computed, and the factors (C,) that are still owed; None if none are."""
        return self._places[tensor], self._owed.get(tensor)

    def put(self, tensor: str, place: int) -> None:
        """Say that a tensor of the program lies at a place already."""
        self._places[tensor] = place

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
        bytes_of: Quantization | None = None,
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
        bytes_of : Quantization, optional
            What is written is int8 and worth this, instead of float32.
        """
        if shape is None:
            shape = np.broadcast_shapes(*(self.shape(place) for place in inputs))
        chosen = dict(options or {}) | ({"activation": activation} if activation else {})
        dtype = "float32" if bytes_of is None else "int8"
        tensor = Tensor(output or f"{name}_{len(self.operators)}", dtype, shape, quantization=bytes_of)
        place = self._tensor(tensor, output)
        self.operators.append(Operator(name, tuple(inputs), (place,), chosen))
        return place

    def once(self, key: tuple[str, ...], make: Callable[[], int]) -> int:
        """Give what was made under this key, or make it: two cells that need the same thing share it."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    def constant(self, array: Array, quantization: Quantization | None = None) -> int:
        """Add a constant; equal contents are stored once."""
        key = (array.dtype.str, array.shape, quantization, array.tobytes())
        if key not in self._constants:
            name = f"constant_{len(self._constants)}"
            tensor = Tensor(name, array.dtype.name, array.shape, np.ascontiguousarray(array), quantization)
            self._constants[key] = self._tensor(tensor, None)
        return self._constants[key]

    def number(self, value: float) -> int:
        """Add one float32 for all elements."""
        return self.constant(np.array([value], np.float32))

    def channels(self, array: Array, beside: int) -> int:
        """Add a per-channel constant (C,) as float32, for an operator that meets it with what lies at `beside`.

        One number where all are equal. Beside a map of few channels it is repeated along a row of the map, which
        XNNPACK meets in one sweep instead of one for each place.
        """
        values, shape = array.astype(np.float32), self.shape(beside)
        if np.all(values == values[0]):
            return self.constant(values[:1])
        if len(shape) == 4 and len(values) < _MANY_CHANNELS and shape[2] * len(values) <= _LONGEST_ROW:
            return self.constant(np.tile(values, (shape[2], 1)))
        return self.constant(values)

    def integers(self, values: npt.ArrayLike) -> int:
        """Add an int32 constant."""
        return self.constant(np.array(values, np.int32))

    def weights(self, array: Array, factors: Array | None = None) -> int:
        """Add weights as float32; 8-bit ones are stored as they are, and widened when the file is loaded.

        Parameters
        ----------
        array : int8, int16 or float32
        factors : array, optional
            What the weights are multiplied by along their last axis; it rounds them once.
        """
        if array.dtype != np.int8:
            return self.constant((array if factors is None else array * factors).astype(np.float32))
        worth = Quantization((1.0,))
        if factors is not None:
            # A scale is above 0: a sign goes into the weights, and so does a 0.
            array = array * np.sign(factors).astype(np.int8)
            scales = np.abs(np.where(factors == 0.0, 1.0, factors)).astype(np.float32)
            worth = Quantization(tuple(scales.tolist()), axis=array.ndim - 1)
        stored = self.constant(array, worth)
        return self.once(("weights", str(stored)), lambda: self.add("DEQUANTIZE", [stored], shape=array.shape))
