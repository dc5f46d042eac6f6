"""Explanation methods against their papers' formulas."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from small_programs import affine, dense, image_input, images_for, reshape, small_network, small_twin

from bitlens.runtime.engines import Engine, FeatureMap, one_hot, open_engine
from bitlens.runtime.errors import BitlensError
from bitlens.runtime.methods import METHODS, method
from bitlens.runtime.methods.grad_cam import grad_cam_map, resized_bilinear
from bitlens.runtime.methods.registry import register_method
from bitlens.runtime.network import Network
from bitlens.runtime.program import Program
from bitlens.runtime.thresholds import Interval

torch.set_num_threads(1)

EPSILON = float(np.finfo(np.float32).eps)
TARGETS = [0, 1, 2]


def opened(program: Program) -> Engine:
    return open_engine(Network(Path("memory"), program), "reference")


ENGINE, TWIN = opened(small_network()), opened(small_twin())


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("engine", [ENGINE, TWIN], ids=["network", "twin"])
def test_every_method_gives_a_map_per_image(name: str, engine: Engine) -> None:
    images = images_for(engine.program, 3)
    maps = METHODS[name].function(engine, images, TARGETS)
    assert maps.dtype == np.float32
    assert maps.shape == (3, 1, 8, 8)
    assert np.isfinite(maps).all()
    assert not np.array_equal(maps[0], maps[1]), "two images, one map"
    others = METHODS[name].function(engine, images, [1, 2, 0])
    assert not np.array_equal(maps, others), "two targets, one map"
    assert METHODS[name].signed == bool((maps < 0).any())
    assert METHODS[name].meaning.endswith(".")
    assert METHODS[name].cost == "1 forward, 1 backward"


def test_gradient_is_the_input_gradient() -> None:
    images = images_for(ENGINE.program, 3)
    expected = ENGINE.gradient(images, one_hot(TARGETS, 3)).input_gradient
    assert np.array_equal(METHODS["gradient"].function(ENGINE, images, TARGETS), expected)


@pytest.mark.parametrize("as_x", [False, True])
def test_gradient_x_input(as_x: bool) -> None:
    codes = images_for(ENGINE.program, 3)
    images = (codes / 255.0).astype(np.float32) if as_x else codes
    got = METHODS["gradient_x_input"].function(ENGINE, images, TARGETS)
    gradient = ENGINE.gradient(images, one_hot(TARGETS, 3)).input_gradient
    expected = codes / 255.0 * gradient.astype(np.float64)
    assert np.abs(expected).max() > 0
    # x is rounded, then the product.
    assert np.all(np.abs(got - expected) <= 2 * EPSILON * np.abs(expected))


def test_gradient_x_input_adds_up_on_a_linear_network() -> None:
    draw = np.random.default_rng(3)
    weight, bias = draw.standard_normal((3, 64)).astype(np.float32), np.zeros(3, np.float32)
    linear = Program(
        (image_input((1, 8, 8), is_float=True),),
        (reshape("image", "flat", 64), dense("flat", "logits", weight, bias)),
        ("logits",),
    )
    engine = opened(linear)
    images = images_for(linear, 3)
    parts = METHODS["gradient_x_input"].function(engine, images, TARGETS)
    logits = engine.forward(images)[np.arange(3), TARGETS]
    sizes = np.abs(parts).sum(axis=(1, 2, 3))
    assert np.all(np.abs(parts.sum(axis=(1, 2, 3), dtype=np.float64) - logits) <= 4 * EPSILON * sizes)


def test_grad_cam_formula() -> None:
    draw = np.random.default_rng(1)
    values, gradient = (draw.standard_normal((2, 5, 4, 3)).astype(np.float32) for _ in range(2))
    got = grad_cam_map(FeatureMap(values, gradient))
    assert got.shape == (2, 1, 4, 3)
    for n in range(2):
        total = np.zeros((4, 3))
        for k in range(5):
            weight = sum(float(item) for item in gradient[n, k].ravel()) / 12
            total += weight * values[n, k].astype(np.float64)
        expected = np.where(total > 0, total, 0.0)
        assert (expected == 0).any()
        assert (expected > 0).any()
        # A float64 sum, rounded once.
        assert np.abs(got[n, 0] - expected).max() <= EPSILON * np.abs(expected).max()


@pytest.mark.parametrize("layer", [None, "act1", "act2"])
def test_grad_cam_of_a_layer(layer: str | None) -> None:
    images = images_for(ENGINE.program, 3)
    options = {} if layer is None else {"layer": layer}
    got = METHODS["grad_cam"].function(ENGINE, images, TARGETS, **options)
    feature = ENGINE.gradient(images, one_hot(TARGETS, 3), features=("act1", "act2")).features[layer or "act2"]
    weights = feature.gradient.mean(axis=(2, 3), keepdims=True, dtype=np.float64)
    small = np.maximum((weights * feature.values).sum(axis=1, keepdims=True), 0.0)
    expected = torch.nn.functional.interpolate(
        torch.tensor(small), (8, 8), mode="bilinear", align_corners=False
    ).numpy()
    assert np.abs(got - expected).max() <= 8 * EPSILON * np.abs(expected).max()


@pytest.mark.parametrize(
    ("source", "target"), [((4, 4), (8, 8)), ((3, 5), (7, 11)), ((1, 1), (6, 4)), ((8, 8), (8, 8)), ((9, 7), (4, 3))]
)
def test_resize_is_that_of_torch(source: tuple[int, int], target: tuple[int, int]) -> None:
    maps = np.random.default_rng(2).standard_normal((2, 3, *source)).astype(np.float32)
    exact = torch.tensor(maps, dtype=torch.float64)
    expected = torch.nn.functional.interpolate(exact, target, mode="bilinear", align_corners=False).numpy()
    got = resized_bilinear(maps, *target)
    assert got.dtype == np.float32
    # Per axis: a rounded share, two products and a sum.
    assert np.abs(got - expected).max() <= 8 * EPSILON * np.abs(maps).max()


def test_resize_holds_its_edges_and_its_range() -> None:
    maps = np.array([[[[0.0, 1.0]]]], np.float32)
    assert resized_bilinear(maps, 1, 4).ravel().tolist() == [0.0, 0.25, 0.75, 1.0]
    assert resized_bilinear(maps, 1, 2).ravel().tolist() == [0.0, 1.0]


def test_windows_reach_every_method() -> None:
    images = images_for(ENGINE.program, 3)
    closed = {name: Interval(9.0, -9.0, True, True) for name in ("act1", "act2", "act3")}
    for entry in METHODS.values():
        assert not entry.function(ENGINE, images, TARGETS, windows=closed).any()


def test_what_methods_refuse() -> None:
    images = images_for(ENGINE.program, 3)
    with pytest.raises(BitlensError, match=r"unknown method 'lime': choose from .*gradient"):
        method("lime")
    with pytest.raises(BitlensError, match="target 3 is no class: expected 0 to 2"):
        method("gradient").function(ENGINE, images, [0, 1, 3])
    with pytest.raises(BitlensError, match="give one target per image"):
        method("gradient").function(ENGINE, images, [0])
    with pytest.raises(BitlensError, match="no feature map named 'conv1': choose from act1, act2"):
        method("grad_cam").function(ENGINE, images, TARGETS, layer="conv1")


def test_grad_cam_without_a_map() -> None:
    flat = Program(
        (image_input((1, 2, 2)),),
        (
            reshape("image", "flat", 4),
            dense("flat", "sums", np.ones((3, 4), np.int8)),
            affine("sums", "logits", [1.0] * 3, [0.0] * 3),
        ),
        ("logits", "sums"),
    )
    with pytest.raises(BitlensError, match="no feature map with a height and a width: use another method"):
        method("grad_cam").function(opened(flat), images_for(flat, 1), [0])


def test_a_name_is_registered_once() -> None:
    entry = METHODS["gradient"]
    with pytest.raises(ValueError, match="method 'gradient' is already in the table"):
        register_method("gradient", forward_passes=1, backward_passes=1, signed=True, meaning="")(entry.function)
    assert METHODS["gradient"] is entry
