"""Numerical parity: does an engine compute the program? Codes and masks bit for bit, the gradient within a bound."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bitlens.runtime.engines import Engine, EngineInfo, one_hot
from bitlens.runtime.errors import BitlensError
from bitlens.runtime.golden import Golden, trace_sha256
from bitlens.runtime.program import Array

# The backward pass sums floats, whose order is the engine's own. 1e-5 is about 80 float32 roundings of the largest
# element; a wrong mask or weight moves a gradient by 1e-2 and more.
GRADIENT_TOLERANCE = 1e-5

# A full-precision network has no codes that decide: where a ReLU is nearly 0 or two pixels of a pool are nearly equal,
# rounding sends the gradient another way on another engine. Such images are counted, and may be this share.
TWIN_EXCEPTIONS = 0.01


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
    gradient_error : float
        Largest relative error of an image's input gradient: max |a - b| / max |b|.
    gradient_exceptions : int
        Images whose error is above `GRADIENT_TOLERANCE`.
    full_precision : bool
        Whether it is a float twin, for which codes are not compared and exceptions are allowed.
    trace_sha256 : str
        Hash of the engine's codes, masks and accumulators.
    trace_equal : bool
        Whether that is the hash that the desktop stored; always so for a float twin, which has no codes.
    """

    engine: EngineInfo
    images: int
    codes: int
    differing_codes: int
    masks: int
    differing_masks: int
    differing_accumulators: int
    differing_classes: int
    gradient_error: float
    gradient_exceptions: int
    full_precision: bool
    trace_sha256: str
    trace_equal: bool

    @property
    def holds(self) -> bool:
        """Whether everything that must be equal is, and the gradient within `GRADIENT_TOLERANCE` where it must be."""
        differing = self.differing_codes + self.differing_masks + self.differing_accumulators + self.differing_classes
        allowed = TWIN_EXCEPTIONS * self.images if self.full_precision else 0.0
        if differing or not self.trace_equal or np.isnan(self.gradient_error):
            return False
        return self.gradient_exceptions <= allowed

    def summary(self) -> str:
        """One line for a person."""
        verdict = "holds" if self.holds else "DOES NOT HOLD"
        equal = (
            ""
            if self.full_precision
            else f"{self.differing_codes} of {self.codes} codes, {self.differing_masks} of {self.masks} mask bits, "
            f"{self.differing_accumulators} logit accumulators and "
        )
        return (
            f"{self.engine.name} {self.engine.version}: {verdict}; {equal}{self.differing_classes} of {self.images} "
            f"classes differ; gradient within {GRADIENT_TOLERANCE:g} on {self.images - self.gradient_exceptions} of "
            f"{self.images} images, largest error {self.gradient_error:.1e}"
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
    ours, expected = engine.gradient(golden.images, seed), reference.gradient(golden.images, seed)
    accumulators = engine.accumulators(golden.images)
    errors = relative_errors(ours.input_gradient, golden.input_gradient)
    if engine.program.is_full_precision:
        # Floats need not be the same bits; the twin is held to its classes and its gradient.
        differing_codes, differing_accumulators, codes = 0, 0, 0
    else:
        differing_codes = sum(int((ours.codes[name] != expected.codes[name]).sum()) for name in expected.codes)
        differing_accumulators = int((accumulators != golden.accumulators).sum())
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
        gradient_error=float(errors.max()),
        gradient_exceptions=int((~(errors <= GRADIENT_TOLERANCE)).sum()),  # a NaN is one
        full_precision=engine.program.is_full_precision,
        trace_sha256=trace.tobytes().hex(),
        trace_equal=engine.program.is_full_precision or np.array_equal(trace, golden.trace_sha256),
    )
