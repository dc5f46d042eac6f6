"""The gradient of a whole program: branches that meet, seeds, features, and what has no gradient."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
import torch
from small_programs import (
    conv2d,
    image_input,
    images_for,
    max_pool,
    residual_network,
    small_network,
    small_twin,
    threshold,
)
from torch import Tensor

from bitlens.runtime.autodiff import INPUT_GRADIENT, SEED, gradient_name, gradient_program, spatial_activations
from bitlens.runtime.errors import BitlensError
from bitlens.runtime.interpreter import interpret
from bitlens.runtime.ops import OPS
from bitlens.runtime.program import Array, Node, Program
from bitlens.runtime.type_check import infer_types

torch.set_num_threads(1)

EPSILON = float(np.finfo(np.float32).eps)


def run(program: Program, image: Array, seed: npt.ArrayLike, *names: str) -> dict[str, Array]:
    gradient = gradient_program(program)
    infer_types(gradient)
    return interpret(gradient, {"image": image, SEED: np.asarray(seed, np.float32)}, names or gradient.outputs)


def check_close(got: Array, expected: Array, epsilons: float) -> None:
    """Within so many float32 roundings of the largest element."""
    size = np.abs(expected).max()
    assert size > 0, "nothing is compared"
    assert np.abs(got - expected).max() <= epsilons * EPSILON * size


def hard_sign(y: Tensor) -> Tensor:
    """sign(y) with sign(0) = 1, whose gradient passes where |y| <= 1."""
    signs = torch.where(y >= 0, 1.0, -1.0).to(y.dtype)
    return signs + ((y.abs() <= 1) * (y - y.detach()))


def residual_in_torch(image: Tensor) -> Tensor:
    """`residual_network` written out; its constants are the only thing taken from it."""
    constant = {
        f"{node.name}.{name}": torch.tensor(array.astype(np.float64))
        for node in residual_network().nodes
        for name, array in node.arrays.items()
    }

    def conv(x: Tensor, name: str) -> Tensor:
        return torch.nn.functional.conv2d(x, constant[f"{name}.weight"])

    def affine(x: Tensor, name: str) -> Tensor:
        shape = (-1, 1, 1) if x.dim() == 4 else (-1,)
        return x * constant[f"{name}.slope"].reshape(shape) + constant[f"{name}.offset"].reshape(shape)

    def bordered(x: Tensor, *fills: float) -> Tensor:
        parts = [torch.nn.functional.pad(x[:, [c]], (1, 1, 1, 1), value=fill) for c, fill in enumerate(fills)]
        return torch.cat(parts, 1)

    real1 = affine(conv(bordered(image, 0.0), "conv1"), "real1")
    real3 = real1 + affine(conv(bordered(hard_sign(real1), -1.0, 1.0), "conv2"), "real2")
    real5 = real3 + affine(conv(bordered(hard_sign(real3), 0.0, 0.0), "conv3"), "real4")
    pooled = torch.nn.functional.avg_pool2d(hard_sign(real5), 3, divisor_override=1)
    return affine(pooled.flatten(1) @ constant["sums.weight"].T, "logits")


def test_branches_that_meet_again() -> None:
    program = residual_network()
    codes = images_for(program, 6).astype(np.int16)
    seed = np.random.default_rng(1).standard_normal((6, 3))
    image = torch.tensor(codes, dtype=torch.float64, requires_grad=True)
    logits = residual_in_torch(image)
    (logits * torch.tensor(seed.astype(np.float32))).sum().backward()  # type: ignore[no-untyped-call]
    assert image.grad is not None
    got = run(program, codes, seed, "logits", INPUT_GRADIENT)
    check_close(got["logits"], logits.detach().numpy(), 4)
    check_close(got[INPUT_GRADIENT], image.grad.numpy() * 255.0, 32)  # a dozen ops, each rounded once


def test_check_close_can_fail() -> None:
    with pytest.raises(AssertionError):
        check_close(np.array([1.0, 1.0 + 3 * EPSILON]), np.ones(2), 2)
    with pytest.raises(AssertionError, match="nothing"):
        check_close(np.zeros(2), np.zeros(2), 2)


@pytest.mark.parametrize(
    "program", [small_network(), small_twin(), residual_network()], ids=["net", "twin", "residual"]
)
def test_gradient_is_linear_in_the_seed(program: Program) -> None:
    codes = images_for(program, 4)
    image = codes.astype(np.int16) if program.image_type.is_integer else (codes / 255.0).astype(np.float32)
    seed = np.random.default_rng(2).integers(-3, 4, (4, 3)).astype(np.float64)
    rows = [run(program, image, np.eye(3)[[k] * 4], INPUT_GRADIENT)[INPUT_GRADIENT] for k in range(3)]
    expected = sum(seed[:, k, None, None, None] * rows[k].astype(np.float64) for k in range(3))
    assert isinstance(expected, np.ndarray)
    largest = max(np.abs(row).max() for row in rows)
    got = run(program, image, seed, INPUT_GRADIENT)[INPUT_GRADIENT]
    # Sums of up to three rows, each with its own roundings.
    assert np.abs(got - expected).max() <= 64 * EPSILON * largest


def tail_of(program: Program, feature: str) -> Program:
    """The part of a network behind one of its feature maps, which becomes its image."""
    kind = infer_types(program)[feature]
    place = next(i for i, node in enumerate(program.nodes) if feature in node.outputs)
    item = replace(image_input(kind.shape, is_float=True), name=feature)
    return replace(program, inputs=(item,), nodes=program.nodes[place + 1 :])


def test_feature_gradients_by_finite_differences() -> None:
    program = small_twin()
    image = (images_for(program, 1) / 255.0).astype(np.float32)
    for feature in spatial_activations(program):
        got = run(program, image, [[0.0, 1.0, 0.0]], feature, gradient_name(feature))
        values, gradient = got[feature], got[gradient_name(feature)]
        tail = tail_of(program, feature)
        step = 2.0**-10
        assert np.abs(gradient).max() > 0
        draw = np.random.default_rng(4)
        agreeing = 0
        # Zeros tie in the pool behind them, where a derivative has no meaning.
        for place in draw.choice(np.flatnonzero(values > 4 * step), 24):
            scores = []
            for sign in (1.0, -1.0):
                moved = values.copy()
                moved.flat[place] += np.float32(sign * step)
                scores.append(float(interpret(tail, {feature: moved}, ["logits"])["logits"][0, 1]))
            slope = (scores[0] - scores[1]) / (2 * step)
            # Logits near 1 are rounded to float32; the difference divides that by 2 steps. A kink between the two
            # points makes a real difference, so a few places may disagree.
            agreeing += abs(slope - gradient.flat[place]) <= 4 * EPSILON / step
        assert agreeing >= 20


def test_outputs_of_a_gradient_program() -> None:
    gradient = gradient_program(small_network())
    names = ("act1", "act2", "act3", "act1.gradient", "act2.gradient")
    masks = {"act1.ste_mask", "act2.ste_mask", "act3.ste_mask"}
    assert gradient.outputs[:3] == ("logits", "sums", INPUT_GRADIENT)
    assert set(gradient.outputs[3:]) == {*names, *masks}
    types = infer_types(gradient)
    assert types[INPUT_GRADIENT].shape == (1, 8, 8)
    assert types["act1.gradient"].dtype == "float32"
    optional = {item.name for item in gradient.inputs if item.default is not None}
    bounds = {f"act{k}.mask_{end}" for k in (1, 2, 3) for end in ("low", "high")}
    assert optional == bounds | {"guided_floor"}


def test_gradient_per_code_and_per_real_unit() -> None:
    program = small_network()
    image = images_for(program, 2).astype(np.int16)
    got = run(program, image, np.eye(3)[:2], "act1.gradient", "pool1.max_pool_gradient", "conv2.conv2d_input_gradient")
    # act1 is worth 0.5 a code.
    assert np.array_equal(got["act1.gradient"], got["conv2.conv2d_input_gradient"] * np.float32(2.0))


def test_nothing_is_frozen_into_the_gradient() -> None:
    gradient = gradient_program(small_network())
    images = images_for(small_network(), 2).astype(np.int16)
    maps = [
        interpret(gradient, {"image": images[[i]], SEED: np.eye(3, dtype=np.float32)[[k]]}, [INPUT_GRADIENT])
        for i in range(2)
        for k in range(3)
    ]
    distinct = {one[INPUT_GRADIENT].tobytes() for one in maps}
    assert len(distinct) == 6


def test_op_without_a_gradient_is_refused_by_node(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OPS, "max_pool", replace(OPS["max_pool"], vjp=None))
    with pytest.raises(BitlensError, match=r"node 'pool2': op 'max_pool' has no gradient rule: explain this network"):
        gradient_program(small_network())


def test_logits_must_be_logits() -> None:
    with pytest.raises(BitlensError, match="the first output is int32 of shape \\(3,\\), expected logits"):
        gradient_program(replace(small_network(), outputs=("sums",)))
    with pytest.raises(BitlensError, match="the first output is float32 of shape \\(4, 8, 8\\)"):
        gradient_program(replace(small_twin(), outputs=("act1",)))


def test_an_activation_that_decides_nothing_is_refused() -> None:
    program = small_network()
    dead = threshold("conv1", "dead", np.array([[0], [0], [0]], np.int32))
    with pytest.raises(BitlensError, match="the logits do not depend on the activation 'dead'"):
        gradient_program(replace(program, nodes=(*program.nodes, dead)))


def test_logits_that_do_not_see_the_image() -> None:
    twin = small_twin()
    blind = replace(twin, inputs=(replace(twin.inputs[0], name="unused"), *twin.inputs))
    with pytest.raises(BitlensError, match="the logits do not depend on the image: nothing to explain"):
        gradient_program(blind)


def test_a_tensor_that_has_a_needed_name_is_refused() -> None:
    program = small_twin()
    first = replace(program.nodes[0], outputs=("seed",))
    second = replace(program.nodes[1], inputs=("seed",))
    with pytest.raises(BitlensError, match="seed"):
        gradient_program(replace(program, nodes=(first, second, *program.nodes[2:])))


def test_a_pool_that_gives_its_index_already() -> None:
    program = small_twin()
    nodes = tuple(
        replace(node, outputs=(*node.outputs, "where")) if node.name == "pool1" else node for node in program.nodes
    )
    image = (images_for(program, 2) / 255.0).astype(np.float32)
    seed = np.eye(3)[:2]
    ours = run(replace(program, nodes=nodes), image, seed, INPUT_GRADIENT)
    assert np.array_equal(ours[INPUT_GRADIENT], run(program, image, seed, INPUT_GRADIENT)[INPUT_GRADIENT])


def test_input_that_was_not_given() -> None:
    with pytest.raises(BitlensError, match="input 'seed' was not given"):
        interpret(gradient_program(small_twin()), {"image": np.zeros((1, 1, 8, 8), np.float32)}, ["logits"])


def test_one_tensor_read_twice_by_one_node() -> None:
    program = small_twin()
    double = Node("add", "double", ("conv2", "conv2"), ("double",))
    nodes = tuple(replace(node, inputs=("double",)) if node.name == "act2" else node for node in program.nodes)
    doubled = replace(program, nodes=(*nodes[:4], double, *nodes[4:]))
    image = (images_for(program, 2) / 255.0).astype(np.float32)
    seed = np.eye(3)[:2]
    plain = run(program, image, seed, INPUT_GRADIENT)[INPUT_GRADIENT]
    # Doubling before a ReLU doubles everything behind it but the last bias; doubling is exact.
    assert np.array_equal(run(doubled, image, seed, INPUT_GRADIENT)[INPUT_GRADIENT], 2 * plain)


def test_floats_overflow_without_a_word() -> None:
    node = conv2d("image", "big", np.full((1, 1, 1, 1), 3e38, np.float32), bias=np.zeros(1, np.float32))
    pool = max_pool("big", "out", 1, padding=(1, 1, 1, 1))
    program = Program((image_input((1, 2, 2), is_float=True),), (node, pool), ("out",))
    got = interpret(program, {"image": np.full((1, 1, 2, 2), -9.0, np.float32)}, ["out"])["out"]
    assert np.all(got == -np.inf)
