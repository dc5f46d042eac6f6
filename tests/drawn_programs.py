"""Programs drawn at random, from a seed: every op, odd sizes, every kind of weights, codes and padding."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from small_programs import affine, conv2d, dense, image_input, max_pool, reshape, sum_pool, threshold

from bitlens.runtime.errors import BitlensError
from bitlens.runtime.program import Array, Node, Program, TensorType
from bitlens.runtime.thresholds import Interval, channel_thresholds, mask_bounds
from bitlens.runtime.type_check import infer_types

CLASSES = 3
_ALPHABETS = ((-1, 1), (-1, 0, 1), (-3, -1, 1, 3), tuple(range(-7, 8)), tuple(range(-127, 128)))
_CHANNELS = (1, 2, 3, 5, 16, 20, 31, 32, 33, 40, 64)


@dataclass
class _Drawing:
    draw: np.random.Generator
    nodes: list[Node]
    image: tuple[int, int, int]

    def types(self) -> dict[str, TensorType]:
        last = self.nodes[-1].outputs[0] if self.nodes else "image"
        return dict(infer_types(Program((image_input(self.image),), tuple(self.nodes), (last,))))

    def add(self, node: Node) -> str:
        """Append a node; refused by the type check, it is taken back and the refusal raised."""
        self.nodes.append(node)
        try:
            self.types()
        except BitlensError:
            self.nodes.pop()
            raise
        return node.outputs[0]

    def chance(self, probability: float) -> bool:
        return bool(self.draw.random() < probability)

    def name(self, what: str) -> str:
        return f"{what}{len(self.nodes)}"

    def convolution(self, source: str) -> str:
        type = self.types()[source]
        channels, height, width = type.shape
        kernel = [int(self.draw.integers(1, min(6, side + 1))) for side in (height, width)]
        stride = tuple(int(self.draw.integers(1, 4)) if self.chance(0.3) else 1 for _ in range(2))
        padding = tuple(int(self.draw.integers(0, side)) for side in (*kernel, *kernel))
        groups = 1
        outputs = int(self.draw.choice(_CHANNELS))
        if self.chance(0.15):
            groups = channels
            outputs = channels * int(self.draw.integers(1, 3))
        alphabet = _ALPHABETS[int(self.draw.integers(len(_ALPHABETS)))]
        pad = self.draw.choice(sorted({type.low, type.high}), channels).astype(np.int16) if self.chance(0.7) else None
        while True:
            weight = self.draw.choice(alphabet, (outputs, channels // groups, *kernel)).astype(np.int8)
            try:
                return self.add(
                    conv2d(source, self.name("conv"), weight, stride=stride, padding=padding, groups=groups, pad=pad)  # type: ignore[arg-type]
                )
            except BitlensError:  # the sum may exceed 2^24
                if alphabet == _ALPHABETS[1]:
                    raise
                alphabet = _ALPHABETS[1]

    def pool(self, source: str) -> str:
        channels, height, width = self.types()[source].shape
        kernel = tuple(int(self.draw.integers(1, min(4, side + 1))) for side in (height, width))
        stride = tuple(int(self.draw.integers(1, 4)) for _ in range(2))
        padding = tuple(int(self.draw.integers(0, side)) for side in (*kernel, *kernel))
        direction = self.draw.choice([-1, 1], channels).astype(np.int8)
        node = max_pool(
            source, self.name("pool"), channels, kernel=kernel, stride=stride, padding=padding, direction=direction  # type: ignore[arg-type]
        )  # fmt: skip
        return self.add(node)

    def spread(self, source: str) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Slopes of both signs and offsets that bring a tensor to values around 1."""
        type = self.types()[source]
        width = max(1.0, (type.high - type.low) / 8.0) if type.is_integer else 1.0
        slope = self.draw.uniform(0.5, 2.0, type.shape[0]) / width * self.draw.choice([-1, 1], type.shape[0])
        return slope, self.draw.uniform(-0.5, 0.8, type.shape[0])

    def quantizer(self, source: str) -> str:
        is_float = not self.types()[source].is_integer
        slope, offset = self.spread(source)
        output = self.name("act")
        if self.chance(0.4):
            window = Interval(-1.0, 1.0, True, True)
            boundary, upward = np.zeros(1), np.ones(1, bool)
            low, step, scale = -1, 2, 1.0
        else:
            levels = 2 ** int(self.draw.choice([1, 2, 2, 3, 4, 8])) - 1
            alpha = float(self.draw.uniform(0.5, 2.0))
            window, scale = Interval(0.0, alpha, False, False), alpha / levels
            halves = np.arange(levels) + 0.5
            boundary, upward = halves * scale, np.rint(halves) > halves
            low, step = 0, 1
        thresholds, direction = channel_thresholds(slope, offset, boundary, upward, is_float=is_float)
        mask_low, mask_high = mask_bounds(slope, offset, window, is_float=is_float)
        return self.add(
            threshold(
                source, output, thresholds, direction=direction, mask_low=mask_low, mask_high=mask_high, slope=slope,
                offset=offset, window=window, low=low, step=step, scale=scale,
            )
        )  # fmt: skip

    def real(self, source: str) -> str:
        slope, offset = self.spread(source)
        return self.add(affine(source, self.name("real"), slope, offset))

    def block(self, source: str) -> str:
        """A stage: a convolution, perhaps a pool, perhaps a sum of real values, a quantizer, perhaps a sum pool."""
        current = self.convolution(source)
        if self.chance(0.4):
            current = self.pool(current)
        if self.chance(0.4):
            left, right = self.real(current), self.real(current)
            current = self.add(Node("add", self.name("sum"), (left, right), (self.name("sum"),)))
            if self.chance(0.3):
                current = self.add(Node("add", self.name("sum"), (current, left), (self.name("sum"),)))
        current = self.quantizer(current)
        if self.chance(0.2):
            current = self.add(sum_pool(current, self.name("mean")))
        return current


def drawn_program(seed: int) -> Program:
    """A quantized network with three classes, wholly determined by `seed`."""
    draw = np.random.default_rng(seed)
    image = (int(draw.integers(1, 4)), int(draw.integers(5, 14)), int(draw.integers(5, 14)))
    drawing = _Drawing(draw, [], image)
    current = "image"
    for _ in range(int(draw.integers(1, 4))):
        before = list(drawing.nodes)
        try:
            current = drawing.block(current)
        except BitlensError:  # the map became too small, or a sum too large: what was there is a network already
            drawing.nodes = before
            break
    types = drawing.types()
    if not any(node.op == "threshold" for node in drawing.nodes) or not types[current].is_integer:
        return drawn_program(seed + 1_000_003)
    features = types[current].elements
    drawing.add(reshape(current, "flat", features))
    alphabet = _ALPHABETS[int(draw.integers(3))]
    try:
        sums = drawing.add(dense("flat", "sums", draw.choice(alphabet, (CLASSES, features)).astype(np.int8)))
    except BitlensError:
        return drawn_program(seed + 1_000_003)
    slope: Array = draw.uniform(0.5, 1.5, CLASSES) / max(1, types[current].high) / np.sqrt(features)
    drawing.add(affine(sums, "logits", slope, draw.uniform(-0.2, 0.2, CLASSES)))
    return Program((image_input(image),), tuple(drawing.nodes), ("logits", "sums"), {})
