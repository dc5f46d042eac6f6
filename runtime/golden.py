"""Golden inputs: a few real images with what the desktop computed for them, to be replayed on a board."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bitlens.runtime.engines import Engine, Gradient, one_hot
from bitlens.runtime.errors import BitlensError
from bitlens.runtime.program import Array

MAX_ARRAY_BYTES = 2**28

Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Golden:
    """The desktop's answers for a few images.

    Parameters
    ----------
    images : uint8 (N, C, H, W)
    labels, targets : int64 (N,)
        True class, and the class that is explained (the predicted one).
    accumulators : int32 (N, classes)
        Of the last layer.
    logits : float32 (N, classes)
    input_gradient : float32 (N, C, H, W)
    trace_sha256 : uint8 (32,)
        Hash of every code, every mask and the accumulators, see `trace_sha256`.
    """

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    targets: npt.NDArray[np.int64]
    accumulators: Array
    logits: Float32
    input_gradient: Float32
    trace_sha256: npt.NDArray[np.uint8]


def trace_sha256(gradient: Gradient, accumulators: Array) -> npt.NDArray[np.uint8]:
    """Hash of codes (int16), masks (one byte each) and accumulators (int32), in NCHW order, little-endian, by name."""
    digest = hashlib.sha256()
    for name in sorted(gradient.codes):
        digest.update(name.encode() + b"\0" + gradient.codes[name].astype("<i2").tobytes())
    for name in sorted(gradient.masks):
        digest.update(name.encode() + b"\0" + gradient.masks[name].astype("u1").tobytes())
    digest.update(accumulators.astype("<i4").tobytes())
    return np.frombuffer(digest.digest(), np.uint8)


def record_golden(engine: Engine, images: npt.NDArray[np.uint8], labels: npt.NDArray[np.int64]) -> Golden:
    """Compute the answers, each image explained for its predicted class; cost: 3 forward and 1 backward pass."""
    targets = engine.forward(images).argmax(axis=1)
    gradient = engine.gradient(images, one_hot(targets, engine.classes))
    accumulators = engine.accumulators(images)
    return Golden(
        images,
        labels,
        targets.astype(np.int64),
        accumulators,
        gradient.logits,
        gradient.input_gradient,
        trace_sha256(gradient, accumulators),
    )


def golden_bytes(golden: Golden) -> bytes:
    """Serialize as a compressed `.npz`; equal answers give equal bytes."""
    stream = io.BytesIO()
    np.savez_compressed(stream, **{item.name: getattr(golden, item.name) for item in fields(golden)})
    return stream.getvalue()


def golden_from_bytes(content: bytes) -> Golden:
    """Parse golden answers.

    Raises
    ------
    BitlensError
        If they are damaged, incomplete or too large.
    """
    return Golden(**arrays_from_bytes(content, tuple(item.name for item in fields(Golden))))


def arrays_from_bytes(content: bytes, names: Sequence[str]) -> Mapping[str, Array]:
    """Read the arrays `names` of an `.npz`, without pickle, sizes bounded before anything is unpacked.

    Raises
    ------
    BitlensError
        If the archive is damaged, lacks one, or would unpack to more than `MAX_ARRAY_BYTES`.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            if sum(member.file_size for member in archive.infolist()) > MAX_ARRAY_BYTES:
                raise BitlensError(f"unpacks to more than {MAX_ARRAY_BYTES} bytes: not what bitlens wrote")
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            return {name: arrays[name] for name in names}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, NotImplementedError) as error:
        raise BitlensError(f"its arrays are damaged ({error}): copy or export it again") from error


def read_arrays(path: Path, names: Sequence[str]) -> Mapping[str, Array]:
    """`arrays_from_bytes` of a file.

    Raises
    ------
    BitlensError
        Also if there is no such file; the message names it.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise BitlensError(f"cannot read {path} ({error.strerror})") from error
    try:
        return arrays_from_bytes(content, names)
    except BitlensError as error:
        raise BitlensError(f"{path}: {error}") from error
