"""Golden inputs: a few real images with what the desktop computed for them, to be replayed on a board."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass, field, fields

import numpy as np
import numpy.typing as npt

from bitlens.runtime.array_file import arrays_from_bytes
from bitlens.runtime.engines import Engine, Gradient, one_hot
from bitlens.runtime.errors import BitlensError, context
from bitlens.runtime.network import GOLDEN, Network
from bitlens.runtime.program import Array

Float32 = npt.NDArray[np.float32]

_LATER = ("tensor_sha256",)  # arrays that the first bundles did not have


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
    twin_logits : float32 (N, classes), or (0, classes) where there is no twin
    twin_input_gradient : float32 (N, C, H, W), or (0, C, H, W)
        The full-precision twin's, of the same `targets`, so that a map of the twin is at hand where it cannot run.
    tensor_sha256 : uint8 (N, tensors, 32)
        Hash of each tensor of each image in the order of `tensor_digests`, which says where another trace is another
        one. No tensors of a full-precision network, and of a bundle from before they were stored.
    """

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    targets: npt.NDArray[np.int64]
    accumulators: Array
    logits: Float32
    input_gradient: Float32
    trace_sha256: npt.NDArray[np.uint8]
    twin_logits: Float32
    twin_input_gradient: Float32
    tensor_sha256: npt.NDArray[np.uint8] = field(default_factory=lambda: np.zeros((0, 0, 32), np.uint8))

    @property
    def seed(self) -> Float32:
        """What both input gradients are the gradient of: score = sum(seed * logits), float32 (N, classes), one-hot."""
        return one_hot(self.targets, self.logits.shape[1])


def trace_sha256(gradient: Gradient, accumulators: Array) -> npt.NDArray[np.uint8]:
    """Hash codes (int16), masks (one byte each) and accumulators (int32), by name, in NCHW order, little-endian.

    Of a full-precision network the same tensors are hashed as float32, which no two engines need to agree on.
    """
    digest = hashlib.sha256()
    for name in sorted(gradient.codes):
        values = gradient.codes[name]
        digest.update(name.encode() + b"\0" + values.astype("<f4" if values.dtype.kind == "f" else "<i2").tobytes())
    for name in sorted(gradient.masks):
        digest.update(name.encode() + b"\0" + gradient.masks[name].astype("u1").tobytes())
    digest.update(accumulators.astype("<f4" if accumulators.dtype.kind == "f" else "<i4").tobytes())
    return np.frombuffer(digest.digest(), np.uint8)


@dataclass(frozen=True)
class TensorDigest:
    """Hashes of one tensor, image by image.

    Parameters
    ----------
    kind : str
        `codes`, `mask` or `accumulators`.
    name : str
        Of the activation or the quantizer; empty for the accumulators of the last layer.
    sha256 : uint8 (N, 32)
    """

    kind: str
    name: str
    sha256: npt.NDArray[np.uint8]


def tensor_digests(gradient: Gradient, accumulators: Array) -> tuple[TensorDigest, ...]:
    """Hash every tensor of every image: codes (int16), masks (bytes), accumulators (int32), CHW, little-endian.

    In the order of the network, codes before masks before accumulators: the first one that differs from another
    machine's is where the two part.
    """
    tensors = [("codes", name, values.astype("<i2")) for name, values in gradient.codes.items()]
    tensors += [("mask", name, values.astype("u1")) for name, values in gradient.masks.items()]
    tensors.append(("accumulators", "", accumulators.astype("<i4")))
    return tuple(
        TensorDigest(
            kind, name, np.stack([np.frombuffer(hashlib.sha256(one.tobytes()).digest(), np.uint8) for one in values])
        )
        for kind, name, values in tensors
    )


def record_golden(
    engine: Engine, images: npt.NDArray[np.uint8], labels: npt.NDArray[np.int64], *, twin: Engine | None = None
) -> Golden:
    """Compute the answers, each image explained for the class that `engine` predicts.

    Cost: 3 forward and 1 backward pass, and 1 and 1 of the twin.

    Raises
    ------
    BitlensError
        If the twin does not take these images or has other classes.
    """
    targets = engine.forward(images).argmax(axis=1)
    gradient = engine.traced_gradient(images, one_hot(targets, engine.classes))
    accumulators = engine.accumulators(images)
    if twin is None:
        twin_logits, twin_input_gradient = gradient.logits[:0], gradient.input_gradient[:0]
    else:
        with context("the twin"):
            answer = twin.gradient(images, one_hot(targets, engine.classes))
        twin_logits, twin_input_gradient = answer.logits, answer.input_gradient
    if engine.program.is_full_precision:
        digests = np.zeros((len(images), 0, 32), np.uint8)
    else:
        digests = np.stack([digest.sha256 for digest in tensor_digests(gradient, accumulators)], axis=1)
    return Golden(
        images,
        labels,
        targets.astype(np.int64),
        accumulators,
        gradient.logits,
        gradient.input_gradient,
        trace_sha256(gradient, accumulators),
        twin_logits,
        twin_input_gradient,
        digests,
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
        If they are damaged, incomplete or too large, or do not belong together.
    """
    names = [item.name for item in fields(Golden) if item.name not in _LATER]
    arrays = dict(arrays_from_bytes(content, names, optional=_LATER))
    images = arrays["images"].shape
    digests = arrays.setdefault("tensor_sha256", np.zeros((*images[:1], 0, 32), np.uint8)).shape
    of_twin = images if len(arrays["twin_logits"]) else (0, *images[1:])
    per_class = (*images[:1], *arrays["logits"].shape[1:2])
    expected = {
        "images": (("uint8",), (*images[:4],)),
        "labels": (("int64",), images[:1]),
        "targets": (("int64",), images[:1]),
        "accumulators": (("int32", "float32"), per_class),
        "logits": (("float32",), per_class),
        "input_gradient": (("float32",), images),
        "trace_sha256": (("uint8",), (hashlib.sha256().digest_size,)),
        "twin_logits": (("float32",), (*of_twin[:1], *per_class[1:])),
        "twin_input_gradient": (("float32",), of_twin),
        "tensor_sha256": (("uint8",), (*images[:1], *digests[1:2], hashlib.sha256().digest_size)),
    }
    for name, (dtypes, shape) in expected.items():
        if arrays[name].dtype.name not in dtypes or arrays[name].shape != shape:
            raise BitlensError(
                f"{name} is {arrays[name].dtype} of shape {arrays[name].shape}, expected {' or '.join(dtypes)} of "
                f"shape {shape}: export the network again"
            )
    if len(images) != 4 or not images[0] or len(per_class) != 2 or not per_class[1]:
        raise BitlensError(f"images of shape {images} with logits {per_class}: export the network again")
    return Golden(**arrays)


def golden_of(network: Network) -> Golden:
    """Read the golden inputs of a network.

    Raises
    ------
    BitlensError
        If it was exported without, or they are damaged.
    """
    if not network.has(GOLDEN):
        raise BitlensError(
            f"{network.source} has no golden inputs to replay: export a run folder, or a QONNX file with --images"
        )
    content = network.read(GOLDEN)
    with context(str(network.source / GOLDEN)):
        return golden_from_bytes(content)
