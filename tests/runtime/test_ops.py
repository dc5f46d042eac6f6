"""Every row of the op table against PyTorch in float64: values, gradients, refusals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from small_programs import affine, conv2d, dense, image_input, max_pool, reshape, sum_pool, threshold
from torch import Tensor
from torch.nn import functional

from bitlens.runtime.autodiff import INPUT_GRADIENT, gradient_program
from bitlens.runtime.errors import BitlensError
from bitlens.runtime.interpreter import interpret
from bitlens.runtime.ops import OPS, Op, register
from bitlens.runtime.program import Array, Node, Program, ProgramInput, TensorType
from bitlens.runtime.thresholds import Interval
from bitlens.runtime.type_check import infer_types

torch.set_num_threads(1)

EPSILON = float(np.finfo(np.float32).eps)
BATCH = 3

Padding = tuple[int, int, int, int]


@dataclass(frozen=True)
class OpCase:
    """One op on an image, and what PyTorch says it is.

    Parameters
    ----------
    op : str
    image : array (N, C, H, W) or (N, F)
        int16 codes or float32.
    nodes : tuple of Node
        From 'image' to 'out'.
    meaning : callable
        float64 image -> float64 'out', differentiable.
    """

    op: str
    image: Array
    nodes: tuple[Node, ...]
    meaning: Callable[[Tensor], Tensor]

    @property
    def input(self) -> ProgramInput:
        return image_input(self.image.shape[1:], is_float=self.image.dtype == np.float32)

    def program(self) -> Program:
        return Program((self.input,), self.nodes, ("out",))

    def with_head(self) -> tuple[Program, npt.NDArray[np.float64]]:
        """The op with a dense layer behind it that makes logits, and that layer's weights (3, elements)."""
        out = infer_types(self.program())["out"]
        draw = np.random.default_rng(11)
        channels = out.shape[0]
        real = affine("out", "real", [1.0] * channels, [0.0] * channels)
        flat = reshape("real" if out.is_integer else "out", "flat", out.elements)
        weight = draw.standard_normal((3, out.elements)).astype(np.float32)
        head = (*([real] if out.is_integer else []), flat, dense("flat", "logits", weight, np.zeros(3, np.float32)))
        return Program((self.input,), (*self.nodes, *head), ("logits",)), weight.astype(np.float64)


def codes(seed: int, *shape: int, low: int = -512, high: int = 767) -> npt.NDArray[np.int16]:
    return np.random.default_rng(seed).integers(low, high + 1, (BATCH, *shape)).astype(np.int16)


def floats(seed: int, *shape: int) -> npt.NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((BATCH, *shape)).astype(np.float32)


def weights(seed: int, *shape: int, low: int = -7, high: int = 7) -> npt.NDArray[np.int8]:
    return np.random.default_rng(100 + seed).integers(low, high + 1, shape).astype(np.int8)


def bordered(x: Tensor, padding: Padding, fills: npt.ArrayLike) -> Tensor:
    """A border of its own number around each channel."""
    top, left, bottom, right = padding
    numbers = np.broadcast_to(np.asarray(fills, np.float64), (x.shape[1],))
    rows = [functional.pad(x[:, [c]], (left, right, top, bottom), value=float(fill)) for c, fill in enumerate(numbers)]
    return torch.cat(rows, dim=1)


def conv_case(
    image: Array,
    weight: Array,
    *,
    stride: tuple[int, int] = (1, 1),
    padding: Padding = (0, 0, 0, 0),
    groups: int = 1,
    pad: Array | None = None,
    bias: Array | None = None,
) -> OpCase:
    node = conv2d("image", "out", weight, stride=stride, padding=padding, groups=groups, pad=pad, bias=bias)

    def meaning(x: Tensor) -> Tensor:
        padded = bordered(x, padding, 0.0 if pad is None else pad)
        shift = None if bias is None else torch.tensor(bias, dtype=torch.float64)
        return functional.conv2d(padded, torch.tensor(weight, dtype=torch.float64), shift, stride, groups=groups)

    return OpCase("conv2d", image, (node,), meaning)


def max_case(
    image: Array,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: Padding = (0, 0, 0, 0),
    direction: tuple[int, ...] | None = None,
) -> OpCase:
    turned = np.array([1] * image.shape[1] if direction is None else direction, np.int8)
    node = max_pool("image", "out", image.shape[1], kernel=kernel, stride=stride, padding=padding, direction=turned)

    def meaning(x: Tensor) -> Tensor:
        signs = torch.tensor(turned, dtype=torch.float64).reshape(-1, 1, 1)
        return signs * functional.max_pool2d(bordered(x * signs, padding, -np.inf), kernel, stride)

    return OpCase("max_pool", image, (node,), meaning)


def sum_case(image: Array, kernel: tuple[int, int], stride: tuple[int, int], padding: Padding = (0, 0, 0, 0)) -> OpCase:
    node = sum_pool("image", "out", kernel=kernel, stride=stride, padding=padding)

    def meaning(x: Tensor) -> Tensor:
        return functional.avg_pool2d(bordered(x, padding, 0.0), kernel, stride, divisor_override=1)

    return OpCase("sum_pool", image, (node,), meaning)


def counted(values: Tensor, node: Node) -> Tensor:
    """A quantizer by counting, with its straight-through gradient written as (value - value.detach())."""
    shape = (-1, *[1] * (values.dim() - 2))
    constant = {name: torch.tensor(array, dtype=torch.float64) for name, array in node.arrays.items()}
    direction = constant["direction"].reshape(*shape, 1)
    passed = (
        values.detach()[..., None] * direction
        >= (constant["thresholds"] * constant["direction"][:, None]).reshape(*shape, node.arrays["thresholds"].shape[1])
    ).sum(-1)
    low, step = node.attributes["low"], node.attributes["step"]
    assert isinstance(low, int)
    assert isinstance(step, int)
    inside = (values >= constant["mask_low"].reshape(shape)) & (values <= constant["mask_high"].reshape(shape))
    gain = inside * (constant["slope"] / node.number("scale")).reshape(shape)
    return low + step * passed.to(torch.float64) + gain * (values - values.detach())


def threshold_case(image: Array, *nodes: Node) -> OpCase:
    def meaning(x: Tensor) -> Tensor:
        for node in nodes:
            x = counted(x, node)
        return x

    return OpCase("threshold", image, nodes, meaning)


def staircase(seed: int, channels: int, count: int, direction: tuple[int, ...], low: int, high: int) -> Array:
    """Ascending thresholds along each direction, with repetitions."""
    draws = np.random.default_rng(seed).integers(low, high + 1, (channels, count))
    signs = np.array(direction)[:, None]
    return np.asarray(np.sort(draws * signs, axis=1) * signs, np.int32)


def quantizer_case(seed: int, count: int, *, is_flat: bool = False, low: int = 0, step: int = 1) -> OpCase:
    direction = (1, -1, 1)
    image = codes(seed, *((3,) if is_flat else (3, 4, 5)), low=-60, high=60)
    draw = np.random.default_rng(seed)
    node = threshold(
        "image",
        "out",
        staircase(seed, 3, count, direction, -60, 60),
        direction=np.array(direction, np.int8),
        mask_low=np.array([-30, -20, 61], np.int32),
        mask_high=np.array([30, 20, -61], np.int32),
        slope=draw.standard_normal(3),
        low=low,
        step=step,
        scale=0.25,
    )
    return threshold_case(image, node)


def float_quantizer_case() -> OpCase:
    image = floats(40, 2, 4, 4)
    image[0, :, 0, :2] = [[0.25, -0.5], [0.25, -0.5]]  # ties
    thresholds = np.array([[-0.5, 0.25, 0.25], [0.25, -0.5, -0.5]], np.float32)
    node = threshold(
        "image",
        "out",
        thresholds,
        direction=np.array([1, -1], np.int8),
        mask_low=np.array([-0.5, -1.0], np.float32),
        mask_high=np.array([0.25, 0.75], np.float32),
        slope=[0.5, -2.0],
        low=-1,
    )
    return threshold_case(image, node)


def requantized_case(low: int) -> OpCase:
    """Codes at both ends of uint8 (or int8) meet a quantizer whose comparison is turned round."""
    image = codes(41, 1, 6, 6, low=-200, high=200)
    first = np.linspace(-190, 190, 255).astype(np.int32)[None]
    second = np.array([[low + 200, low + 128, low + 128, low]], np.int32)
    return threshold_case(
        image,
        threshold("image", "codes", first, low=low, slope=[0.7]),
        threshold("codes", "out", second, direction=np.array([-1], np.int8), slope=[-1.0]),
    )


def affine_case(image: Array) -> OpCase:
    slope, offset = np.array([0.5, -3.0, 0.1], np.float32), np.array([0.3, 0.0, -7.0], np.float32)
    shape = (-1, *[1] * (image.ndim - 2))

    def meaning(x: Tensor) -> Tensor:
        real = [torch.tensor(constant, dtype=torch.float64).reshape(shape) for constant in (slope, offset)]
        return x * real[0] + real[1]

    return OpCase("affine", image, (affine("image", "out", slope, offset),), meaning)


def pad_case(image: Array, padding: Padding, fill: Array) -> OpCase:
    node = Node("pad", "out", ("image",), ("out",), {"padding": padding}, {"fill": fill})
    return OpCase("pad", image, (node,), lambda x: bordered(x, padding, fill))


def add_case() -> OpCase:
    nodes = (
        affine("image", "half", [0.5, 0.5], [0.0, 0.0]),
        Node("add", "out", ("half", "image"), ("out",)),
    )
    return OpCase("add", floats(60, 2, 3, 3), nodes, lambda x: 0.5 * x + x)


def relu_case() -> OpCase:
    image = floats(61, 2, 4, 4)
    image[0, 0, 0, 0] = 0.0
    return OpCase("relu", image, (Node("relu", "out", ("image",), ("out",)),), functional.relu)


def dense_case(image: Array, weight: Array, bias: Array | None = None) -> OpCase:
    def meaning(x: Tensor) -> Tensor:
        shift = None if bias is None else torch.tensor(bias, dtype=torch.float64)
        return functional.linear(x, torch.tensor(weight, dtype=torch.float64), shift)

    return OpCase("dense", image, (dense("image", "out", weight, bias),), meaning)


def float_weights(seed: int, *shape: int) -> npt.NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


CASES: dict[str, OpCase] = {
    "conv2d, plain": conv_case(codes(1, 2, 6, 5), weights(1, 3, 2, 3, 3)),
    "conv2d, 8-bit weights": conv_case(codes(2, 1, 7, 7), weights(2, 2, 1, 5, 5, low=-127, high=127)),
    "conv2d, stride 2, rest dropped": conv_case(codes(3, 2, 8, 7), weights(3, 3, 2, 3, 2), stride=(2, 3)),
    "conv2d, padding asymmetric": conv_case(codes(4, 2, 5, 5), weights(4, 3, 2, 3, 3), padding=(0, 1, 2, 3)),
    "conv2d, pad codes": conv_case(
        codes(5, 3, 5, 4), weights(5, 2, 3, 3, 3), padding=(1, 1, 1, 1), pad=np.array([-1, 1, 255], np.int16)
    ),
    "conv2d, groups": conv_case(codes(6, 4, 5, 5), weights(6, 6, 2, 3, 3), groups=2, padding=(1, 0, 1, 0)),
    "conv2d, depthwise": conv_case(codes(7, 3, 6, 6), weights(7, 3, 1, 3, 3), groups=3, stride=(2, 2)),
    "conv2d, groups and pad codes": conv_case(
        codes(8, 4, 4, 4), weights(8, 4, 2, 3, 3), groups=2, padding=(1, 1, 1, 1), pad=np.array([3, 0, -2, 9], np.int16)
    ),
    "conv2d, 1x1": conv_case(codes(9, 3, 4, 4), weights(9, 2, 3, 1, 1)),
    "conv2d, int16 weights": conv_case(codes(10, 1, 4, 4), np.full((1, 1, 2, 2), 300, np.int16)),
    "conv2d, float": conv_case(
        floats(11, 2, 6, 6), float_weights(11, 3, 2, 3, 3), padding=(1, 2, 0, 1), bias=float_weights(12, 3)
    ),
    "conv2d, float, groups, stride": conv_case(
        floats(13, 4, 7, 6), float_weights(13, 4, 2, 3, 3), groups=2, stride=(2, 1), bias=float_weights(14, 4)
    ),
    "dense": dense_case(codes(15, 9), weights(15, 4, 9)),
    "dense, float": dense_case(floats(16, 9), float_weights(16, 4, 9), float_weights(17, 4)),
    "max_pool": max_case(codes(20, 2, 6, 6), (2, 2), (2, 2)),
    "max_pool, ties": max_case(codes(21, 2, 6, 6, low=0, high=1), (3, 2), (3, 2)),
    "max_pool, overlapping, padded, ties": max_case(codes(22, 2, 6, 5, low=-2, high=-1), (3, 3), (2, 2), (1, 1, 1, 1)),
    "max_pool, padding asymmetric": max_case(codes(23, 2, 5, 5, low=-9, high=-1), (3, 3), (1, 2), (0, 2, 1, 0)),
    "max_pool, direction": max_case(codes(24, 3, 6, 6, low=-3, high=3), (2, 2), (2, 2), direction=(1, -1, -1)),
    "max_pool, direction, padded": max_case(
        codes(25, 2, 5, 5, low=-2, high=2), (3, 3), (2, 2), (1, 1, 1, 1), direction=(-1, 1)
    ),
    "max_pool, rest dropped": max_case(codes(26, 1, 7, 5), (2, 2), (2, 2)),
    "max_pool, float": max_case(floats(27, 2, 5, 5), (3, 3), (2, 2), (1, 0, 1, 0), direction=(1, -1)),
    "sum_pool": sum_case(codes(30, 2, 6, 6), (2, 2), (2, 2)),
    "sum_pool, overlapping, padded": sum_case(codes(31, 2, 5, 6), (3, 2), (2, 1), (1, 0, 0, 1)),
    "sum_pool, whole map": sum_case(codes(32, 3, 4, 5), (4, 5), (1, 1)),
    "sum_pool, rest dropped": sum_case(codes(33, 1, 7, 7), (2, 2), (3, 3)),
    "sum_pool, float": sum_case(floats(34, 2, 5, 5), (3, 3), (2, 2), (1, 1, 1, 1)),
    "threshold, 1": quantizer_case(35, 1, low=-1, step=2),
    "threshold, 15, ties": quantizer_case(36, 15),
    "threshold, 255, ties": quantizer_case(37, 255, low=-128),
    "threshold, flat": quantizer_case(38, 3, is_flat=True),
    "threshold, float": float_quantizer_case(),
    "threshold, codes of uint8": requantized_case(0),
    "threshold, codes of int8": requantized_case(-128),
    "affine": affine_case(codes(50, 3, 4, 4)),
    "affine, flat": affine_case(codes(51, 3)),
    "affine, float": affine_case(floats(52, 3, 2, 2)),
    "pad": pad_case(codes(53, 2, 3, 4), (1, 0, 2, 3), np.array([-1, 255], np.int16)),
    "pad, float": pad_case(floats(54, 2, 3, 4), (0, 1, 1, 0), np.array([0.5, -2.0], np.float32)),
    "reshape": OpCase(
        "reshape", codes(55, 2, 3, 4), (reshape("image", "out", 4, 6),), lambda x: x.reshape(len(x), 4, 6)
    ),
    "add": add_case(),
    "relu": relu_case(),
}  # fmt: skip

ALL_CASES = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def forward(case: OpCase) -> Array:
    program = case.program()
    infer_types(program)
    return interpret(program, {"image": case.image}, ["out"])["out"]


def check_values(got: Array, expected: npt.NDArray[np.float64]) -> None:
    """Integers equal; floats within 2 roundings of the largest element."""
    assert got.shape == expected.shape
    if got.dtype.kind == "f":
        assert got.dtype == np.float32
        assert np.abs(got - expected).max() <= 2 * EPSILON * np.abs(expected).max()
    else:
        assert np.array_equal(got, expected)


def check_gradient(got: Array, expected: npt.NDArray[np.float64]) -> None:
    """Within 8 float32 roundings of the largest element: two to four ops, each rounded once, and the scale."""
    assert got.dtype == np.float32
    assert got.shape == expected.shape
    assert np.abs(expected).max() > 0, "nothing is compared"
    assert np.abs(got - expected).max() <= 8 * EPSILON * np.abs(expected).max()


@ALL_CASES
def test_values_are_those_of_torch(case: OpCase) -> None:
    expected = case.meaning(torch.tensor(case.image, dtype=torch.float64)).detach().numpy()
    check_values(forward(case), expected)


@ALL_CASES
def test_type_rule_tells_the_truth(case: OpCase) -> None:
    kind, out = infer_types(case.program())["out"], forward(case)
    assert out.shape[1:] == kind.shape
    assert out.dtype.name == kind.dtype
    if kind.is_integer:
        assert kind.low <= out.min()
        assert out.max() <= kind.high


@ALL_CASES
def test_gradient_is_that_of_autograd(case: OpCase) -> None:
    program, head = case.with_head()
    seed = np.random.default_rng(12).standard_normal((BATCH, 3)).astype(np.float32)
    got = interpret(gradient_program(program), {"image": case.image, "seed": seed}, [INPUT_GRADIENT])[INPUT_GRADIENT]
    image = torch.tensor(case.image, dtype=torch.float64, requires_grad=True)
    logits = case.meaning(image).flatten(1) @ torch.tensor(head).T
    (logits * torch.tensor(seed, dtype=torch.float64)).sum().backward()  # type: ignore[no-untyped-call]
    assert image.grad is not None
    per_unit = 255.0 if case.input.type.is_integer else 1.0
    check_gradient(got, image.grad.numpy() * per_unit)


@pytest.mark.parametrize("name", sorted(name for name, row in OPS.items() if row.vjp is not None))
def test_every_op_with_a_gradient_is_tested(name: str) -> None:
    assert name in {case.op for case in CASES.values()}


def used_ops() -> set[str]:
    programs = [gradient_program(case.with_head()[0]) for case in CASES.values()]
    return {node.op for program in programs for node in program.nodes}


def test_every_row_runs_in_a_test() -> None:
    assert used_ops() == set(OPS)


def test_a_new_row_without_a_case_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OPS, "new", replace(OPS["relu"], name="new"))
    assert used_ops() != set(OPS)


def test_a_row_is_registered_once() -> None:
    with pytest.raises(ValueError, match="op 'relu' is already in the table"):
        register(Op("relu", OPS["relu"].infer, OPS["relu"].run))


def test_checks_can_fail() -> None:
    ones = np.ones((1, 4))
    check_values(ones.astype(np.int8), ones)
    check_gradient(ones.astype(np.float32), ones)
    with pytest.raises(AssertionError):
        check_values(np.array([[1, 1, 2, 1]], np.int8), ones)
    with pytest.raises(AssertionError):
        check_values((ones + np.array([0, 0, 3 * EPSILON, 0])).astype(np.float32), ones)
    with pytest.raises(AssertionError):
        check_gradient((ones + np.array([0, 0, 9 * EPSILON, 0])).astype(np.float32), ones)
    with pytest.raises(AssertionError, match="nothing"):
        check_gradient(np.zeros(4, np.float32), np.zeros(4))


def test_index_of_a_pool_is_the_first_maximum_in_row_major_order() -> None:
    case = CASES["max_pool, direction, padded"]
    (node,) = case.nodes
    program = Program((case.input,), (replace(node, outputs=("out", "index")),), ("out", "index"))
    infer_types(program)
    index = interpret(program, {"image": case.image}, ["index"])["index"]
    turned = case.image * node.arrays["direction"].reshape(-1, 1, 1)
    height, width = case.image.shape[2:]
    for n, c, row, column in np.ndindex(*index.shape):
        seen = [
            (-int(turned[n, c, y, x]), y * width + x)
            for y in range(2 * row - 1, 2 * row + 2)
            for x in range(2 * column - 1, 2 * column + 2)
            if 0 <= y < height and 0 <= x < width
        ]
        assert index[n, c, row, column] == min(seen)[1]


def test_pool_never_chooses_its_padding() -> None:
    image = np.full((1, 1, 3, 3), -np.inf, np.float32)
    node = replace(
        max_pool("image", "out", 1, kernel=(3, 3), stride=(2, 2), padding=(1, 1, 1, 1)), outputs=("out", "i")
    )
    got = interpret(Program((image_input((1, 3, 3), is_float=True),), (node,), ("out", "i")), {"image": image}, ["i"])
    assert 0 <= got["i"].min() <= got["i"].max() < 9


def random_geometry(seed: int) -> list[OpCase]:
    draw = np.random.default_rng(seed)
    kernel = (int(draw.integers(1, 4)), int(draw.integers(1, 4)))
    stride = (int(draw.integers(1, 4)), int(draw.integers(1, 4)))
    padding: Any = tuple(int(draw.integers(0, side)) for side in (*kernel, *kernel))
    size = (int(draw.integers(3, 9)), int(draw.integers(3, 9)))
    groups = int(draw.integers(1, 4))
    per_group, outputs = int(draw.integers(1, 3)), groups * int(draw.integers(1, 3))
    channels = groups * per_group
    image = codes(seed, channels, *size, low=-4, high=4)
    pad = draw.integers(-3, 4, channels).astype(np.int16)
    weight = weights(seed, outputs, per_group, *kernel)
    direction = tuple(int(sign) for sign in draw.choice([-1, 1], channels))
    return [
        conv_case(image, weight, stride=stride, padding=padding, groups=groups, pad=pad),
        max_case(image, kernel, stride, padding, direction),
        sum_case(image, kernel, stride, padding),
    ]


@pytest.mark.parametrize("seed", range(25))  # the seed in the test's name replays it
def test_random_geometry(seed: int) -> None:
    for case in random_geometry(seed):
        test_values_are_those_of_torch(case)
        test_type_rule_tells_the_truth(case)
        if np.any(case.nodes[0].arrays.get("weight", np.ones(1))):
            test_gradient_is_that_of_autograd(case)


def test_a_large_batch_is_unfolded_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = forward(CASES["conv2d, groups"])
    monkeypatch.setattr("bitlens.runtime.ops.conv2d._UNFOLDED_ELEMENTS", 1)
    assert np.array_equal(forward(CASES["conv2d, groups"]), whole)
    test_gradient_is_that_of_autograd(CASES["conv2d, groups"])


def test_guided_floor_stops_negative_gradients() -> None:
    for name in ("relu", "threshold, 15, ties"):
        program, _ = CASES[name].with_head()
        image, seed = CASES[name].image, np.ones((BATCH, 3), np.float32)
        feeds = {"image": image, "seed": seed}
        gradient = gradient_program(program)
        (floor,) = [item for item in gradient.inputs if item.name == "guided_floor"]
        backward = [node for node in gradient.nodes if node.op in ("relu_gradient", "ste_gradient")]
        arriving, leaving = backward[0].inputs[0], backward[0].outputs[0]
        values = interpret(gradient, feeds | {floor.name: np.zeros(1, np.float32)}, [arriving, leaving])
        plain = interpret(gradient, feeds, [leaving])[leaving]
        assert (values[arriving] < 0).any()
        assert np.array_equal(values[leaving], np.where(values[arriving] > 0, plain, 0.0))
        assert not np.array_equal(values[leaving], plain)


# Refusals. First what holds for every row alike: each node of every case and of its gradient is damaged in turn.


def nodes_in_context() -> dict[str, tuple[Node, list[TensorType]]]:
    """One node of each op with the types it reads."""
    found: dict[str, tuple[Node, list[TensorType]]] = {}
    for case in CASES.values():
        program = gradient_program(case.with_head()[0])
        types = infer_types(program)
        for node in program.nodes:
            # One with the most constants, so that optional ones are seen too.
            if node.op not in found or len(node.arrays) > len(found[node.op][0].arrays):
                found[node.op] = node, [types[name] for name in node.inputs]
    return found


NODES = nodes_in_context()
EVERY_OP = pytest.mark.parametrize("op", sorted(OPS))


ANY_RANK = {"affine", "channel_scale", "relu", "threshold", "ste_mask"}  # per element or per channel


def check_refused(node: Node, types: list[TensorType]) -> None:
    """`infer` raises BitlensError, or what `infer_types` turns into one."""
    with pytest.raises((BitlensError, ValueError, TypeError, KeyError, IndexError)):
        OPS[node.op].infer(node, types)


@EVERY_OP
def test_undamaged_node_is_accepted(op: str) -> None:
    node, types = NODES[op]
    assert len(OPS[op].infer(node, types)) == len(node.outputs)
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        check_refused(node, types)


@EVERY_OP
def test_wrong_attributes_are_refused(op: str) -> None:
    node, types = NODES[op]
    for name, value in node.attributes.items():
        without = {key: kept for key, kept in node.attributes.items() if key != name}
        check_refused(replace(node, attributes=without), types)
        wrong: list[Any] = ["text", float("nan"), True, -(2**40), 10**400, (), (1,) * 7, ("a", "b", "c", "d")]
        if not isinstance(value, float):
            wrong.append(1.5)
        for other in wrong:
            if name == "window_low" and other == -(2**40):
                continue  # a window may be that wide
            check_refused(replace(node, attributes={**node.attributes, name: other}), types)


@EVERY_OP
def test_wrong_constants_are_refused(op: str) -> None:
    node, types = NODES[op]
    for name, array in node.arrays.items():
        without = {key: kept for key, kept in node.arrays.items() if key != name}
        if (op, name) not in {("conv2d", "pad")}:
            check_refused(replace(node, arrays=without), types)
        wrong: list[Array] = [
            array.astype(np.int64),
            array.astype(np.complex64),
            array[None],
            array[:0],
            np.concatenate([array] * 2),
        ]
        if array.dtype.kind == "f":
            for bad in (np.nan, np.inf):
                damaged = array.copy()
                damaged.flat[-1] = bad
                wrong.append(damaged)
        for other in wrong:
            if (op, name) in {("conv2d", "weight"), ("dense", "weight"), ("dense_input_gradient", "weight")} and (
                other.ndim == array.ndim and 0 < len(other) != len(array) and "bias" not in node.arrays
            ):
                continue  # another number of outputs is another layer
            check_refused(replace(node, arrays={**node.arrays, name: other}), types)


@EVERY_OP
def test_wrong_inputs_are_refused(op: str) -> None:
    node, types = NODES[op]
    check_refused(node, [])
    check_refused(node, [*types, types[0]])
    for place, kind in enumerate(types):
        wrong = [replace(kind, batched=not kind.batched)]
        if not (op in ANY_RANK and place == 0):
            wrong += [replace(kind, shape=(*kind.shape, 2)), replace(kind, shape=())]
        if not (op in {"reshape", "max_pool", "crop"} and kind.dtype != "bool"):  # these move elements of any type
            wrong.append(replace(kind, dtype="float32" if kind.dtype == "bool" else "bool"))
        for other in wrong:
            check_refused(node, [*types[:place], other, *types[place + 1 :]])


@EVERY_OP
def test_wrong_number_of_outputs_is_refused(op: str) -> None:
    node, types = NODES[op]
    inputs = tuple(ProgramInput(f"in{place}", kind) for place, kind in enumerate(types) if kind.dtype != "bool")
    if len(inputs) != len(types):
        return  # a mask is no input of a program
    names = tuple(item.name for item in inputs)
    for outputs in ((), ("a", "b", "c")):
        wrong = replace(node, name="wrong", inputs=names, outputs=outputs)
        with pytest.raises(BitlensError, match=r"node 'wrong'"):
            infer_types(Program(inputs, (wrong,), outputs or names))


# Then what each row refuses by itself.

MAP = TensorType("int16", (2, 6, 6), -512, 767)
FLOAT_MAP = TensorType("float32", (2, 6, 6))
FLAT = TensorType("int16", (8,), 0, 255)


def changed(node: Node, **changes: Any) -> Node:
    """`node` with attributes and constants of those names replaced."""
    attributes, arrays = dict(node.attributes), dict(node.arrays)
    for name, value in changes.items():
        if isinstance(value, np.ndarray):
            arrays[name] = value
        else:
            attributes[name] = value
    return replace(node, attributes=attributes, arrays=arrays)


CONV = conv2d("image", "out", np.ones((2, 2, 3, 3), np.int8))
FLOAT_CONV = conv2d("image", "out", np.ones((2, 2, 3, 3), np.float32), bias=np.zeros(2, np.float32))
POOL = max_pool("image", "out", 2)
QUANTIZER = threshold("image", "out", np.array([[1, 2], [3, 4]], np.int32))
PAD = Node("pad", "out", ("image",), ("out",), {"padding": (1, 1, 1, 1)}, {"fill": np.zeros(2, np.int16)})

REFUSALS: dict[str, tuple[Node, TensorType, str]] = {
    "conv2d, sum of 2^24": (
        conv2d("image", "out", np.full((1, 2, 3, 3), 2**15 - 1, np.int16)),
        MAP,
        "the sum can reach 452[0-9]*, expected below 2\\^24 = 16777216",
    ),
    "conv2d, sum of 2^24 by its pad": (
        conv2d("image", "out", np.full((1, 2, 3, 3), 32, np.int8), padding=(1,) * 4, pad=np.full(2, 32767, np.int16)),
        MAP,
        "the sum can reach",
    ),
    "conv2d, sum of 2^64": (
        conv2d("image", "out", np.full((1, 2**18, 1, 1), -(2**15), np.int16)),
        TensorType("int32", (2**18, 1, 1), -(2**31), 0),
        "the sum can reach 18446744073709551616",
    ),
    "conv2d, groups": (changed(CONV, groups=3), MAP, "groups=3 do not fit 2 input channels"),
    "conv2d, no groups": (changed(CONV, groups=0), MAP, "groups=0 do not fit"),
    "conv2d, channels": (CONV, TensorType("int16", (3, 6, 6), 0, 1), "do not fit 3 input channels"),
    "conv2d, kernel larger than map": (CONV, TensorType("int16", (2, 2, 6), 0, 1), "3x3 kernel does not fit a map of"),
    "conv2d, floats": (CONV, FLOAT_MAP, "int8 weights meet float32 values"),
    "conv2d, integers": (FLOAT_CONV, MAP, "float32 weights meet int16 values"),
    "conv2d, flat": (CONV, FLAT, "expected a map"),
    "conv2d, stride 0": (changed(CONV, stride=(0, 1)), MAP, "stride is \\(0, 1\\), expected two numbers from 1"),
    "conv2d, stride of one": (changed(CONV, stride=(1,)), MAP, "stride is \\(1,\\)"),
    "conv2d, padding negative": (changed(CONV, padding=(0, -1, 0, 0)), MAP, "four sides of 0 to 1023"),
    "conv2d, padding huge": (changed(CONV, padding=(0, 10**6, 0, 0)), MAP, "four sides of 0 to 1023"),
    "conv2d, too large": (
        conv2d("image", "out", np.ones((2**15, 2, 1, 1), np.int8), padding=(1000,) * 4),
        MAP,
        "out of bounds: expected 1 to 67108864 elements",
    ),
    "dense, sum of 2^24": (
        dense("image", "out", np.full((1, 8), 2**14, np.int16)),
        FLAT,
        "the sum can reach 33423360",
    ),
    "dense, map": (dense("image", "out", np.ones((1, 2), np.int8)), MAP, "expected a flat \\(features,\\)"),
    "dense, floats": (
        dense("image", "out", np.ones((1, 8), np.int8)),
        TensorType("float32", (8,)),
        "int8 weights meet float32",
    ),
    "dense, no output": (dense("image", "out", np.ones((0, 8), np.int8)), FLAT, "out of bounds"),
    "max_pool, direction": (changed(POOL, direction=np.array([1, 0], np.int8)), MAP, "other than -1 and \\+1"),
    "max_pool, empty window": (changed(POOL, padding=(2, 0, 0, 0)), MAP, "a window would be empty"),
    "max_pool, kernel": (changed(POOL, kernel=(7, 7)), MAP, "7x7 kernel does not fit a map of 6x6"),
    "max_pool, kernel 0": (changed(POOL, kernel=(0, 2)), MAP, "kernel is \\(0, 2\\)"),
    "sum_pool, sum of 2^24": (
        sum_pool("image", "out", kernel=(3, 3)),
        TensorType("int32", (2, 6, 6), -2, 2**22),
        "the sum can reach 37748736",
    ),
    "threshold, order": (
        changed(QUANTIZER, thresholds=np.array([[2, 1], [3, 4]], np.int32)),
        MAP,
        "not in order: each code must begin where the one below ends",
    ),
    "threshold, order turned round": (
        changed(QUANTIZER, direction=np.array([-1, 1], np.int8)),
        MAP,
        "not in order",
    ),
    "threshold, direction": (changed(QUANTIZER, direction=np.array([1, 2], np.int8)), MAP, "other than -1 and \\+1"),
    "threshold, none": (
        changed(QUANTIZER, thresholds=np.zeros((2, 0), np.int32)),
        MAP,
        "there are 0 thresholds, expected 1 to 255",
    ),
    "threshold, 256": (changed(QUANTIZER, thresholds=np.zeros((2, 256), np.int32)), MAP, "there are 256 thresholds"),
    "threshold, floats": (QUANTIZER, FLOAT_MAP, "'thresholds' is int32 .* expected float32"),
    "threshold, window": (changed(QUANTIZER, window_low=2.0), MAP, "window is not an interval"),
    "threshold, ends": (changed(QUANTIZER, window_closed=(0, 2)), MAP, "window is not an interval"),
    "threshold, rectified": (changed(QUANTIZER, rectified=2), MAP, "'rectified' is 2, expected 0 or 1"),
    "threshold, step": (changed(QUANTIZER, step=3), MAP, "in steps of 3"),
    "threshold, low": (changed(QUANTIZER, low=2**15 + 1), MAP, "codes start at 32769"),
    "threshold, scale 0": (changed(QUANTIZER, scale=0.0), MAP, "worth 0.0 each"),
    "threshold, gain beyond float32": (
        changed(QUANTIZER, slope=np.array([1.0, 1e39])),
        MAP,
        "a slope of 1e\\+39 over codes worth 1 exceeds a float32",
    ),
    "affine, channels": (affine("image", "out", [1.0] * 3, [0.0] * 3), MAP, "expected float32 of shape \\(2\\)"),
    "add, codes": (Node("add", "out", ("image", "image"), ("out",)), MAP, "expected two float32 tensors of one shape"),
    "relu, codes": (Node("relu", "out", ("image",), ("out",)), MAP, "relu meets int16 .* expected float32"),
    "pad, out of range": (changed(PAD, fill=np.array([0, 768], np.int16)), MAP, "pad codes from 0 to 768 lie outside"),
    "pad, floats": (PAD, FLOAT_MAP, "'fill' is int16 .* expected float32"),
    "reshape": (reshape("image", "out", 2, 35), MAP, "cannot reshape \\(2, 6, 6\\) to \\(2, 35\\)"),
    "crop": (Node("crop", "out", ("image",), ("out",), {"padding": (3, 0, 3, 0)}), MAP, "is out of bounds"),
}  # fmt: skip


@pytest.mark.parametrize(("node", "kind", "message"), REFUSALS.values(), ids=REFUSALS)
def test_refusal(node: Node, kind: TensorType, message: str) -> None:
    with pytest.raises(BitlensError, match=rf"^node 'out' \({node.op}\): .*{message}"):
        infer_types(Program((ProgramInput("image", kind),), (node,), ("out",)))


def gradient_row(op: str) -> tuple[Node, list[TensorType]]:
    node, types = NODES[op]
    return node, list(types)


@pytest.mark.parametrize("op", ["conv2d_input_gradient", "sum_pool_gradient", "max_pool_gradient"])
def test_a_gradient_of_another_size_is_refused(op: str) -> None:
    node, types = gradient_row(op)
    channels, height, width = node.integers("input_shape")
    for wrong in ((channels + 1, height, width), (channels, height + 9, width), (2**9, 2**9, 2**9)):
        with pytest.raises(BitlensError):
            OPS[op].infer(changed(node, input_shape=wrong), types)


def test_an_index_outside_the_map_is_refused() -> None:
    node, types = gradient_row("max_pool_gradient")
    for low, high in ((-1, 3), (0, 10**6)):
        wrong = [types[0], replace(types[1], low=low, high=high)]
        with pytest.raises(BitlensError, match="point outside a map"):
            OPS["max_pool_gradient"].infer(node, wrong)


def test_sum_just_below_the_limit_is_accepted_and_exact() -> None:
    weight = np.full((1, 1, 1, 1), 2**12, np.int16)
    kind = TensorType("int16", (1, 1, 1), 0, 2**12 - 1)
    program = Program((ProgramInput("image", kind),), (conv2d("image", "out", weight),), ("out",))
    assert infer_types(program)["out"].high == 2**24 - 2**12
    image = np.full((1, 1, 1, 1), 2**12 - 1, np.int16)
    assert interpret(program, {"image": image}, ["out"])["out"] == 2**24 - 2**12
    above = replace(program, inputs=(ProgramInput("image", replace(kind, high=2**12)),))
    with pytest.raises(BitlensError, match="the sum can reach 16777216, expected below"):
        infer_types(above)


def test_window_of_a_quantizer_is_kept() -> None:
    from bitlens.runtime.ops.threshold import surrogate_interval

    window = Interval(-0.5, 2.0, False, True)
    assert surrogate_interval(threshold("a", "b", np.zeros((1, 1), np.int32), window=window)) == window
