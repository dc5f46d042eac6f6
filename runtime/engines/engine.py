"""What every engine is: two graphs to run, forward and gradient, and the program that says what they mean."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from bitlens.runtime.autodiff import INPUT_GRADIENT, SEED, activations, gradient_name, mask_name, spatial_activations
from bitlens.runtime.errors import BitlensError
from bitlens.runtime.image import program_input
from bitlens.runtime.ops.threshold import GUIDED_FLOOR, surrogate_interval
from bitlens.runtime.program import Array, Node, Program, TensorType
from bitlens.runtime.thresholds import Interval, mask_bounds
from bitlens.runtime.type_check import infer_types

Float32 = npt.NDArray[np.float32]
RunGraph = Callable[[Mapping[str, Array], Sequence[str]], dict[str, Array]]
RunNear = Callable[[Array, Array], Float32]


FLOAT32_GRADIENTS = "float32"
INT8_GRADIENTS = "int8"


@dataclass(frozen=True)
class EngineInfo:
    """Which engine this is, for certificates and pages.

    Parameters
    ----------
    name, version : str
    threads : int
    kernels : str
        What it computes with.
    gradients : str
        `FLOAT32_GRADIENTS`, or `INT8_GRADIENTS` where they go through the backward pass as bytes: near, not equal.
    """

    name: str
    version: str
    threads: int
    kernels: str
    gradients: str = FLOAT32_GRADIENTS


@dataclass(frozen=True)
class Choices:
    """What may be chosen when a gradient pass runs; an engine whose graphs were fixed at export refuses the rest.

    Parameters
    ----------
    windows : bool
        Other straight-through windows than those of training.
    guided : bool
        The rule of guided backprop.
    features : tuple of str, or None
        Feature maps whose gradient there is; None for every one of them.
    """

    windows: bool = True
    guided: bool = True
    features: tuple[str, ...] | None = None


FREE_ENGINES = ("native", "onnxruntime", "reference")
"""Engines that are exact and leave every choice open: what a refusal points to."""


@dataclass(frozen=True)
class FeatureMap:
    """A feature map and the gradient of the score with respect to it.

    Parameters
    ----------
    values : float32 (N, C, H, W)
        Real values: code * scale.
    gradient : float32 (N, C, H, W)
        Per real unit.
    """

    values: Float32
    gradient: Float32


@dataclass(frozen=True)
class Gradient:
    """One forward and one backward pass.

    Parameters
    ----------
    logits : float32 (N, classes)
    input_gradient : float32 (N, C, H, W)
        d score / d x.
    features : mapping
        Feature map by name, for those asked for.
    codes : mapping
        Every activation's codes (a twin's values), by name, if traced.
    masks : mapping
        Every quantizer's straight-through mask, bool, by the quantizer's name, if traced.
    """

    logits: Float32
    input_gradient: Float32
    features: Mapping[str, FeatureMap]
    codes: Mapping[str, Array]
    masks: Mapping[str, npt.NDArray[np.bool_]]


@dataclass(frozen=True, eq=False)  # an engine is one opened session, equal to itself alone
class Engine:
    """A program opened on an engine.

    Parameters
    ----------
    info : EngineInfo
    program : Program
    run_forward, run_gradient : callable
        (inputs by name, names of outputs) -> arrays by name, in the dtypes of the program.
    run_near : callable, optional
        (what the program reads of one image, of the others) -> logits of the others, each computed again only where it
        differs from the one. An engine without it runs them whole.
    choices : Choices
        What `gradient` may be asked for.
    """

    info: EngineInfo
    program: Program
    run_forward: RunGraph
    run_gradient: RunGraph
    run_near: RunNear | None = None
    choices: Choices = Choices()

    @cached_property
    def types(self) -> Mapping[str, TensorType]:
        """Type of every tensor of the program."""
        return infer_types(self.program)

    @cached_property
    def feature_names(self) -> tuple[str, ...]:
        """Spatial activations a CAM method may use, from the input to the output."""
        return spatial_activations(self.program)

    @property
    def classes(self) -> int:
        """Number of logits."""
        return self.types[self.program.outputs[0]].shape[0]

    def forward(self, image: Array) -> Float32:
        """Logits float32 (N, classes) of images (N, C, H, W); cost: 1 pass.

        Parameters
        ----------
        image : array
            Codes (any integer dtype, -512..767), or float x = code / 255, which is rounded to whole codes, half to
            even. A full-precision twin takes x itself.

        Raises
        ------
        BitlensError
            If the shape does not fit, or a value is not finite or out of range.
        """
        feeds = {self.program.inputs[0].name: program_input(self.program, image)}
        return self.run_forward(feeds, self.program.outputs[:1])[self.program.outputs[0]].astype(np.float32)

    def forward_near(self, image: Array, others: Array) -> Float32:
        """Logits float32 (M, classes) of images (M, C, H, W) that differ from one image (C, H, W) in a part; exact.

        The `native` engine computes only what the smallest rectangle around the difference reaches: the result is
        that of `forward`, bit for bit, and the nearer the images, the sooner. Cost: 1 + M passes at most.

        Raises
        ------
        BitlensError
            As `forward`.
        """
        if self.run_near is None:
            return self.forward(others)
        base, near = program_input(self.program, np.asarray(image)[None]), program_input(self.program, others)
        return self.run_near(base, near)

    def accumulators(self, image: Array) -> Array:
        """Accumulators of the last layer, int32 (N, classes): what the logits are one affine map of; cost: 1 pass.

        For a full-precision twin these are the logits.
        """
        name = logit_accumulators(self.program)
        feeds = {self.program.inputs[0].name: program_input(self.program, image)}
        return self.run_forward(feeds, [name])[name]

    def gradient(
        self,
        image: Array,
        seed: Array,
        *,
        features: Sequence[str] = (),
        windows: Mapping[str, Interval] | None = None,
        guided: bool = False,
    ) -> Gradient:
        """Logits, d score / d x and feature maps, for score = sum(seed * logits); cost: 1 forward and 1 backward pass.

        Parameters
        ----------
        image : array (N, C, H, W)
            As for `forward`.
        seed : float32 (N, classes)
            One-hot rows choose a class.
        features : sequence of str
            From `feature_names`.
        windows : mapping, optional
            Quantizer name -> interval on its real input inside which its straight-through gradient passes, in place
            of the one it was trained with. Empty for a full-precision twin.
        guided : bool
            Guided backprop: negative gradients stop at every activation.

        Raises
        ------
        BitlensError
            For an image, seed, feature or quantizer that does not fit this network, or a choice that this engine does
            not leave open.
        """
        return self._gradient(image, seed, features, windows or {}, guided, ())

    def traced_gradient(
        self, image: Array, seed: Array, *, windows: Mapping[str, Interval] | None = None, guided: bool = False
    ) -> Gradient:
        """Compute `gradient` together with every code and every mask: what parity is measured on; the same passes."""
        masks = [mask_name(node.name) for node in self.quantizers]
        return self._gradient(image, seed, (), windows or {}, guided, (*activations(self.program), *masks))

    @cached_property
    def quantizers(self) -> tuple[Node, ...]:
        """Quantizers of the program, in order."""
        return tuple(node for node in self.program.nodes if node.op == "threshold")

    def _refuse_what_is_fixed(self, features: Sequence[str], windows: Mapping[str, Interval], guided: bool) -> None:
        fixed, asked, given = "", "", self.choices.features
        foreign = [] if given is None else [name for name in features if name not in given]
        trained = {node.name: surrogate_interval(node) for node in self.quantizers}
        other = [name for name, interval in windows.items() if trained.get(name, interval) != interval]
        if foreign:
            fixed = f"the gradient of feature map {', '.join(given or ())}" if given else "no gradient of a feature map"
            asked = f"that of {foreign[0]}"
        elif guided and not self.choices.guided:
            fixed, asked = "the plain gradient", "guided backprop"
        elif other and not self.choices.windows:
            fixed, asked = "the straight-through windows of training", f"another window of {other[0]}"
        if asked:
            raise BitlensError(
                f"engine {self.info.name!r} runs a gradient graph that was fixed at export, with {fixed}, asked was "
                f"{asked}: use --engine {', '.join(FREE_ENGINES[:-1])} or {FREE_ENGINES[-1]}"
            )

    def _gradient(
        self,
        image: Array,
        seed: Array,
        features: Sequence[str],
        windows: Mapping[str, Interval],
        guided: bool,
        traced: Sequence[str],
    ) -> Gradient:
        known = self.feature_names
        for name in features:
            if name not in known:
                listed = ", ".join(known) or "none, it has no map with a height and a width"
                raise BitlensError(f"no feature map named {name!r}: choose from {listed}")
        types, classes = self.types, self.classes
        codes = program_input(self.program, image)
        seed = np.asarray(seed, np.float32)
        if seed.shape != (codes.shape[0], classes):
            raise BitlensError(
                f"the seed is of shape {seed.shape}, expected {(codes.shape[0], classes)}: give one target per image"
            )
        if not np.isfinite(seed).all():
            raise BitlensError("the seed holds NaN or infinity: expected finite weights of the logits")
        feeds: dict[str, Array] = {self.program.inputs[0].name: codes, SEED: seed}
        self._refuse_what_is_fixed(features, windows, guided)
        if guided:
            feeds[GUIDED_FLOOR] = np.zeros(1, np.float32)
        for name, interval in windows.items():
            if name not in {node.name for node in self.quantizers}:
                listed = ", ".join(node.name for node in self.quantizers) or "none, it has no quantizers"
                raise BitlensError(f"no quantizer named {name!r}: choose from {listed}")
            if self.choices.windows:
                feeds |= window_feeds(self.program, name, interval)
        maps = [*features, *(gradient_name(name) for name in features)]
        wanted = tuple(dict.fromkeys([self.program.outputs[0], INPUT_GRADIENT, *maps, *traced]))
        got = self.run_gradient(feeds, wanted)
        masks = {node.name: mask_name(node.name) for node in self.quantizers if mask_name(node.name) in got}
        shown = {
            name: FeatureMap(
                got[name].astype(np.float32) * np.float32(types[name].scale),
                got[gradient_name(name)].astype(np.float32),
            )
            for name in features
        }
        return Gradient(
            got[self.program.outputs[0]].astype(np.float32),
            got[INPUT_GRADIENT].astype(np.float32),
            shown,
            {name: got[name] for name in activations(self.program) if name in traced},
            {name: got[mask].astype(np.bool_) for name, mask in masks.items()},
        )


def logit_accumulators(program: Program) -> str:
    """Name of the integer output that the logits are an affine map of; of the logits in a full-precision program."""
    return program.outputs[-1]


def window_feeds(program: Program, quantizer: str, interval: Interval) -> dict[str, Array]:
    """Bounds on the accumulator of one quantizer for a straight-through window on its real input."""
    if np.isnan(interval.low) or np.isnan(interval.high):
        raise BitlensError(f"the window of {quantizer!r} goes from {interval.low} to {interval.high}: expected numbers")
    node = program.node(quantizer)
    is_float = node.arrays["thresholds"].dtype == np.float32
    slope, offset = (node.arrays[name].astype(np.float64) for name in ("slope", "offset"))
    low, high = mask_bounds(slope, offset, interval, rectified=bool(node.integer("rectified")), is_float=is_float)
    return {f"{quantizer}.mask_low": low, f"{quantizer}.mask_high": high}


def trained_window(program: Program, quantizer: str) -> Interval:
    """Interval inside which a quantizer's straight-through gradient passed when it was trained."""
    return surrogate_interval(program.node(quantizer))


def one_hot(targets: npt.ArrayLike, classes: int) -> Float32:
    """Seed rows that choose one class each.

    Raises
    ------
    BitlensError
        If a target is not a class.
    """
    indices = np.asarray(targets).reshape(-1)
    foreign = indices[~np.isin(indices, np.arange(classes))]
    if foreign.size:
        raise BitlensError(f"target {foreign[0]} is no class: expected 0 to {classes - 1}")
    return np.eye(classes, dtype=np.float32)[indices.astype(np.int64)]
