"""Faithfulness metrics against float64 transcriptions of their definitions, and on a network whose answer is known."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from scipy import integrate, ndimage, special
from small_programs import dense, image_input, images_for, reshape, small_network, small_twin

from bitlens.runtime.engines import Engine, open_engine
from bitlens.runtime.errors import BitlensError
from bitlens.runtime.faithfulness import (
    FAITHFULNESS,
    average_drop,
    deletion,
    faithfulness_metric,
    increase_in_confidence,
    insertion,
    register_faithfulness,
)
from bitlens.runtime.faithfulness.insertion import blurred
from bitlens.runtime.faithfulness.perturbation_curve import aupc, perturbation_curve
from bitlens.runtime.faithfulness.pixel_order import pixel_ranks
from bitlens.runtime.faithfulness.total_variation import atv, autvc
from bitlens.runtime.methods import METHODS
from bitlens.runtime.network import Network
from bitlens.runtime.program import Program

Float64 = npt.NDArray[np.float64]

IN_THIS_FILE = ("insertion", "deletion", "average_drop", "average_gain", "increase_in_confidence")
SIDE = 8


def opened(program: Program) -> Engine:
    return open_engine(Network(Path("here"), program), "reference")


def linear(weights: Float64, shape: tuple[int, int, int] = (1, SIDE, SIDE)) -> Program:
    """Two classes: logit 0 is weights * x, logit 1 is 0; full precision."""
    pixels = math.prod(shape)
    matrix = np.stack([weights.ravel(), np.zeros(pixels)]).astype(np.float32)
    nodes = (reshape("image", "flat", pixels), dense("flat", "logits", matrix, np.zeros(2, np.float32)))
    return Program((image_input(shape, is_float=True),), nodes, ("logits",))


def share(engine: Engine, x: Float64, target: int) -> Float64:
    return np.array([special.softmax(engine.forward(one[None])[0].astype(np.float64))[target] for one in x])


def slow_order(values: Float64) -> list[int]:
    """Places from the largest value to the smallest; the order of equal ones is the metric's own, taken as given."""
    ranks = pixel_ranks(values).ravel()
    return sorted(range(values.size), key=lambda place: (-values.ravel()[place], ranks[place]))


def slow_curve(engine: Engine, start: Float64, end: Float64, values: Float64, target: int) -> float:
    steps = 28
    x, frames = start.copy(), [start.copy()]
    order = slow_order(values)
    for step in range(1, steps + 1):
        first, last = (int(np.rint(at * values.size / steps)) for at in (step - 1, step))
        for place in order[first:last]:
            row, column = divmod(place, values.shape[1])
            x[:, row, column] = end[:, row, column]
        frames.append(x.copy())
    return float(integrate.trapezoid(share(engine, np.stack(frames), target), dx=1 / steps))


def slow_insertion(engine: Engine, x: Float64, values: Float64, target: int) -> float:
    kernel = np.exp(-0.5 * (np.arange(-5, 6) / 5.0) ** 2)
    kernel = np.outer(kernel, kernel) / kernel.sum() ** 2
    start = np.stack([ndimage.convolve(channel, kernel, mode="nearest") for channel in x])
    return slow_curve(engine, start, x, values, target)


def slow_deletion(engine: Engine, x: Float64, values: Float64, target: int) -> float:
    return slow_curve(engine, x, np.zeros_like(x), values, target)


def slow_masked(engine: Engine, x: Float64, values: Float64, target: int) -> tuple[float, float]:
    top = max(0.0, values.max())
    mask = [[max(0.0, value) / top if top else 0.0 for value in row] for row in values]
    p, o = share(engine, np.stack([x, x * np.array(mask)]), target)
    return float(p), float(o)


def slow_drop(engine: Engine, x: Float64, values: Float64, target: int) -> float:
    p, o = slow_masked(engine, x, values, target)
    return max(0.0, p - o) / p


def slow_gain(engine: Engine, x: Float64, values: Float64, target: int) -> float:
    p, o = slow_masked(engine, x, values, target)
    return max(0.0, o - p) / (1 - p)


def slow_increase(engine: Engine, x: Float64, values: Float64, target: int) -> float:
    p, o = slow_masked(engine, x, values, target)
    return float(o > p)


ORACLES: dict[str, Callable[[Engine, Float64, Float64, int], float]] = {
    "insertion": slow_insertion,
    "deletion": slow_deletion,
    "average_drop": slow_drop,
    "average_gain": slow_gain,
    "increase_in_confidence": slow_increase,
}


def maps_for(images: npt.NDArray[np.uint8], seed: int) -> Float64:
    values = np.random.default_rng(seed).standard_normal((len(images), *images.shape[2:]))
    values[1] = np.rint(values[1])  # ties
    values[2] = np.maximum(values[2], 0.0)
    return values


@pytest.mark.parametrize("name", IN_THIS_FILE)
@pytest.mark.parametrize("program", [small_network(), small_twin()], ids=["quantized", "twin"])
def test_metric_is_what_the_definition_gives(name: str, program: Program) -> None:
    engine, images = opened(program), images_for(program, 5)
    maps, targets = maps_for(images, 3), [0, 1, 2, 1, 0]
    got = faithfulness_metric(name)(engine, images, maps, targets)
    x = images.astype(np.float64) / 255
    wanted = [ORACLES[name](engine, *one) for one in zip(x, maps, targets, strict=True)]
    np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-9)
    row = FAITHFULNESS[name]
    assert ((row.lowest <= got) & (got <= row.highest)).all()
    # The comparison can fail: another map is told apart.
    others = [ORACLES[name](engine, *one) for one in zip(x, -maps, targets, strict=True)]
    assert name == "increase_in_confidence" or not np.allclose(got, others, atol=1e-4)


@pytest.mark.parametrize("name", FAITHFULNESS)
def test_the_batch_changes_nothing_and_the_cost_is_as_declared(name: str) -> None:
    program = small_network()
    dear = FAITHFULNESS[name].forward_passes > 100
    program = linear(np.ones((SIDE, SIDE))) if dear else program
    engine, images = opened(program), images_for(program, 4)
    maps, targets = maps_for(images, 4), [0, 1, 1, 0]
    asked: list[int] = []

    def counted(feeds: object, outputs: Sequence[str]) -> object:
        asked.append(len(next(iter(feeds.values()))))  # type: ignore[attr-defined]
        return engine.run_forward(feeds, outputs)  # type: ignore[arg-type]

    watched = Engine(engine.info, program, counted, engine.run_gradient)  # type: ignore[arg-type]
    whole = FAITHFULNESS[name](watched, images, maps, targets)
    assert whole.dtype == np.float64
    assert sum(asked) == FAITHFULNESS[name].forward_passes * len(images)
    ones = [FAITHFULNESS[name](engine, images[n : n + 1], maps[n : n + 1], targets[n : n + 1])[0] for n in range(4)]
    np.testing.assert_array_equal(whole, ones)
    floats = FAITHFULNESS[name](engine, images.astype(np.float64) / 255, maps, targets)
    np.testing.assert_array_equal(whole, floats)
    assert FAITHFULNESS[name](engine, images[:0], maps[:0], []).shape == (0,)


@pytest.mark.parametrize("name", FAITHFULNESS)
def test_a_perfect_map_comes_before_a_random_and_an_inverted_one(name: str) -> None:
    draw, count = np.random.default_rng(5), 3 if FAITHFULNESS[name].forward_passes > 100 else 12
    weights = draw.standard_normal((SIDE, SIDE)) / 2
    engine = opened(linear(weights))
    images = draw.integers(0, 256, (count, 1, SIDE, SIDE)).astype(np.uint8)
    perfect = METHODS["gradient_x_input"].function(engine, images, [0] * count)[:, 0].astype(np.float64)
    np.testing.assert_allclose(perfect, weights * images[:, 0] / 255, atol=1e-6)
    random = draw.uniform(size=perfect.shape)
    rate = [FAITHFULNESS[name](engine, images, maps, [0] * count).mean() for maps in (perfect, random, -perfect)]
    row = FAITHFULNESS[name]
    if name in ("atv", "autvc", "aupc"):  # look at magnitudes alone, where a map and its inverse are the same
        assert rate[0] == pytest.approx(rate[2])
    elif row.higher_is_better:
        assert rate[0] > rate[1] > rate[2] or name != "insertion"
        assert rate[0] > rate[2]
    else:
        assert rate[0] < rate[1] < rate[2] or name != "deletion"
        assert rate[0] < rate[2]


def test_perfect_deletion_by_hand() -> None:
    # Two pixels of four speak for the class, one against: the map takes those for it away first.
    engine = opened(linear(np.array([[4.0, 2.0], [-1.0, 0.0]]), (1, 2, 2)))
    images = np.full((1, 1, 2, 2), 255, np.uint8)
    maps = np.array([[[4.0, 2.0], [-1.0, 0.0]]])
    counts = np.rint(np.linspace(0, 4, 29))
    logits = {0: 5.0, 1: 1.0, 2: -1.0, 3: -1.0, 4: 0.0}
    curve = np.array([1 / (1 + math.exp(-logits[int(count)])) for count in counts])
    assert deletion(engine, images, maps, [0])[0] == pytest.approx(integrate.trapezoid(curve, dx=1 / 28), abs=1e-7)


def test_a_uniform_map_loses_nothing_and_gains_nothing() -> None:
    program = small_network()
    engine, images = opened(program), images_for(program, 3)
    maps = np.ones((3, *images.shape[2:]))
    for name in ("average_drop", "average_gain", "increase_in_confidence"):
        assert (faithfulness_metric(name)(engine, images, maps, [0, 1, 2]) == 0).all()
    # Its order is shuffled, not the rows from the top.
    assert (np.diff(pixel_ranks(maps[0]).ravel()) != 1).any()
    assert sorted(pixel_ranks(maps[0]).ravel()) == list(range(maps[0].size))
    np.testing.assert_array_equal(pixel_ranks(maps[0]), pixel_ranks(0 * maps[0]))


def test_a_map_of_zeros_shows_nothing_of_the_image() -> None:
    engine = opened(linear(np.ones((SIDE, SIDE))))
    images = np.full((1, 1, SIDE, SIDE), 255, np.uint8)
    for values in (0.0, -1.0):
        maps = np.full((1, SIDE, SIDE), values)
        assert average_drop(engine, images, maps, [0])[0] == pytest.approx(0.5, abs=1e-9)  # black: both classes alike


def test_undefined_where_there_is_nothing_to_lose_or_to_gain() -> None:
    engine = opened(linear(np.full((SIDE, SIDE), 100.0)))
    images, maps = np.full((2, 1, SIDE, SIDE), 255, np.uint8), np.ones((2, SIDE, SIDE))
    assert np.isnan(faithfulness_metric("average_gain")(engine, images, maps, [0, 1])).tolist() == [True, False]
    assert np.isnan(average_drop(engine, images, maps, [0, 1])).tolist() == [False, True]
    assert increase_in_confidence(engine, images, 0 * maps, [0, 1]).tolist() == [0.0, 1.0]


def test_certainty_keeps_its_digits() -> None:
    # p is 1 - 1e-22: as 1 - p it would be 0, and the gain undefined.
    engine = opened(linear(np.array([[60.0, -10.0]]), (1, 1, 2)))
    images = np.full((1, 1, 1, 2), 255, np.uint8)
    gain = faithfulness_metric("average_gain")(engine, images, np.array([[[1.0, 0.0]]]), [0])
    assert gain[0] == pytest.approx(1 - math.exp(-10), abs=1e-9)


def test_blur_keeps_the_mean_and_holds_the_edge() -> None:
    x = np.random.default_rng(0).uniform(size=(3, 20, 24))
    wide = np.exp(-0.5 * (np.arange(-5, 6) / 5.0) ** 2)
    once = ndimage.convolve1d(x, wide / wide.sum(), axis=1, mode="nearest")
    np.testing.assert_allclose(blurred(x), ndimage.convolve1d(once, wide / wide.sum(), axis=2, mode="nearest"))
    np.testing.assert_allclose(blurred(np.ones((1, 4, 5))), 1.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"maps": np.ones((2, 7, 8))}, "reduce the channels"),
        ({"maps": np.ones((1, 8, 8))}, "expected images"),
        ({"maps": np.full((2, 8, 8), np.nan)}, "finite"),
        ({"maps": np.ones((2, 8, 8), np.int64)}, "finite floats"),
        ({"targets": [0, 3]}, "target 3 is no class"),
        ({"targets": [-1, 0]}, "target -1 is no class"),
        ({"targets": [0]}, "N targets"),
        ({"images": np.ones((2, 8, 8), np.uint8)}, "expected images"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, object], message: str) -> None:
    program = small_network()
    given = {"images": images_for(program, 2), "maps": np.ones((2, 8, 8)), "targets": [0, 1]} | change
    with pytest.raises(BitlensError, match=message):
        insertion(opened(program), given["images"], given["maps"], given["targets"])  # type: ignore[arg-type]


def test_the_table_refuses_a_second_entry_and_unknown_names() -> None:
    row = FAITHFULNESS["insertion"]
    with pytest.raises(ValueError, match="already in the table"):
        register_faithfulness(
            "insertion",
            title="",
            lowest=0,
            highest=1,
            higher_is_better=True,
            meaning="",
            undefined="",
            forward_passes=1,
        )(row.function)
    with pytest.raises(BitlensError, match="choose from"):
        faithfulness_metric("nothing")


def test_rows_of_other_files_are_what_those_give() -> None:
    engine, images = (
        opened(linear(np.random.default_rng(1).standard_normal((SIDE, SIDE)))),
        images_for(small_network(), 3),
    )
    maps, targets = maps_for(images, 9), [0, 1, 0]
    curves = perturbation_curve(engine, images, targets, maps)
    np.testing.assert_array_equal(
        faithfulness_metric("aupc")(engine, images, maps, targets), aupc(curves.probabilities)
    )
    np.testing.assert_array_equal(faithfulness_metric("atv")(engine, images, maps, targets), atv(maps))
    np.testing.assert_array_equal(faithfulness_metric("autvc")(engine, images, maps, targets), autvc(maps))
    whole = faithfulness_metric("aupc")(opened(linear(np.full((SIDE, SIDE), 1e4))), images[:1], maps[:1], [0])
    assert whole[0] == FAITHFULNESS["aupc"].highest  # nothing changes the class, and the sum of ones stays in range
