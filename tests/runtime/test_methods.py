"""Explanation methods against their papers' formulas."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from method_settings import counting, quick
from small_programs import (
    affine,
    conv2d,
    dense,
    image_input,
    images_for,
    pact,
    reshape,
    small_network,
    small_twin,
)

from bitlens.runtime.engines import Engine, FeatureMap, one_hot, open_engine
from bitlens.runtime.errors import BitlensError
from bitlens.runtime.image import nearest_input
from bitlens.runtime.methods import METHODS, Passes, method
from bitlens.runtime.methods.adaptive_noising import search_noise
from bitlens.runtime.methods.grad_cam import grad_cam_map
from bitlens.runtime.methods.heat_picture import heat_picture
from bitlens.runtime.methods.integrated_gradients import completeness_gap
from bitlens.runtime.methods.registry import one_gradient, register_method
from bitlens.runtime.network import Network
from bitlens.runtime.noise import normal
from bitlens.runtime.pictures import colour_map_picture
from bitlens.runtime.program import Array, Program
from bitlens.runtime.subject import IMAGES_AT_ONCE
from bitlens.runtime.thresholds import Interval

torch.set_num_threads(1)

EPSILON = float(np.finfo(np.float32).eps)
TARGETS = [0, 1, 2]


def opened(program: Program) -> Engine:
    return open_engine(Network(Path("memory"), program), "reference")


ENGINE, TWIN = opened(small_network()), opened(small_twin())


def flat_network() -> Program:
    """No feature map: one dense layer over codes."""
    nodes = (
        reshape("image", "flat", 4),
        dense("flat", "sums", np.array([[1, 2, 3, 4], [4, -3, 2, 1], [-1, 1, -1, 1]], np.int8)),
        affine("sums", "logits", [1.0] * 3, [0.0] * 3),
    )
    return Program((image_input((1, 2, 2)),), nodes, ("logits", "sums"))


def colour_network() -> Program:
    """Three channels."""
    draw = np.random.default_rng(8)
    slopes, offsets = np.array([3e-5, -4e-5]), np.array([0.4, 0.5])
    nodes = (
        conv2d("image", "conv1", draw.integers(-127, 128, (2, 3, 3, 3)).astype(np.int8), padding=(1, 1, 1, 1)),
        pact("conv1", "act1", slopes, offsets, bits=2, alpha=1.5),
        reshape("act1", "flat", 128),
        dense("flat", "sums", draw.integers(-7, 8, (3, 128)).astype(np.int8)),
        affine("sums", "logits", [0.1] * 3, [0.0] * 3),
    )
    return Program((image_input((3, 8, 8)),), nodes, ("logits", "sums"))


FLAT, COLOUR = opened(flat_network()), opened(colour_network())


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("engine", [ENGINE, TWIN], ids=["network", "twin"])
def test_every_method_gives_a_map_per_image(name: str, engine: Engine) -> None:
    images, options = images_for(engine.program, 3), quick(name)
    maps = METHODS[name].function(engine, images, TARGETS, **options)
    assert maps.dtype == np.float32
    assert maps.shape == (3, 1, 8, 8)
    assert np.isfinite(maps).all()
    assert not np.array_equal(maps[0], maps[1]), "two images, one map"
    others = METHODS[name].function(engine, images, [1, 2, 0], **options)
    assert not np.array_equal(maps, others), "two targets, one map"
    assert METHODS[name].signed == bool((maps < 0).any())
    assert METHODS[name].meaning.endswith(".")


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("engine", [ENGINE, TWIN, COLOUR], ids=["network", "twin", "colour"])
def test_a_map_does_not_depend_on_the_batch(name: str, engine: Engine) -> None:
    """Bit for bit, alone, beside others, and across the bound of what is handed to an engine at once."""
    count, options = IMAGES_AT_ONCE + 2, quick(name)
    images, targets = images_for(engine.program, count), [place % 3 for place in range(count)]
    together = METHODS[name].function(engine, images, targets, **options)
    for places in (slice(0, 1), slice(31, 34), slice(5, 7)):
        alone = METHODS[name].function(engine, images[places], targets[places], **options)
        assert np.array_equal(alone, together[places])
    assert together.shape[1] in (1, engine.program.image_type.shape[0])


@pytest.mark.parametrize("name", METHODS)
def test_no_batch_is_larger_than_stated(name: str) -> None:
    sizes = []

    def noted(feeds: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        sizes.append(len(feeds["image"]))
        return ENGINE.run_gradient(feeds, outputs) if "seed" in feeds else ENGINE.run_forward(feeds, outputs)

    engine = replace(ENGINE, run_forward=noted, run_gradient=noted)
    options = {"smoothgrad": {"nsamples": 70}}.get(name, quick(name))
    METHODS[name].function(engine, images_for(ENGINE.program, 40), [0] * 40, **options)
    assert max(sizes) <= IMAGES_AT_ONCE


COSTS = {
    "gradient": (1, 1),
    "smoothgrad": (25, 25),
    "integrated_gradients": (50, 50),
    "smooth_taylor": (150, 150),
    "adaptive_smooth_taylor": (6150, 6150),
    "neuromask": (4000, 2000),
    "occlusion": (1 + 64, 0),
    "finite_differences": (2 * 64, 0),
    "rise": (1000, 0),
}


@pytest.mark.parametrize(("name", "passes"), COSTS.items())
def test_the_stated_cost_is_the_true_one(name: str, passes: tuple[int, int]) -> None:
    stated = METHODS[name].passes(ENGINE.program)
    assert (stated.forward, stated.backward) == passes
    if stated.at_most:
        assert str(stated).startswith("at most ")
        return
    engine, passed = counting(ENGINE)
    METHODS[name].function(engine, images_for(ENGINE.program, 2), [0, 1])
    assert (passed["forward"], passed["backward"]) == (2 * passes[0], 2 * passes[1])


def test_the_cost_follows_the_options() -> None:
    passes = METHODS["occlusion"].passes(ENGINE.program, window=3, stride=2)
    assert str(passes) == "17 forward passes"  # starts at 0, 2, 4 and 6 along each side of 8
    assert str(METHODS["gradient"].passes(ENGINE.program)) == "1 forward, 1 backward pass"
    assert str(METHODS["smoothgrad"].passes(ENGINE.program, nsamples=2)) == "2 forward, 2 backward passes"
    adaptive = METHODS["adaptive_smooth_taylor"].passes(ENGINE.program, objective="aupc", roots=10, max_iteration=1)
    assert str(adaptive) == "at most 4533 forward, 30 backward passes"  # 3 maps of 10, each with 1501 to look at it
    assert Passes(1, 0) + Passes(2, 3, at_most=True) == Passes(3, 3, at_most=True)
    with pytest.raises(BitlensError, match="gradient has no option 'nsamples': it has none, leave it out"):
        METHODS["gradient"].passes(ENGINE.program, nsamples=2)


def test_adaptive_noising_and_neuromask_stay_below_their_bound() -> None:
    engine, passed = counting(ENGINE)
    image = images_for(ENGINE.program, 1)
    METHODS["neuromask"].function(engine, image, [0], iterations=40, patience=3, learning_rate=1e-9)
    assert (passed["forward"], passed["backward"]) == (2 * 4, 4)  # one step of progress, three without
    engine, passed = counting(ENGINE)
    METHODS["adaptive_smooth_taylor"].function(engine, image, [0], roots=2)
    assert 2 * 3 <= passed["backward"] < 2 * 41


@pytest.mark.parametrize("name", METHODS)
def test_options_are_those_of_the_signature(name: str) -> None:
    method = METHODS[name]
    signature = inspect.signature(method.function)
    keywords = {key: item.default for key, item in signature.parameters.items() if item.kind is item.KEYWORD_ONLY}
    assert method.needs_gradient == ("windows" in keywords)
    keywords.pop("windows", None)
    assert {option.name: option.default for option in method.options} == keywords
    for option in method.options:
        assert option.default is None or type(option.default) is option.kind
        assert option.meaning
        assert not option.choices or option.default in option.choices
    assert method.name == name
    assert method.title
    assert method.paper
    assert method.reduce in ("sum", "max_abs")


@pytest.mark.parametrize(
    ("name", "texts", "message"),
    [
        ("smoothgrad", ["nsamples=many"], "nsamples is 'many', expected a whole number"),
        ("smoothgrad", ["nsamples=2.5"], "nsamples is '2.5', expected a whole number"),
        ("smoothgrad", ["stdev_spread=nan"], "stdev_spread is 'nan', expected a number"),
        ("smoothgrad", ["nsamples"], "the setting 'nsamples' has no '=': expected NAME=VALUE"),
        ("smoothgrad", ["sigma=1"], "smoothgrad has no option 'sigma': choose from stdev_spread, nsamples, seed"),
        ("smoothgrad", ["seed=1", "seed=2"], "the option 'seed' is set twice: give it once"),
        ("integrated_gradients", ["baseline=white"], "baseline is 'white': choose from zero, blur, noise"),
        ("gradient", ["seed=1"], "gradient has no option 'seed': it has none, leave it out"),
    ],
)
def test_settings_that_are_refused(name: str, texts: list[str], message: str) -> None:
    with pytest.raises(BitlensError, match=re.escape(message)):
        METHODS[name].settings(texts)


def test_settings_have_their_type() -> None:
    assert METHODS["smoothgrad"].settings(["nsamples=7", "stdev_spread=1e-1"]) == {"nsamples": 7, "stdev_spread": 0.1}
    assert METHODS["grad_cam"].settings(["layer=act1"]) == {"layer": "act1"}
    assert METHODS["occlusion"].settings(["window=3"]) == {"window": 3}


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("smoothgrad", {"nsamples": 0}, "nsamples is 0, expected at least 1"),
        ("smoothgrad", {"stdev_spread": -0.1}, "stdev_spread is -0.1, expected at least 0"),
        ("smoothgrad", {"seed": -1}, "the seed is -1"),
        ("integrated_gradients", {"n_steps": 0}, "n_steps is 0"),
        ("integrated_gradients", {"baseline": "white"}, "unknown baseline 'white': choose from zero, blur, noise"),
        ("smooth_taylor", {"sigma": 0.0}, "sigma is 0.0, expected a number above 0"),
        ("smooth_taylor", {"roots": 0}, "roots is 0"),
        ("adaptive_smooth_taylor", {"objective": "beauty"}, "unknown objective 'beauty': choose from autvc, aupc"),
        ("adaptive_smooth_taylor", {"learning_rate": 0.0}, "learning_rate is 0.0"),
        ("adaptive_smooth_taylor", {"max_iteration": -1}, "max_iteration is -1"),
        ("neuromask", {"iterations": 0}, "iterations is 0"),
        ("neuromask", {"temperature": 0.0}, "temperature is 0.0"),
        ("neuromask", {"l_sparse": -1.0}, "l_sparse is -1.0"),
        ("finite_differences", {"step": 0.0}, "step is 0.0"),
        ("finite_differences", {"patch": 0}, "patch is 0"),
        ("occlusion", {"window": 0}, "window is 0"),
        ("occlusion", {"window": 2, "stride": 3}, "stride is 3, window 2: expected a stride up to the window"),
        ("rise", {"masks": 0}, "masks is 0"),
        ("rise", {"grid": 9}, "grid is 9, the image smaller"),
        ("rise", {"p1": 0.0}, "p1 is 0.0, expected a probability above 0"),
    ],
)
def test_options_out_of_range_are_refused(name: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(BitlensError, match=re.escape(message)):
        METHODS[name].function(ENGINE, images_for(ENGINE.program, 1), [0], **options)


def test_a_picture_begins_where_the_row_says() -> None:
    values = np.array([[[2.0, 3.0], [4.0, 4.0]]], np.float32)
    assert np.array_equal(
        heat_picture(METHODS["rise"], values), colour_map_picture(np.array([[0.0, 1.0], [2.0, 2.0]]), signed=False)
    )
    assert np.array_equal(heat_picture(METHODS["occlusion"], values), colour_map_picture(values[0], signed=True))


def test_an_undescribed_option_is_an_error() -> None:
    def made(engine: Engine, images: Array, targets: list[int], *, depth: int = 1) -> Array:
        return images

    with pytest.raises(ValueError, match="differ"):
        register_method("made", title="", paper="", cost=one_gradient, signed=True, meaning="")(made)
    assert "made" not in METHODS


# On a network that is one dense layer, attributions are known exactly.

LINEAR_WEIGHT = np.random.default_rng(3).standard_normal((3, 64)).astype(np.float32)
LINEAR = opened(
    Program(
        (image_input((1, 8, 8), is_float=True),),
        (reshape("image", "flat", 64), dense("flat", "logits", LINEAR_WEIGHT, np.zeros(3, np.float32))),
        ("logits",),
    )
)


@pytest.mark.parametrize("name", ["smoothgrad", "guided_backprop"])
def test_gradients_of_a_linear_network_are_its_weights(name: str) -> None:
    got = METHODS[name].function(LINEAR, images_for(LINEAR.program, 3), TARGETS)
    assert np.abs(got.reshape(3, 64) - LINEAR_WEIGHT).max() <= 2 * EPSILON * np.abs(LINEAR_WEIGHT).max()


def test_finite_differences_of_a_linear_network_are_mean_weights() -> None:
    got = METHODS["finite_differences"].function(LINEAR, images_for(LINEAR.program, 3), TARGETS, patch=3, step=0.25)
    weight = LINEAR_WEIGHT.astype(np.float64).reshape(3, 8, 8)
    for rows, columns in ((slice(0, 3), slice(3, 6)), (slice(6, 8), slice(6, 8)), (slice(6, 8), slice(0, 3))):
        expected = weight[:, rows, columns].mean(axis=(1, 2))
        # A difference of two float32 logits, divided by the patch's way.
        assert np.abs(got[:, 0, rows, columns] - expected[:, None, None]).max() < 1e-4


@pytest.mark.parametrize("baseline", ["zero", "blur", "noise"])
def test_integrated_gradients_of_a_linear_network_are_complete(baseline: str) -> None:
    images = images_for(LINEAR.program, 3)
    maps = METHODS["integrated_gradients"].function(LINEAR, images, TARGETS, baseline=baseline, n_steps=3)
    gap = completeness_gap(LINEAR, images, TARGETS, maps, baseline=baseline)
    assert np.abs(gap).max() <= 64 * EPSILON * np.abs(maps).max()
    other = completeness_gap(LINEAR, images, TARGETS, 1.5 * maps, baseline=baseline)
    assert np.abs(other).min() > 1e-3, "the check cannot fail"


def test_smooth_taylor_sums_what_the_network_saw() -> None:
    """On a linear network (x - z) * w averages to -w * mean(e): of noise rounded to whole codes, if codes are read."""
    noise = np.stack([normal((1, 8, 8), seed=0, stream=(r,)) for r in range(40)]).astype(np.float64)
    images = np.full((1, 1, 8, 8), 100, np.uint8)
    got = METHODS["smooth_taylor"].function(LINEAR, images, [1], roots=40, sigma=0.01)
    mean = noise.mean(axis=0) * 0.01
    assert np.abs(got[0] + LINEAR_WEIGHT[1].reshape(1, 8, 8) * mean).max() < 1e-6
    gradient = METHODS["gradient"].function(FLAT, images[:, :, :2, :2], [1])
    coded = METHODS["smooth_taylor"].function(FLAT, images[:, :, :2, :2], [1], roots=40, sigma=0.01)
    small = np.stack([normal((1, 2, 2), seed=0, stream=(r,)) for r in range(40)]).astype(np.float64)
    seen = np.rint(100 + 255 * 0.01 * small) - 100
    assert coded[0] == pytest.approx(-(gradient[0] * seen.mean(axis=0) / 255), rel=1e-5)


def test_noise_beyond_the_codes_a_network_takes() -> None:
    """The last code there is, and the formula uses that one."""
    images = images_for(FLAT.program, 2)
    for name, options in (("smooth_taylor", {"sigma": 5.0}), ("smoothgrad", {"stdev_spread": 9.0})):
        assert np.isfinite(METHODS[name].function(FLAT, images, [0, 1], **options)).all()
    assert nearest_input(FLAT.program, np.full((1, 1, 2, 2), 99.0)).max() == 767
    assert nearest_input(FLAT.program, np.full((1, 1, 2, 2), -99.0)).min() == -512
    assert nearest_input(FLAT.program, np.full((1, 1, 2, 2), 2.5 / 255)).max() == 2


def test_the_search_for_noise_finds_a_minimum() -> None:
    def attempt(sigma: float) -> tuple[np.ndarray, float]:
        return np.array([sigma]), (sigma - 0.31) ** 2

    options = {"learning_rate": 0.1, "learning_decay": 0.5, "max_stop_count": 9, "max_iteration": 60}
    found = search_noise(attempt, 1.0, **options)  # type: ignore[arg-type]
    assert abs(found.sigma - 0.31) < 0.01
    assert found.area == pytest.approx((found.sigma - 0.31) ** 2)
    assert (found.first_sigma, found.first_area) == (1.0, pytest.approx(0.69**2))
    nowhere = search_noise(lambda sigma: (np.zeros(1), math.nan), 0.0, **options)  # type: ignore[arg-type]
    assert math.isnan(nowhere.area)


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


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.needs_gradient])
def test_windows_reach_every_method(name: str) -> None:
    images, options = images_for(ENGINE.program, 2), quick(name)
    closed = {layer: Interval(9.0, -9.0, True, True) for layer in ("act1", "act2", "act3")}
    got = METHODS[name].function(ENGINE, images, TARGETS[:2], windows=closed, **options)
    if name == "neuromask":  # not a gradient, but found with it
        assert not np.array_equal(got, METHODS[name].function(ENGINE, images, TARGETS[:2], **options))
    else:
        assert not got.any()


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


@pytest.mark.parametrize("name", ["grad_cam", "grad_cam_plus_plus", "layer_cam"])
def test_class_activation_without_a_map(name: str) -> None:
    with pytest.raises(BitlensError, match="no feature map with a height and a width: use another method"):
        method(name).function(FLAT, images_for(FLAT.program, 1), [0])


def test_neuromask_of_a_tiny_image() -> None:
    with pytest.raises(BitlensError, match="2x2 pixels, expected at least 3x3"):
        method("neuromask").function(FLAT, images_for(FLAT.program, 1), [0])


def test_a_name_is_registered_once() -> None:
    entry = METHODS["gradient"]
    with pytest.raises(ValueError, match="method 'gradient' is already in the table"):
        register_method("gradient", title="", paper="", cost=one_gradient, signed=True, meaning="")(entry.function)
    assert METHODS["gradient"] is entry


def test_the_documentation_lists_every_method_and_default() -> None:
    text = (Path(__file__).parents[2] / "docs" / "methods.md").read_text("utf-8")
    rows = {line.split("`")[1]: line for line in text.splitlines() if line.startswith("| `")}
    assert list(rows) == list(METHODS)
    for name, entry in METHODS.items():
        if "smoothgrad_" in name:
            continue  # "the same"
        for option in entry.options:
            assert f"`{option.name}" in rows[name]
            if option.default is not None:
                assert f"`{option.name}={option.default}`" in rows[name]
    for name in ("smoothgrad_squared", "smoothgrad_x_input"):
        assert METHODS[name].options == METHODS["smoothgrad"].options
