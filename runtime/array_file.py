"""NumPy arrays from outside: `.npy` and `.npz`, without pickle, sizes bounded before anything is allocated."""

from __future__ import annotations

import io
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from bitlens.runtime.bounded_file import read_at_most
from bitlens.runtime.errors import BitlensError, context
from bitlens.runtime.program import Array

MAX_ARRAY_BYTES = 2**28
MAX_FILE_BYTES = 2**30  # arrays that are not asked for may stand beside

_HEADER_READERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
_COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # those whose output zipfile bounds


def array_from_bytes(content: bytes) -> Array:
    """Parse a `.npy` file.

    Raises
    ------
    BitlensError
        If it is damaged, holds Python objects, or is of another size than its header says.
    """
    stream = io.BytesIO(content)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # on headers that Python 2 wrote
            shape, _, dtype = _HEADER_READERS[np.lib.format.read_magic(stream)](stream)
            size = int(np.prod(shape, dtype=object)) * dtype.itemsize
            if dtype.hasobject or size != len(content) - stream.tell():
                raise ValueError(f"{len(content) - stream.tell()} bytes for {dtype} of shape {shape}")
            stream.seek(0)
            return np.asarray(np.lib.format.read_array(stream, allow_pickle=False))
    except Exception as error:  # NumPy passes on whatever Python's own parser makes of a header
        raise BitlensError(f"not a whole .npy array ({error}): expected what numpy.save wrote") from error


def arrays_from_bytes(content: bytes, names: Sequence[str], *, optional: Sequence[str] = ()) -> Mapping[str, Array]:
    """Read the arrays `names` of an `.npz`, and those `optional` ones that it has.

    Raises
    ------
    BitlensError
        If the archive is damaged, lacks one, or would unpack to more than `MAX_ARRAY_BYTES`.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            there = set(archive.namelist())
            names = [*names, *(name for name in optional if f"{name}.npy" in there)]
            members = [archive.getinfo(f"{name}.npy") for name in names]
            if sum(member.file_size for member in members) > MAX_ARRAY_BYTES:
                raise BitlensError(f"unpacks to more than {MAX_ARRAY_BYTES} bytes: not what bitlens wrote")
            if any(member.compress_type not in _COMPRESSIONS for member in members):
                raise BitlensError("is compressed in a way that bitlens does not use: not what bitlens wrote")
            arrays = {}
            for name, member in zip(names, members, strict=True):
                with archive.open(member) as stream, context(name):
                    # With a size, because without one zipfile unpacks all there is, whatever the directory says.
                    arrays[name] = array_from_bytes(stream.read(member.file_size))
            return arrays
    except BitlensError:
        raise
    except Exception as error:  # zipfile passes on whatever zlib makes of damaged bytes
        reason = error.args[0] if isinstance(error, KeyError) else error
        raise BitlensError(f"its arrays are damaged ({reason}): copy or export it again") from error


def read_arrays(path: Path, names: Sequence[str]) -> Mapping[str, Array]:
    """`arrays_from_bytes` of a file.

    Raises
    ------
    BitlensError
        Also if there is no such file; the message names it.
    """
    content = read_at_most(path, MAX_FILE_BYTES, "expected what bitlens or numpy.savez wrote")
    with context(str(path)):
        return arrays_from_bytes(content, names)
