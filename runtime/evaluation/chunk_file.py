"""The file of one chunk: an `.npz` of per-image values that says what it was made from."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from bitlens.runtime.array_file import arrays_from_bytes
from bitlens.runtime.atomic_file import write_bytes_atomically
from bitlens.runtime.bounded_file import read_at_most
from bitlens.runtime.errors import BitlensError, context
from bitlens.runtime.evaluation.plan import Chunk
from bitlens.runtime.faithfulness import FAITHFULNESS
from bitlens.runtime.fidelity import METRICS
from bitlens.runtime.program import Array

CHUNKS = "chunks"
MAX_CHUNK_BYTES = 2**26

Values = Mapping[str, Array]


def write_chunk(folder: Path, chunk: Chunk, values: Values) -> None:
    """Write a chunk's values below `folder`; equal values give equal bytes.

    Raises
    ------
    BitlensError
        If the place is not writable or the disk is full.
    """
    stream = io.BytesIO()
    arrays = {"key": np.frombuffer(chunk.key, np.uint8), **{name: values[name] for name in chunk.arrays()}}
    np.savez(stream, **arrays)  # type: ignore[arg-type]
    write_bytes_atomically(folder / chunk.file_name, stream.getvalue())


def read_chunk(folder: Path, chunk: Chunk) -> Values | None:
    """Read a chunk's values; None if there is no such file.

    Raises
    ------
    BitlensError
        If the file is damaged, was made from something else, or holds what cannot be.
    """
    path = folder / chunk.file_name
    try:
        content = read_at_most(path, MAX_CHUNK_BYTES, "delete it and evaluate again")
    except BitlensError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return None
        raise
    with context(str(path)):
        expected = chunk.arrays()
        arrays = arrays_from_bytes(content, ("key", *expected))
        if arrays["key"].dtype != np.uint8 or arrays["key"].tobytes() != chunk.key:
            raise BitlensError("was made from something else than its name says: delete it and evaluate again")
        for name, (dtype, shape) in expected.items():
            _check(name, arrays[name], dtype, shape)
        return {name: arrays[name] for name in expected}


def _check(name: str, array: Array, dtype: str, shape: tuple[int, ...]) -> None:
    if array.dtype.name != dtype or array.shape != shape:
        raise BitlensError(
            f"{name} is {array.dtype} of shape {array.shape}, expected {dtype} of shape {shape}: delete it and "
            "evaluate again"
        )
    if dtype == "float64":
        kind, _, metric = name.rpartition(".")
        row = FAITHFULNESS[metric] if kind == "faithfulness" else METRICS[metric]
        defined = array[~np.isnan(array)]
        if np.isinf(defined).any() or (defined < row.lowest).any() or (defined > row.highest).any():
            raise BitlensError(f"{name} leaves {row.lowest:g} to {row.highest:g}: delete it and evaluate again")
    if dtype == "int64" and (array < 0).any():
        raise BitlensError(f"{name} holds a negative class: delete it and evaluate again")
    if dtype == "float32" and not np.isfinite(array).all():
        raise BitlensError(f"{name} holds NaN or infinity: delete it and evaluate again")
