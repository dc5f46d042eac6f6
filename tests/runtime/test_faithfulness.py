"""Perturbation curves and total variation, against SciPy and the paper's words done by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from method_settings import counting
from scipy.integrate import simpson as scipy_simpson
from scipy.ndimage import gaussian_filter, zoom
from small_programs import images_for, small_network, small_twin

from bitlens.runtime.engines import open_engine
from bitlens.runtime.errors import BitlensError
from bitlens.runtime.faithfulness.perturbation_curve import aupc, perturbation_curve, ranked_windows
from bitlens.runtime.faithfulness.simpson import simpson
from bitlens.runtime.faithfulness.total_variation import atv, autvc
from bitlens.runtime.gaussian import gaussian_blurred
from bitlens.runtime.network import Network
from bitlens.runtime.noise import uniform

ENGINE = open_engine(Network(Path("memory"), small_network()), "reference")
TWIN = open_engine(Network(Path("memory"), small_twin()), "reference")


def random_maps(count: int, height: int, width: int, seed: int = 0) -> npt.NDArray[np.float64]:
    return np.random.default_rng(seed).standard_normal((count, height, width))


@pytest.mark.parametrize("points", range(1, 10))
def test_simpson_is_scipys(points: int) -> None:
    values = np.random.default_rng(points).random((3, points))
    expected = scipy_simpson(values, dx=1.0) if points > 1 else np.zeros(3)
    assert simpson(values) == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize("sigma", [0.5, 2.8])
def test_blur_is_scipys(sigma: float) -> None:
    values = random_maps(2, 9, 14)
    expected = gaussian_filter(values, (0, sigma, sigma), mode="reflect", truncate=4.0)
    assert np.abs(gaussian_blurred(values, sigma) - expected).max() < 1e-14


def test_atv_by_hand() -> None:
    # |map| scaled: the 99th percentile of 16 values, 15 of them 0 and one 4, is 0.85 * 4 = 3.4; 4 is clipped to it.
    values = np.zeros((1, 4, 4))
    values[0, 1, 1] = -4.0
    assert atv(values) == pytest.approx([4 / 16])
    # A board of +1 and 0: each of the 24 pairs of neighbours differs by 1.
    assert atv((np.indices((4, 4)).sum(axis=0) % 2)[None].astype(float)) == pytest.approx([24 / 16])


def test_atv_of_what_has_no_scale_is_undefined() -> None:
    assert np.isnan(atv(np.full((2, 5, 5), 3.0))).all()


def test_atv_does_not_depend_on_sign_scale_or_offset_of_the_magnitude() -> None:
    values = np.abs(random_maps(3, 12, 12))
    assert atv(-7.0 * values) == pytest.approx(atv(values))
    assert atv(values + 2.0) == pytest.approx(atv(values))
    assert np.all(atv(gaussian_blurred(values, 2.0)) < atv(values)), "a blurred map is calmer"


@pytest.mark.parametrize(("shape", "levels"), [((28, 28), 6), ((32, 20), 7)])
def test_autvc_over_scipys_pyramid(shape: tuple[int, int], levels: int) -> None:
    maps = random_maps(2, *shape)
    for index, level in enumerate(maps):
        areas = []
        for _ in range(levels):
            areas.append(float(atv(level[None])[0]))
            height, width = (-(-2 * side // 3) for side in level.shape)
            factors = (height / level.shape[0], width / level.shape[1])
            level = zoom(gaussian_filter(level, 0.5), factors, order=1, mode="reflect", grid_mode=True)
        expected = scipy_simpson(areas, dx=1.0)
        floor = 3 if shape == (32, 20) else 4
        assert autvc(maps, floor=floor)[index] == pytest.approx(expected, rel=1e-5)
    assert np.array_equal(autvc(maps), autvc(maps, floor=4 if shape == (28, 28) else 3))


def test_maps_that_total_variation_refuses() -> None:
    with pytest.raises(BitlensError, match=r"shape \(N, H, W\)"):
        atv(np.zeros((4, 4)))
    with pytest.raises(BitlensError, match="finite"):
        autvc(np.full((1, 28, 28), np.nan))
    with pytest.raises(BitlensError, match="give 1 level with floor 28"):
        autvc(random_maps(1, 28, 28), floor=28)


def test_windows_are_ranked_by_hand() -> None:
    values = np.zeros((4, 4))
    values[2:, 2:] = -2.0
    values[0, 1] = 3.0
    assert ranked_windows(values, 2, 3) == [(2, 2), (0, 0), (0, 2)]
    assert ranked_windows(values, 1, 2) == [(0, 1), (2, 2)]
    with pytest.raises(BitlensError, match="windows of 3x3 pixels fit a map of 4x4, expected 2"):
        ranked_windows(values, 3, 2)


@pytest.mark.parametrize("engine", [ENGINE, TWIN], ids=["network", "twin"])
def test_the_curve_step_by_step(engine: object) -> None:
    opened = engine
    images, targets = images_for(opened.program, 2), [2, 0]  # type: ignore[attr-defined]
    maps = random_maps(2, 8, 8)
    curve = perturbation_curve(opened, images, targets, maps, window=2, perturbations=4, fills=40, seed=9)  # type: ignore[arg-type]
    for image, target, values, logits, chances in zip(
        images, targets, maps, curve.logits, curve.probabilities, strict=True
    ):
        x = image / 255.0
        score = float(opened.forward(x[None])[0, target])  # type: ignore[attr-defined]
        expected, shares = [score], []
        means = {(i, j): np.abs(values[i : i + 2, j : j + 2]).mean() for i in range(7) for j in range(7)}
        for step in range(4):
            i, j = max(means, key=lambda place: means[place])
            means = {place: mean for place, mean in means.items() if abs(place[0] - i) > 1 or abs(place[1] - j) > 1}
            fills = uniform((40, 1, 2, 2), seed=9, stream=(step,)).astype(np.float64)
            tried = np.repeat(x[None], 40, axis=0)
            tried[:, :, i : i + 2, j : j + 2] = fills
            answers = np.concatenate([opened.forward(one[None]) for one in tried]).astype(np.float64)  # type: ignore[attr-defined]
            expected.append(answers[:, target].mean())
            powers = np.exp(answers)
            shares.append((powers[:, target] / powers.sum(axis=1)).mean())
            x = tried[np.argmin(np.abs(answers[:, target] - np.median(answers[:, target])))]
        assert logits == pytest.approx(np.array(expected) / abs(score), rel=1e-5)
        assert chances[1:] == pytest.approx(shares, rel=1e-5)
    assert aupc(curve.logits) == pytest.approx(scipy_simpson(curve.logits, dx=1.0))


def test_the_curve_costs_what_it_says() -> None:
    engine, passed = counting(ENGINE)
    perturbation_curve(engine, images_for(ENGINE.program, 2), [0, 1], random_maps(2, 8, 8), perturbations=3, fills=7)
    assert (passed["forward"], passed["backward"]) == (2 * (1 + 3 * 7), 0)


def test_destroying_what_counts_first_lowers_the_curve() -> None:
    """A map that knows the network beats its reverse."""
    images = images_for(TWIN.program, 8)
    targets = TWIN.forward(images).argmax(axis=1).tolist()
    from bitlens.runtime.methods import METHODS

    found = np.abs(METHODS["occlusion"].function(TWIN, images, targets, window=2)[:, 0])
    options = {"window": 2, "perturbations": 8, "fills": 10}
    good, bad = (
        perturbation_curve(TWIN, images, targets, maps, **options).probabilities  # type: ignore[arg-type]
        for maps in (found, found.max() - found)
    )
    assert aupc(good).mean() < aupc(bad).mean()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 9}, "window is 9, the map 8x8"),
        ({"window": 0}, "window is 0"),
        ({"perturbations": 0}, "perturbations is 0"),
        ({"fills": 0}, "fills is 0"),
        ({"window": 4, "perturbations": 5}, "windows of 4x4 pixels fit"),
    ],
)
def test_options_that_a_curve_refuses(options: dict[str, int], message: str) -> None:
    with pytest.raises(BitlensError, match=message):
        perturbation_curve(ENGINE, images_for(ENGINE.program, 1), [0], random_maps(1, 8, 8), **options)  # type: ignore[arg-type]


def test_maps_that_a_curve_refuses() -> None:
    with pytest.raises(BitlensError, match=r"expected finite maps of shape \(1, 8, 8\), got shape \(1, 1, 8, 8\)"):
        perturbation_curve(ENGINE, images_for(ENGINE.program, 1), [0], random_maps(1, 8, 8)[:, None])
