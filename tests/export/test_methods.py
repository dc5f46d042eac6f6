"""Every method against Captum, or against its paper's formula in float64, with torch as the network."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from brevitas_oracle import run_brevitas
from captum.attr import InputXGradient, IntegratedGradients, NoiseTunnel, Occlusion, Saliency
from engine_choices import asked, offered_features
from method_settings import counting, quick
from scipy.ndimage import gaussian_filter, zoom
from torch import Tensor, nn
from torch.nn import functional

from bitlens.export.bundle import write_bundle
from bitlens.runtime.bootstrap import bootstrap_mean
from bitlens.runtime.engines import Engine, one_hot, open_engine
from bitlens.runtime.faithfulness.perturbation_curve import aupc, perturbation_curve
from bitlens.runtime.faithfulness.total_variation import autvc
from bitlens.runtime.fidelity.spearman import spearman
from bitlens.runtime.methods import METHODS
from bitlens.runtime.methods.finite_differences import adaptive_step
from bitlens.runtime.methods.integrated_gradients import completeness_gap
from bitlens.runtime.network import open_network
from bitlens.runtime.noise import normal, uniform
from bitlens.runtime.parity import relative_errors
from bitlens.runtime.program import Array, Program

QUANTIZED = ("w4a4", "w2a4", "w2a2", "w1a1")
ALL = ("fp32", *QUANTIZED)
# On the twin a ReLU or a pool may be decided by a rounding error, along the way from black above all, where whole
# regions are nearly equal. One of a map's many gradients then goes another way: so many images may be beyond the bound,
# by little. XNNPACK sums the pixels at a border in another order than those inside, so that nearly equal is more often.
FLIPS, FLIPPED = 3, 2e-3
ENGINES = ("reference", "onnxruntime", "native", "tflite")
GUIDED = "guided_backprop"
BOUND = 1e-5
COUNT = 4  # images
STEPS = 20  # points on the way, where Captum's default takes 50

Float64 = npt.NDArray[np.float64]
Exported = Callable[[str, str], Engine]
Models = dict[str, nn.Sequential]


@pytest.fixture(scope="module")
def exported(programs: dict[str, Program], tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """Opens an exported network, files and all."""
    root = tmp_path_factory.mktemp("exported")

    def opened(precision: str, engine: str) -> Engine:
        path: Path = root / f"{precision}.bitlens"
        if not path.exists():
            write_bundle(path, programs[precision])
        return open_engine(open_network(path, trust=True), engine)

    return opened


@pytest.fixture(scope="module")
def codes(held_out: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    return held_out[:COUNT]


@pytest.fixture(scope="module")
def classes(targets: dict[str, npt.NDArray[np.int64]]) -> dict[str, list[int]]:
    return {precision: found[:COUNT].tolist() for precision, found in targets.items()}


def as_seen(precision: str, x: Float64) -> Float64:
    """What a network sees of x: whole codes, or float32."""
    return x.astype(np.float32).astype(np.float64) if precision == "fp32" else np.rint(x * 255.0) / 255.0


def gradients(models: Models, precision: str, x: Float64, target: int) -> Float64:
    """torch.autograd at points (M, C, H, W)."""
    run = run_brevitas(models[precision], as_seen(precision, x), one_hot([target] * len(x), 10))
    return run.input_gradient


def logits(models: Models, precision: str, x: Float64) -> Float64:
    model = copy.deepcopy(models[precision]).double().eval()
    with torch.no_grad():
        return np.asarray(model(torch.tensor(as_seen(precision, x))).numpy())


def method_maps(
    exported: Exported, precision: str, engine: str, name: str, images: Array, chosen: Any, **options: Any
) -> Array | None:
    """Maps; None where the engine refuses what the method asks of it."""
    opened = exported(precision, engine)
    layer = options.get("layer")
    return asked(
        opened,
        (layer is None or layer in offered_features(opened)) and (name != GUIDED or opened.choices.guided),
        f"asked was (that of {layer}|guided backprop)",
        lambda: METHODS[name].function(opened, images, chosen, **options),
    )


def check(
    got: Array | None, expected: Array, name: str, record_property: Callable[[str, object], None], flips: int = 0
) -> None:
    """Hold every image to `BOUND`, but for so many in which rounding sends a gradient another way."""
    if got is None:
        return
    errors = relative_errors(got, expected)
    above = int((errors > BOUND).sum())
    record_property(f"{name}: largest relative error, images above {BOUND}", (float(errors.max()), above))
    print(f"ERR {name}: {errors.max():.1e}, {above} above")
    assert above <= flips, f"{name}: {errors}"
    assert errors.max() <= FLIPPED, f"{name}: {errors}"


# Methods made of gradients: their formulas in float64 around torch.autograd on the Brevitas model, and on the twin.


def expected_smoothgrad(models: Models, precision: str, x: Float64, target: int, kind: str) -> Float64:
    sigma = 0.15 * (x.max() - x.min())
    noisy = np.stack([x + sigma * normal(x.shape, seed=5, stream=(r,)).astype(np.float64) for r in range(25)])
    found = gradients(models, precision, noisy, target)
    if kind == "smoothgrad_squared":
        return np.asarray((found**2).mean(axis=0))
    return np.asarray(found.mean(axis=0) * (x if kind == "smoothgrad_x_input" else 1.0))


def expected_integrated(models: Models, precision: str, x: Float64, target: int, baseline: str) -> Float64:
    start = {
        "zero": np.zeros_like(x),
        "blur": gaussian_filter(x, (0, 2.8, 2.8)),
        "noise": uniform(x.shape, seed=5, stream=(0,)).astype(np.float64),
    }[baseline]
    start = as_seen(precision, start)
    nodes, weights = np.polynomial.legendre.leggauss(STEPS)
    points = np.stack([start + (1 + node) / 2 * (x - start) for node in nodes])
    found = gradients(models, precision, points, target)
    return np.asarray((x - start) * np.einsum("k,kchw->chw", weights / 2, found))


def expected_taylor(models: Models, precision: str, x: Float64, target: int, sigma: float, roots: int) -> Float64:
    z = np.stack([x + sigma * normal(x.shape, seed=5, stream=(r,)).astype(np.float64) for r in range(roots)])
    z = as_seen(precision, z)
    return np.asarray(((x - z) * gradients(models, precision, z, target)).mean(axis=0))


GRADIENT_MADE: dict[str, tuple[str, dict[str, Any], Callable[..., Float64]]] = {
    **{
        name: (name, {"seed": 5}, lambda *given, name=name: expected_smoothgrad(*given, name))
        for name in ("smoothgrad", "smoothgrad_squared", "smoothgrad_x_input")
    },
    **{
        f"integrated_gradients {start}": (
            "integrated_gradients",
            {"seed": 5, "baseline": start, "n_steps": STEPS},
            lambda *given, start=start: expected_integrated(*given, start),
        )
        for start in ("zero", "blur", "noise")
    },
    "smooth_taylor": (
        "smooth_taylor",
        {"seed": 5, "sigma": 0.113, "roots": 20},
        lambda *given: expected_taylor(*given, 0.113, 20),
    ),
}


@pytest.mark.parametrize("case", GRADIENT_MADE)
@pytest.mark.parametrize("precision", ALL)
def test_methods_made_of_gradients_equal_autograd(
    precision: str,
    case: str,
    trained: Models,
    exported: Exported,
    codes: Array,
    classes: dict[str, list[int]],
    record_property: Callable[[str, object], None],
) -> None:
    name, options, expect = GRADIENT_MADE[case]
    x = as_seen(precision, codes / 255.0)
    chosen = classes[precision]
    expected = np.stack([expect(trained, precision, one, target) for one, target in zip(x, chosen, strict=True)])
    assert relative_errors(expected[1:], expected[:-1]).min() > 0.01
    for engine in ENGINES:
        got = method_maps(exported, precision, engine, name, codes, chosen, **options)
        flips = FLIPS if precision == "fp32" else 0
        check(got, expected, f"{case} {precision} {engine}", record_property, flips)


@pytest.mark.parametrize(
    "case", [*GRADIENT_MADE, "gradient_x_input", "guided_backprop", "occlusion", "finite_differences", "rise"]
)
@pytest.mark.parametrize("precision", QUANTIZED)
def test_engines_agree(
    precision: str, case: str, exported: Exported, codes: Array, classes: dict[str, list[int]], record_property: Any
) -> None:
    name, options, _ = GRADIENT_MADE.get(case, (case, quick(case), None))
    reference, *others = (
        method_maps(exported, precision, engine, name, codes, classes[precision], **options) for engine in ENGINES
    )
    for engine, maps in zip(ENGINES[1:], others, strict=True):
        check(maps, reference, f"{engine} {case} {precision}", record_property)


# Captum, on the twin.


@pytest.fixture(scope="module")
def twin(trained: Models) -> nn.Sequential:
    return copy.deepcopy(trained["fp32"]).double().eval()


@pytest.fixture(scope="module")
def image(codes: Array) -> Tensor:
    return torch.tensor((codes / 255.0).astype(np.float32), dtype=torch.float64, requires_grad=True)


def test_gradient_x_input_equals_captum(
    twin: nn.Sequential, image: Tensor, exported: Exported, codes: Array, classes: Any, record_property: Any
) -> None:
    expected = InputXGradient(twin).attribute(image, torch.tensor(classes["fp32"])).detach().numpy()
    for engine in ENGINES:
        got = method_maps(exported, "fp32", engine, "gradient_x_input", codes, classes["fp32"])
        check(got, expected, f"captum InputXGradient {engine}", record_property)


@pytest.mark.parametrize(("name", "kind"), [("smoothgrad", "smoothgrad"), ("smoothgrad_squared", "smoothgrad_sq")])
def test_smoothgrad_equals_captums_noise_tunnel(
    name: str,
    kind: str,
    twin: nn.Sequential,
    image: Tensor,
    exported: Exported,
    codes: Array,
    classes: Any,
    monkeypatch: pytest.MonkeyPatch,
    record_property: Any,
) -> None:
    x = image.detach().numpy()
    noise = []
    for one in x:
        sigma = 0.15 * (one.max() - one.min())
        for sample in range(25):
            noisy = one + sigma * normal(one.shape, seed=5, stream=(sample,)).astype(np.float64)
            noise.append(noisy.astype(np.float32) - one)  # what the twin, which reads float32, sees of it
    given = torch.tensor(np.stack(noise))
    monkeypatch.setattr(torch, "normal", lambda mean, deviation: given.reshape(deviation.shape))
    tunnel = NoiseTunnel(Saliency(twin))
    expected = tunnel.attribute(
        image, nt_type=kind, nt_samples=25, stdevs=1.0, target=torch.tensor(classes["fp32"]), abs=False
    )
    for engine in ENGINES:
        got = method_maps(exported, "fp32", engine, name, codes, classes["fp32"], seed=5)
        check(got, expected.detach().numpy(), f"captum NoiseTunnel {kind} {engine}", record_property, FLIPS)


@pytest.mark.parametrize("baseline", ["zero", "blur", "noise"])
def test_integrated_gradients_equal_captum(
    baseline: str,
    twin: nn.Sequential,
    image: Tensor,
    exported: Exported,
    codes: Array,
    classes: Any,
    record_property: Any,
) -> None:
    x = image.detach().numpy()
    starts = {
        "zero": np.zeros_like(x),
        "blur": gaussian_filter(x, (0, 0, 2.8, 2.8)),
        "noise": np.repeat(uniform(x.shape[1:], seed=5, stream=(0,))[None], len(x), axis=0),
    }
    start = torch.tensor(starts[baseline].astype(np.float32), dtype=torch.float64)
    expected, delta = IntegratedGradients(twin).attribute(
        image, start, torch.tensor(classes["fp32"]), n_steps=50, return_convergence_delta=True
    )
    options = {"baseline": baseline, "seed": 5}
    for engine in ENGINES:
        got = method_maps(exported, "fp32", engine, "integrated_gradients", codes, classes["fp32"], **options)
        check(got, expected.detach().numpy(), f"captum IntegratedGradients {baseline} {engine}", record_property, FLIPS)
        gap = completeness_gap(exported("fp32", engine), codes, classes["fp32"], got, **options)  # type: ignore[arg-type]
        errors = np.sort(np.abs(gap - delta.numpy()))
        assert errors[-1 - FLIPS] <= 1e-6 * np.abs(got).sum(axis=(1, 2, 3)).max()
        assert errors[-1] <= FLIPPED * np.abs(got).sum(axis=(1, 2, 3)).max()
        assert np.abs(gap).max() > 0


@pytest.mark.parametrize("sizes", [(4, 2), (5, 3), (28, 1), (3, 3)])
def test_occlusion_equals_captum(
    sizes: tuple[int, int],
    twin: nn.Sequential,
    image: Tensor,
    exported: Exported,
    codes: Array,
    classes: Any,
    record_property: Any,
) -> None:
    window, stride = sizes
    expected = Occlusion(twin).attribute(
        image.detach(), (1, window, window), (1, stride, stride), baselines=0.25, target=torch.tensor(classes["fp32"])
    )
    options = {"window": window, "stride": stride, "baseline": 0.25}
    for engine in ENGINES:
        got = method_maps(exported, "fp32", engine, "occlusion", codes, classes["fp32"], **options)
        # Differences of logits, which are float32 here: compared on the scale of the logits.
        scale = np.abs(logits({"fp32": twin}, "fp32", image.detach().numpy())).max()
        error = np.abs(got - expected.numpy()).max() / scale
        record_property(f"captum Occlusion {sizes} {engine}", float(error))
        print(f"ERR captum Occlusion {sizes} {engine}: {error:.1e}")
        assert error <= 1e-6
        assert np.abs(got).max() > 0.1 * scale


# Class activation maps, by their papers' formulas from autograd's values.


def expected_plus_plus(values: Float64, slopes: Float64) -> Float64:
    """With Y = exp(S): alpha = S'^2 / (2 S'^2 + sum A S'^3); w = sum alpha relu(S')."""
    result = []
    for feature, slope in zip(values, slopes, strict=True):
        total = np.zeros(feature.shape[1:])
        for a, g in zip(feature, slope, strict=True):
            weight = 0.0
            for place in np.ndindex(g.shape):
                below = 2 * g[place] ** 2 + a.sum() * g[place] ** 3
                weight += g[place] ** 2 / below * max(g[place], 0.0) if below else 0.0
            total += weight * a
        result.append(np.maximum(total, 0.0)[None])
    return np.stack(result)


def expected_layer_cam(values: Float64, slopes: Float64) -> Float64:
    return np.asarray(np.maximum((np.maximum(slopes, 0.0) * values).sum(axis=1, keepdims=True), 0.0))


@pytest.mark.parametrize(
    ("name", "expect"), [("grad_cam_plus_plus", expected_plus_plus), ("layer_cam", expected_layer_cam)]
)
@pytest.mark.parametrize("layer", ["act2", None])
@pytest.mark.parametrize("precision", ALL)
def test_class_activation_maps(
    precision: str,
    layer: str | None,
    name: str,
    expect: Callable[[Float64, Float64], Float64],
    trained: Models,
    exported: Exported,
    codes: Array,
    classes: Any,
    record_property: Any,
) -> None:
    chosen = classes[precision]
    run = run_brevitas(trained[precision], as_seen(precision, codes / 255.0), one_hot(chosen, 10))
    small = torch.tensor(expect(run.values[layer or "act3"], run.gradients[layer or "act3"]))
    expected = functional.interpolate(small, (28, 28), mode="bilinear", align_corners=False).numpy()
    assert (expected > 0).any(axis=(1, 2, 3)).all()
    for engine in ENGINES:
        got = method_maps(exported, precision, engine, name, codes, chosen, layer=layer)
        check(got, expected, f"{name} {layer} {precision} {engine}", record_property)


# Masks.


def expected_rise(models: Models, precision: str, x: Float64, target: int, count: int) -> Float64:
    """1 / (N p1) * sum f(x M) M, masks from the same uniform numbers: two for the shift, then the grid."""
    masks = []
    for sample in range(count):
        draws = uniform((51,), seed=5, stream=(sample,)).astype(np.float64)
        grid = torch.tensor((draws[2:] < 0.5).astype(np.float64)).reshape(1, 1, 7, 7)
        large = functional.interpolate(grid, (32, 32), mode="bilinear", align_corners=False)[0].numpy()
        top, left = int(4 * draws[0]), int(4 * draws[1])
        masks.append(large[:, top : top + 28, left : left + 28])
    stacked = np.stack(masks)
    scores = torch.softmax(torch.tensor(logits(models, precision, x * stacked)), dim=1)[:, target].numpy()
    return np.asarray(np.einsum("k,kchw->chw", scores, stacked) / (count * 0.5))


@pytest.mark.parametrize("precision", ALL)
def test_rise(
    precision: str, trained: Models, exported: Exported, codes: Array, classes: Any, record_property: Any
) -> None:
    x, chosen = as_seen(precision, codes / 255.0)[:3], classes[precision][:3]
    expected = np.stack([expected_rise(trained, precision, one, t, 70) for one, t in zip(x, chosen, strict=True)])
    for engine in ENGINES:
        got = method_maps(exported, precision, engine, "rise", codes[:3], chosen, masks=70, seed=5)
        check(got, expected, f"rise {precision} {engine}", record_property)


class SeenCodes(torch.autograd.Function):
    """Rounding of x to what the network reads, gradient straight through."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, precision: str) -> Tensor:
        return torch.tensor(as_seen(precision, x.numpy()))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return gradient, None


def expected_neuromask(model: nn.Sequential, precision: str, x: Float64, target: int, iterations: int) -> Float64:
    model = copy.deepcopy(model).double().eval()
    start = 20.0 * uniform((28, 28), seed=5, stream=(0,)).astype(np.float64) - 10.0
    w = torch.tensor(start, requires_grad=True)
    optimiser = torch.optim.RMSprop([w], lr=0.3, alpha=0.9, eps=1e-7)
    kernel = torch.tensor([[-1.0, -1, -1], [-1, 8, -1], [-1, -1, -1]], dtype=torch.float64)[None, None]
    best, lowest = start, np.inf
    for _ in range(iterations):
        seen = SeenCodes.apply(torch.tensor(x) * torch.sigmoid(w / 0.8), precision)
        loss = (
            0.4 * functional.cross_entropy(model(seen[None]), torch.tensor([target]))
            + 0.35 * (w + 10.0).abs().mean()
            + 0.15 * functional.conv2d(w[None, None], kernel).square().mean()
        )
        if loss.item() < lowest:
            lowest, best = loss.item(), w.detach().numpy().copy()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return np.asarray(1 / (1 + np.exp(-best / 0.8)))[None]


@pytest.mark.parametrize("precision", ALL)
def test_neuromask(
    precision: str, trained: Models, exported: Exported, codes: Array, classes: Any, record_property: Any
) -> None:
    x, chosen = as_seen(precision, codes / 255.0)[:2], classes[precision][:2]
    pairs = zip(x, chosen, strict=True)
    expected = np.stack([expected_neuromask(trained[precision], precision, one, t, 30) for one, t in pairs])
    options = {"iterations": 30, "learning_rate": 0.3, "temperature": 0.8, "seed": 5}
    for engine in ENGINES:
        got = method_maps(exported, precision, engine, "neuromask", codes[:2], chosen, **options)
        check(got, expected, f"neuromask {precision} {engine}", record_property, 1 if precision == "fp32" else 0)


# Adaptive noising, its search and its metrics from their formulas.


def expected_autvc(values: Float64) -> float:
    """ATV over a pyramid of SciPy's blurs and zooms, Simpson's rule over its six levels by hand."""
    levels = []
    for _ in range(6):
        size = np.abs(values)
        low, high = size.min(), np.percentile(size, 99)
        scaled = np.clip((size - low) / (high - low), 0, 1)
        total = sum(abs(scaled[i, j] - scaled[i + 1, j]) for i in range(len(scaled) - 1) for j in range(len(scaled)))
        total += sum(abs(scaled[i, j] - scaled[i, j + 1]) for i in range(len(scaled)) for j in range(len(scaled) - 1))
        levels.append(total / scaled.size)
        smaller = -(-2 * len(values) // 3)
        blurred = gaussian_filter(values, 0.5, mode="reflect")
        values = zoom(blurred, smaller / len(values), order=1, mode="reflect", grid_mode=True)
    assert smaller == 3
    a, b, c, d, e, f = levels
    return float((a + 4 * b + 2 * c + 4 * d + e) / 3 + (5 * f + 8 * e - d) / 12)


def expected_adaptive(models: Models, x: Float64, target: int, roots: int, steps: int) -> tuple[Float64, list[float]]:
    """Algorithm 1 for the twin, with AUTVC."""
    visited = []

    def at(sigma: float) -> tuple[Float64, float]:
        visited.append(sigma)
        found = expected_taylor(models, "fp32", x, target, sigma, roots)
        return found, expected_autvc(found.sum(axis=0))

    sigma, alpha, stops = float(np.abs(x).mean()), 0.0226, 0
    best, area = at(sigma)
    lowest = area
    for _ in range(steps):
        up, down = abs(sigma + alpha), abs(sigma - alpha)
        found, other = at(up)
        sigma_next = up
        if other > area:
            found, other = at(down)
            sigma_next = down
        if other > area:
            if stops == 3:
                break
            stops, alpha = stops + 1, 0.9 * alpha
        else:
            stops = 0
            if other < lowest:
                best, lowest = found, other
        sigma, area = sigma_next, other
    return best, visited


def test_adaptive_noising(
    trained: Models, exported: Exported, codes: Array, classes: Any, record_property: Any
) -> None:
    x, chosen = as_seen("fp32", codes / 255.0)[:2], classes["fp32"][:2]
    pairs = [expected_adaptive(trained, one, target, 12, 5) for one, target in zip(x, chosen, strict=True)]
    expected = np.stack([found for found, _ in pairs])
    for engine in ENGINES:
        opened, passed = counting(exported("fp32", engine))
        options: dict[str, Any] = {"roots": 12, "max_iteration": 5, "seed": 5}
        got = METHODS["adaptive_smooth_taylor"].function(opened, codes[:2], chosen, **options)
        check(got, expected, f"adaptive_smooth_taylor fp32 {engine}", record_property)
        assert passed["backward"] == 12 * sum(len(visited) for _, visited in pairs), "another way through the search"


@pytest.mark.parametrize("precision", ["fp32", "w4a4"])
def test_adaptive_noising_lowers_what_it_looks_at(
    precision: str, exported: Exported, held_out: Array, targets: Any, record_property: Any
) -> None:
    """Each objective against the fixed noise at which its search begins; the other metric is noted beside it.

    Paired over images, 95 % intervals. The gain over a fixed noise that suits the network better than mean|x| is
    another matter, which `examples/adaptive_noising.py` looks into.
    """
    opened, images = exported(precision, "native"), held_out[:6]
    chosen = targets[precision][:6].tolist()

    def areas(**options: Any) -> dict[str, Float64]:
        maps = METHODS["adaptive_smooth_taylor"].function(opened, images, chosen, roots=20, **options).sum(axis=1)
        return {"autvc": autvc(maps), "aupc": aupc(perturbation_curve(opened, images, chosen, maps).logits)}

    fixed = areas(max_iteration=0)
    for objective, steps in (("autvc", 12), ("aupc", 4)):
        adapted = areas(objective=objective, max_iteration=steps)
        changes = {metric: bootstrap_mean(adapted[metric] - fixed[metric]) for metric in fixed}
        record_property(f"change by {objective}", {name: (c.mean, c.low, c.high) for name, c in changes.items()})
        print(f"ERR adaptive {precision} {objective}: {changes}")
        assert changes[objective].high < 0, changes
        assert np.all(adapted[objective] <= fixed[objective] + 1e-6)  # the map is rounded to float32 in between


# Finite differences.


def pooled(maps: Array) -> Float64:
    """Mean over 4x4 patches, channels summed: (N, 7, 7)."""
    return np.asarray(maps.sum(axis=1).reshape(-1, 7, 4, 7, 4).mean(axis=(2, 4)), np.float64)


@pytest.mark.parametrize("precision", ALL)
def test_finite_differences_by_hand(
    precision: str, trained: Models, exported: Exported, codes: Array, classes: Any
) -> None:
    opened = exported(precision, "reference")
    step = {"fp32": 1 / 8, "w4a4": 1 / 4, "w2a4": 1 / 4, "w2a2": 1 / 2, "w1a1": 0.5**0.5}[precision]
    assert adaptive_step(opened.program) == pytest.approx(step)
    got = METHODS["finite_differences"].function(opened, codes[:1], classes[precision][:1])[0, 0]
    x = as_seen(precision, codes[:1] / 255.0)
    patch = np.zeros_like(x)
    patch[..., 8:12, 16:20] = 1.0
    both = as_seen(precision, np.concatenate([x + step * patch, x - step * patch]))
    scores = logits(trained, precision, both)[:, classes[precision][0]]
    expected = (scores[0] - scores[1]) / (both[0] - both[1]).sum()
    assert np.unique(got[8:12, 16:20]).size == 1
    assert got[8, 16] == pytest.approx(expected, rel=1e-4, abs=1e-7)


@pytest.mark.parametrize("precision", ALL)
def test_finite_differences_tend_to_smoothgrad_and_small_steps_do_not(
    precision: str, exported: Exported, held_out: Array, targets: Any, record_property: Any
) -> None:
    """Spearman with the network's own SmoothGrad-64, pooled to patches, mean over 24 images."""
    opened, images, chosen = exported(precision, "native"), held_out[:24], targets[precision][:24].tolist()
    smooth = METHODS["smoothgrad"].function(opened, images, chosen, nsamples=64)
    correlations = {}
    for step in (1 / 255, None):
        found = METHODS["finite_differences"].function(opened, images, chosen, step=step)
        correlations[step] = float(np.nanmean(spearman.batch(pooled(found), pooled(smooth))))
    record_property("Spearman with SmoothGrad, adaptive step and step 1/255", correlations)
    print(f"ERR finite differences {precision}: {correlations}")
    assert correlations[None] >= {"fp32": 0.8, "w4a4": 0.7, "w2a4": 0.7, "w2a2": 0.7, "w1a1": 0.6}[precision]
    if precision != "fp32":
        assert correlations[None] > correlations[1 / 255] + 0.3


# All of them.


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("precision", ALL)
def test_every_method_everywhere(
    precision: str, engine: str, name: str, exported: Exported, codes: Array, classes: dict[str, list[int]]
) -> None:
    opened, passed = counting(exported(precision, engine))
    method, options = METHODS[name], quick(name)
    looks_at_a_layer = "layer" in {option.name for option in method.options}
    if looks_at_a_layer:
        options = {**options, "layer": "act2"}  # the last map, right before a dense layer, is zero for many an image
    images, predicted = codes[:2], classes[precision][:2]
    others = [(target + 1) % 10 for target in predicted]
    maps = asked(
        opened,
        (not looks_at_a_layer or not method.needs_gradient or "act2" in offered_features(opened))
        and (name != GUIDED or opened.choices.guided),
        "asked was (that of act2|guided backprop)",
        lambda: method.function(opened, images, predicted, **options),
    )
    if maps is None:
        return
    stated = method.passes(opened.program, **options)
    if stated.at_most:
        assert 0 < passed["forward"] <= 2 * stated.forward
        assert 0 <= passed["backward"] <= 2 * stated.backward
    else:
        assert (passed["forward"], passed["backward"]) == (2 * stated.forward, 2 * stated.backward)
    assert method.needs_gradient == (passed["backward"] > 0)
    for found in (maps, method.function(opened, images, others, **options)):
        assert found.dtype == np.float32
        assert found.shape in {(2, 1, 28, 28), (2, *opened.program.image_type.shape)}
        assert np.isfinite(found).all()
        assert method.signed or (found >= 0).all()
    assert maps.any(axis=(1, 2, 3)).all(), "a map of zeros"
    assert not np.array_equal(maps[0], maps[1]), "two images, one map"
    assert not np.array_equal(maps, method.function(opened, images, others, **options)), "two classes, one map"


def test_the_check_can_fail() -> None:
    exact = np.random.default_rng(0).standard_normal((4, 1, 5, 5))
    wrong = exact.astype(np.float32)
    wrong[1:3] *= np.float32(1.0001)
    noted: list[object] = []
    check(wrong, exact, "two images off", lambda *said: noted.append(said), flips=2)
    assert len(noted) == 1
    with pytest.raises(AssertionError, match="off"):
        check(wrong, exact, "off", lambda *said: None, flips=1)
    wrong[0] *= np.float32(1.01)
    with pytest.raises(AssertionError, match="off"):
        check(wrong, exact, "off", lambda *said: None, flips=4)
