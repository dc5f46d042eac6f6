"""Numerical parity: does an engine compute the program? Codes and masks bit for bit, the gradient within a bound."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bitlens.runtime.engines import Engine, EngineInfo, one_hot
from bitlens.runtime.golden import Golden, trace_sha256
from bitlens.runtime.program import Array

# The backward pass sums floats, whose order is the engine's own. 1e-5 is about 80 float32 roundings of the largest
# element; a wrong mask or weight moves a gradient by 1e-2 and more.
GRADIENT_TOLERANCE = 1e-5


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
    trace_sha256 : str
        Hash of the engine's codes, masks and accumulators.
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
    trace_sha256: str

    @property
    def holds(self) -> bool:
        """Whether everything that must be equal is, and the gradient is within `GRADIENT_TOLERANCE`."""
        differing = self.differing_codes + self.differing_masks + self.differing_accumulators + self.differing_classes
        # Written so that a NaN does not hold.
        return differing == 0 and self.gradient_error <= GRADIENT_TOLERANCE

    def summary(self) -> str:
        """One line for a person."""
        verdict = "holds" if self.holds else "DOES NOT HOLD"
        return (
            f"{self.engine.name} {self.engine.version}: {verdict}; {self.differing_codes} of {self.codes} codes, "
            f"{self.differing_masks} of {self.masks} mask bits, {self.differing_accumulators} logit accumulators and "
            f"{self.differing_classes} of {self.images} classes differ; gradient within {self.gradient_error:.1e}"
        )


def relative_errors(values: Array, reference: Array) -> npt.NDArray[np.float64]:
    """Compute max |values - reference| / max |reference| of each image, (N, ...) -> (N,); 0 where both are all zero."""
    flat, expected = (np.asarray(array, np.float64).reshape(len(array), -1) for array in (values, reference))
    difference = np.abs(flat - expected).max(axis=1)
    size = np.abs(expected).max(axis=1)
    return np.where(difference == 0.0, 0.0, difference / np.where(size == 0.0, np.finfo(np.float64).tiny, size))


def compare_engine(engine: Engine, reference: Engine, golden: Golden) -> EngineParity:
    """Replay the golden images on an engine.

    Codes and masks are compared with the reference engine on this machine; accumulators, classes and gradient with what
    the desktop stored. Cost: 2 forward and 1 backward pass on each.
    """
    seed = one_hot(golden.targets, engine.classes)
    ours, expected = engine.gradient(golden.images, seed), reference.gradient(golden.images, seed)
    accumulators = engine.accumulators(golden.images)
    if engine.program.is_full_precision:
        # Floats need not be the same bits; the twin is held to its classes and its gradient.
        differing_codes, differing_accumulators, codes = 0, 0, 0
    else:
        differing_codes = sum(int((ours.codes[name] != expected.codes[name]).sum()) for name in expected.codes)
        differing_accumulators = int((accumulators != golden.accumulators).sum())
        codes = sum(values.size for values in expected.codes.values())
    return EngineParity(
        engine=engine.info,
        images=len(golden.images),
        codes=codes,
        differing_codes=differing_codes,
        masks=sum(mask.size for mask in expected.masks.values()),
        differing_masks=sum(int((ours.masks[name] != expected.masks[name]).sum()) for name in expected.masks),
        differing_accumulators=differing_accumulators,
        differing_classes=int((ours.logits.argmax(axis=1) != golden.logits.argmax(axis=1)).sum()),
        gradient_error=float(relative_errors(ours.input_gradient, golden.input_gradient).max()),
        trace_sha256=trace_sha256(ours, accumulators).tobytes().hex(),
    )
