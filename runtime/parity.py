"""Numerical parity: does an engine compute the program? Codes and masks bit for bit, the gradient within a bound."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bitlens.runtime.engines import INT8_GRADIENTS, Engine, EngineInfo, Gradient, one_hot
from bitlens.runtime.errors import BitlensError
from bitlens.runtime.golden import Golden, TensorDigest, tensor_digests, trace_sha256
from bitlens.runtime.gradient_likeness import GradientLikeness, cosines, gradient_likeness, magnitude_spearmans
from bitlens.runtime.program import Array

# The backward pass sums floats, whose order is the engine's own. 1e-5 is about 80 float32 roundings of the largest
# element; a wrong mask or weight moves a gradient by 1e-2 and more.
GRADIENT_TOLERANCE = 1e-5

# A gradient that goes through bytes is another gradient, near by: docs/engines.md has how near on trained networks. The
# cosine must be reached on every image. Ranks hang on the many pixels that are nearly 0: in the mean over the images.
INT8_COSINE = 0.999
INT8_SPEARMAN = 0.995

# A logit is one affine map of an accumulator that is equal; an engine may round its two steps as one.
LOGIT_TOLERANCE = 1e-5

# A full-precision network has no codes that decide: where a ReLU is nearly 0 or two pixels of a pool are nearly equal,
# rounding sends the gradient another way on another engine. Such images are counted, and may be this share, or one.
TWIN_EXCEPTIONS = 0.01


@dataclass(frozen=True)
class TensorParity:
    """How one tensor of an engine compares; images and places are counted from 0.

    Parameters
    ----------
    kind : str
        `codes`, `mask` or `accumulators`.
    name : str
        Of the activation or the quantizer; empty for the accumulators of the last layer.
    values, differing : int
        How many there are, and how many differ: codes and masks from the reference engine's on this machine,
        accumulators from what the desktop stored.
    differing_images : int
        Images with one that differs.
    first : tuple of int
        Image, then channel, row and column, or unit, of the first one that differs; empty if none does.
    got, expected : int
        Its value here, and the one it should have.
    sha256 : tuple of str
        Of each image.
    foreign_images : tuple of int, or None
        Images whose hash is not the one that the desktop stored; None if it stored none.
    """

    kind: str
    name: str
    values: int
    differing: int
    differing_images: int
    first: tuple[int, ...]
    got: int
    expected: int
    sha256: tuple[str, ...]
    foreign_images: tuple[int, ...] | None

    @property
    def title(self) -> str:
        """What a person calls it."""
        if self.kind == "accumulators":
            return "logit accumulators"
        return f"{'codes' if self.kind == 'codes' else 'mask bits'} of {self.name}"

    def differences(self) -> list[str]:
        """Say what differs and where it begins; nothing if nothing does."""
        images = len(self.sha256)
        said = []
        if self.differing:
            whose = "what the desktop stored" if self.kind == "accumulators" else "the reference engine's here"
            said.append(
                f"{self.title}: {self.differing:,} of {self.values:,} are not {whose}, on {self.differing_images} of "
                f"{images} images; the first at {_place(self.first)}: {self.got}, expected {self.expected}"
            )
        if self.foreign_images:
            said.append(
                f"{self.title}: their hash is not the desktop's on {len(self.foreign_images)} of {images} images, the "
                f"first image {self.foreign_images[0]}"
            )
        return said


def _place(place: tuple[int, ...]) -> str:
    names = ("image", "unit") if len(place) == 2 else ("image", "channel", "row", "column")
    return ", ".join(f"{name} {number}" for name, number in zip(names, place, strict=False))


@dataclass(frozen=True)
class EngineParity:
    """How one engine compares with the reference on a set of images.

    Parameters
    ----------
    engine : EngineInfo
    images : int
    codes, differing_codes : int
        Activations compared, and those whose code differs.
    masks, differing_masks : int
        Straight-through mask bits compared, and those that differ.
    differing_accumulators : int
        Logit accumulators that differ.
    differing_classes : int
        Images whose largest logit is another class.
    logit_error : float
        Largest relative error of an image's logits, as for the gradient.
    gradient_error : float
        Largest relative error of an image's input gradient: max |a - b| / max |b|.
    gradient_exceptions : int
        Images whose error is above `GRADIENT_TOLERANCE`; of a gradient in bytes, whose cosine is below `INT8_COSINE`.
    full_precision : bool
        Whether it is a float twin, for which codes are not compared and exceptions are allowed.
    trace_sha256 : str
        Hash of the engine's codes, masks and accumulators.
    trace_equal : bool
        Whether that is the hash that the desktop stored; always so for a float twin, which has no codes.
    tensors : tuple of TensorParity
        One by one, from the input to the output; none of a float twin.
    likeness : GradientLikeness, optional
        Of an engine whose gradient goes through bytes.
    """

    engine: EngineInfo
    images: int
    codes: int
    differing_codes: int
    masks: int
    differing_masks: int
    differing_accumulators: int
    differing_classes: int
    logit_error: float
    gradient_error: float
    gradient_exceptions: int
    full_precision: bool
    trace_sha256: str
    trace_equal: bool
    tensors: tuple[TensorParity, ...]
    likeness: GradientLikeness | None = None

    @property
    def forward_holds(self) -> bool:
        """Whether everything that must be equal is: codes, masks, accumulators and classes."""
        differing = self.differing_codes + self.differing_masks + self.differing_accumulators + self.differing_classes
        return not differing and self.trace_equal and (self.full_precision or self.logit_error <= LOGIT_TOLERANCE)

    @property
    def holds(self) -> bool:
        """Whether `forward_holds`, and the gradient is as near as it must be."""
        allowed = max(1.0, TWIN_EXCEPTIONS * self.images) if self.full_precision else 0.0
        if not self.forward_holds or np.isnan(self.gradient_error):
            return False
        if self.likeness is not None and not self.likeness.mean_spearman >= INT8_SPEARMAN:
            return False
        return self.gradient_exceptions <= allowed

    def differences(self) -> list[str]:
        """Say one by one what is not as it must be, in the order in which a network computes it."""
        said = [line for tensor in self.tensors for line in tensor.differences()]
        if not self.trace_equal and not any(tensor.foreign_images for tensor in self.tensors):
            said.append(
                "codes, masks and accumulators together have another hash than the desktop's; this bundle does not "
                "store the hash of each, export it again to see which"
            )
        if any(tensor.differing for tensor in self.tensors) and self.trace_equal:
            said.append("this engine computes what the desktop did: it is the reference engine here that does not")
        if self.differing_classes:
            said.append(
                f"classes: {self.differing_classes} of {self.images} images get another one than on the desktop"
            )
        if not self.full_precision and not self.logit_error <= LOGIT_TOLERANCE:
            said.append(f"logits: largest relative error {self.logit_error:.1e}, allowed is {LOGIT_TOLERANCE:g}")
        if self.gradient_exceptions:
            exceptions = f"input gradient: {self.gradient_exceptions} of {self.images} images"
            said.append(
                f"{exceptions} beyond the tolerance of {GRADIENT_TOLERANCE:g}, largest relative error "
                f"{self.gradient_error:.1e}"
                if self.likeness is None
                else f"{exceptions} with a cosine below {INT8_COSINE:g}, the smallest "
                f"{self.likeness.smallest_cosine:.5f}"
            )
        if self.likeness is not None and not self.likeness.mean_spearman >= INT8_SPEARMAN:
            said.append(
                f"input gradient: Spearman of magnitudes is {self.likeness.mean_spearman:.5f} in the mean, expected at "
                f"least {INT8_SPEARMAN:g}"
            )
        return said

    def summary(self) -> str:
        """One line for a person."""
        verdict = "holds" if self.holds else "DOES NOT HOLD"
        if self.likeness is not None and self.forward_holds and not self.holds:
            verdict = "computes the network, but its gradient in bytes is NOT NEAR ENOUGH"
        equal = (
            ""
            if self.full_precision
            else f"{self.differing_codes} of {self.codes} codes, {self.differing_masks} of {self.masks} mask bits, "
            f"{self.differing_accumulators} logit accumulators and "
        )
        gradient = (
            f"gradient within {GRADIENT_TOLERANCE:g} on {self.images - self.gradient_exceptions} of {self.images} "
            f"images, largest error {self.gradient_error:.1e}"
            if self.likeness is None
            else f"gradient in bytes: {self.likeness}"
        )
        return (
            f"{self.engine.name} {self.engine.version}: {verdict}; {equal}{self.differing_classes} of {self.images} "
            f"classes differ; {gradient}"
            + ("" if self.trace_equal else "; the hash of its codes, masks and accumulators is not the desktop's")
        )


def relative_errors(values: Array, reference: Array) -> npt.NDArray[np.float64]:
    """Compute max |values - reference| / max |reference| of each image, (N, ...) -> (N,).

    0 where the two are equal, infinite where only the reference is all zero, NaN where either holds one.
    """
    flat, expected = (np.asarray(array, np.float64).reshape(len(array), -1) for array in (values, reference))
    difference = np.abs(flat - expected).max(axis=1)
    size = np.abs(expected).max(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(difference == 0.0, 0.0, difference / size)


def compare_engine(engine: Engine, reference: Engine, golden: Golden) -> EngineParity:
    """Replay the golden images on an engine.

    Codes and masks are counted against the reference engine on this machine; their hash, accumulators, classes and
    gradient are compared with what the desktop stored. Cost: 2 forward and 1 backward pass on each.

    Raises
    ------
    BitlensError
        If the golden answers belong to another network.
    """
    if golden.logits.shape[1] != engine.classes:
        raise BitlensError(
            f"the golden answers have {golden.logits.shape[1]} classes, the network {engine.classes}: they belong to "
            "another network, export it again"
        )
    seed = one_hot(golden.targets, engine.classes)
    ours, expected = engine.traced_gradient(golden.images, seed), reference.traced_gradient(golden.images, seed)
    accumulators = engine.accumulators(golden.images)
    errors = relative_errors(ours.input_gradient, golden.input_gradient)
    near, likeness = errors <= GRADIENT_TOLERANCE, None
    if engine.info.gradients == INT8_GRADIENTS:
        measured = [compare(ours.input_gradient, golden.input_gradient) for compare in (cosines, magnitude_spearmans)]
        near, likeness = measured[0] >= INT8_COSINE, gradient_likeness(*measured)
    tensors = () if engine.program.is_full_precision else _tensor_parities(ours, accumulators, expected, golden)
    if engine.program.is_full_precision:
        # Floats need not be the same bits; the twin is held to its classes and its gradient.
        differing_codes, differing_accumulators, codes = 0, 0, 0
    else:
        differing_codes = sum(tensor.differing for tensor in tensors if tensor.kind == "codes")
        differing_accumulators = sum(tensor.differing for tensor in tensors if tensor.kind == "accumulators")
        codes = sum(values.size for values in expected.codes.values())
    trace = trace_sha256(ours, accumulators)
    return EngineParity(
        engine=engine.info,
        images=len(golden.images),
        codes=codes,
        differing_codes=differing_codes,
        masks=sum(mask.size for mask in expected.masks.values()),
        differing_masks=sum(int((ours.masks[name] != expected.masks[name]).sum()) for name in expected.masks),
        differing_accumulators=differing_accumulators,
        differing_classes=int((ours.logits.argmax(axis=1) != golden.logits.argmax(axis=1)).sum()),
        logit_error=float(relative_errors(ours.logits, golden.logits).max()),
        gradient_error=float(errors.max()),
        gradient_exceptions=int((~near).sum()),  # a NaN is one
        full_precision=engine.program.is_full_precision,
        trace_sha256=trace.tobytes().hex(),
        trace_equal=engine.program.is_full_precision or np.array_equal(trace, golden.trace_sha256),
        tensors=tensors,
        likeness=likeness,
    )


def _tensor_parities(
    ours: Gradient, accumulators: Array, expected: Gradient, golden: Golden
) -> tuple[TensorParity, ...]:
    digests = tensor_digests(ours, accumulators)
    stored = golden.tensor_sha256
    if stored.shape[1] not in (0, len(digests)):
        raise BitlensError(
            f"the golden answers have hashes of {stored.shape[1]} tensors, the network has {len(digests)}: they belong "
            "to another network, export it again"
        )
    pairs = [(ours.codes[name], expected.codes[name]) for name in ours.codes]
    pairs += [(ours.masks[name], expected.masks[name]) for name in ours.masks]
    pairs.append((accumulators, golden.accumulators))
    return tuple(
        _tensor_parity(digest, got, wanted, stored[:, place] if stored.shape[1] else None)
        for place, (digest, (got, wanted)) in enumerate(zip(digests, pairs, strict=True))
    )


def _tensor_parity(
    digest: TensorDigest, got: Array, wanted: Array, stored: npt.NDArray[np.uint8] | None
) -> TensorParity:
    differing = got != wanted
    first = tuple(int(index[0]) for index in np.nonzero(differing)) if differing.any() else ()
    foreign = None if stored is None else np.flatnonzero((digest.sha256 != stored).any(axis=1))
    return TensorParity(
        kind=digest.kind,
        name=digest.name,
        values=differing.size,
        differing=int(differing.sum()),
        differing_images=int(differing.reshape(len(differing), -1).any(axis=1).sum()),
        first=first,
        got=int(got[first]) if first else 0,
        expected=int(wanted[first]) if first else 0,
        sha256=tuple(row.tobytes().hex() for row in digest.sha256),
        foreign_images=None if foreign is None else tuple(int(image) for image in foreign),
    )
