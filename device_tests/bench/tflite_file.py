"""A TFLite file, written tensor by tensor and op by op with the schema that ai-edge-litert carries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import flatbuffers
import numpy as np
import numpy.typing as npt
from ai_edge_litert import schema_py_generated as schema

TYPES = {
    "float32": schema.TensorType.FLOAT32,
    "int8": schema.TensorType.INT8,
    "int32": schema.TensorType.INT32,
}


class TFLiteFile:
    """A file being written; tensors are named by their number."""

    def __init__(self) -> None:
        self._tensors: list[Any] = []
        self._buffers: list[Any] = [schema.BufferT()]  # the first one is empty, for tensors without data
        self._operators: list[Any] = []
        self._codes: list[tuple[int, str]] = []

    def tensor(
        self,
        name: str,
        dtype: str,
        shape: Sequence[int],
        *,
        data: npt.NDArray[Any] | None = None,
        scales: npt.NDArray[np.float32] | None = None,
        zero: int = 0,
    ) -> int:
        """Append a tensor: a constant with `data`; quantized with `scales`, one of them or one per first index."""
        made = schema.TensorT()
        made.name, made.type, made.shape, made.buffer = name, TYPES[dtype], [int(side) for side in shape], 0
        if data is not None:
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(np.ascontiguousarray(data).tobytes(), np.uint8)
            made.buffer = len(self._buffers)
            self._buffers.append(buffer)
        if scales is not None:
            quantization = schema.QuantizationParametersT()
            quantization.scale = [float(scale) for scale in scales]
            quantization.zeroPoint = [zero] * len(scales)
            quantization.quantizedDimension = 0
            made.quantization = quantization
        self._tensors.append(made)
        return len(self._tensors) - 1

    def constant(self, name: str, data: npt.NDArray[Any], scales: npt.NDArray[np.float32] | None = None) -> int:
        """Append a constant."""
        return self.tensor(name, data.dtype.name, data.shape, data=data, scales=scales)

    def operator(
        self, code: int, inputs: Sequence[int], output: int, kind: int = schema.BuiltinOptions.NONE, options: Any = None
    ) -> None:
        """Append a builtin op."""
        self._append((code, ""), inputs, output).builtinOptionsType = kind
        self._operators[-1].builtinOptions = options

    def custom(self, name: str, inputs: Sequence[int], output: int, options: bytes) -> None:
        """Append an op of another's, with its options as a flexbuffer."""
        made = self._append((schema.BuiltinOperator.CUSTOM, name), inputs, output)
        made.customOptions = list(options)
        made.customOptionsFormat = schema.CustomOptionsFormat.FLEXBUFFERS

    def _append(self, code: tuple[int, str], inputs: Sequence[int], output: int) -> Any:
        if code not in self._codes:
            self._codes.append(code)
        made = schema.OperatorT()
        made.opcodeIndex, made.inputs, made.outputs = self._codes.index(code), list(inputs), [output]
        self._operators.append(made)
        return made

    def finish(self, sources: Sequence[int], output: int) -> bytes:
        """Serialize."""
        graph = schema.SubGraphT()
        graph.tensors, graph.operators = self._tensors, self._operators
        graph.inputs, graph.outputs, graph.name = list(sources), [output], "main"
        model = schema.ModelT()
        model.version, model.description = 3, "bench"
        model.subgraphs, model.buffers = [graph], self._buffers
        model.operatorCodes = [_operator_code(*code) for code in self._codes]
        builder = flatbuffers.Builder(1024)
        builder.Finish(model.Pack(builder), b"TFL3")
        return bytes(builder.Output())


def _operator_code(code: int, name: str) -> Any:
    made = schema.OperatorCodeT()
    # Readers from before 2020 know the first field alone, which holds codes up to 127.
    made.deprecatedBuiltinCode, made.builtinCode, made.version = min(code, 127), code, 1
    made.customCode = name or None
    return made
