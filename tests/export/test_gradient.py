"""The gradient of a program against torch.autograd on the Brevitas model, and GradCAM against Captum on the twin."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from brevitas_oracle import OracleRun, run_brevitas
from captum.attr import GuidedBackprop, LayerGradCam, Saliency
from engine_choices import asked, offered_features
from network_in_memory import network_in_memory
from torch import Tensor, nn
from torch.nn import functional
from traces import Trace, feeds_of, onnx_trace

from bitlens.export.bundle import write_bundle
from bitlens.runtime.autodiff import gradient_name
from bitlens.runtime.engines import Engine, Gradient, one_hot, open_engine, trained_window
from bitlens.runtime.gradient_likeness import cosines, magnitude_spearmans
from bitlens.runtime.methods.grad_cam import grad_cam, grad_cam_map
from bitlens.runtime.methods.gradient import gradient
from bitlens.runtime.network import open_network
from bitlens.runtime.parity import INT8_COSINE, INT8_SPEARMAN, relative_errors
from bitlens.runtime.program import Array, Program
from bitlens.runtime.thresholds import Interval

QUANTIZED = ("w4a4", "w2a4", "w2a2", "w1a1")
ALL = ("fp32", *QUANTIZED)
ENGINES = ("reference", "onnxruntime", "native", "tflite")
LAYERS = ("act1", "act2", "act3")
POOLS = ("pool1", "pool2")
BOUND = 1e-5
ACCEPTED_EXCLUSIONS = 0.01
ACCEPTED_RESTS = 0.02  # images of the twin in which a ReLU leaves little of sums that cancel


def excluded(run: OracleRun, reference: Trace) -> npt.NDArray[np.bool_]:
    """Images in which some code, mask bit or pool index differs: their gradients go another way."""
    different = np.zeros(len(run.logits), bool)
    for layer in LAYERS:
        if layer in run.codes:
            pairs = [(reference[layer], run.codes[layer]), (reference[f"{layer}.ste_mask"], run.masks[layer])]
        else:
            pairs = [(reference[layer] > 0, run.values[layer] > 0)]
        for got, expected in pairs:
            different |= (got != expected).any(axis=(1, 2, 3))
    for pool in POOLS:
        different |= (reference[f"{pool}.index"] != run.pool_indices[pool]).any(axis=(1, 2, 3))
    return different


def checked_errors(got: Array, expected: Array, left_out: npt.NDArray[np.bool_]) -> float:
    """Largest relative error of the images that count; few may be left out."""
    assert left_out.sum() <= ACCEPTED_EXCLUSIONS * len(left_out), f"{left_out.sum()} images left out"
    error = float(relative_errors(got[~left_out], expected[~left_out]).max())
    assert error <= BOUND, f"relative error {error:.1e}"
    return error


@pytest.fixture(scope="module")
def engine_traces(
    programs: dict[str, Program],
    gradients: dict[str, Program],
    references: dict[str, Trace],
    held_out: npt.NDArray[np.uint8],
    targets: dict[str, npt.NDArray[np.int64]],
) -> dict[tuple[str, str], Trace]:
    traces = {("reference", precision): trace for precision, trace in references.items()}
    for precision, program in gradients.items():
        feeds = feeds_of(program, held_out, one_hot(targets[precision], 10))
        traces["onnxruntime", precision] = onnx_trace(program, feeds)
        network = network_in_memory(programs[precision])
        for engine in (open_engine(network, name) for name in ("native", "tflite")):
            outputs = ["input_gradient", *(gradient_name(layer) for layer in offered_features(engine))]
            traces[engine.info.name, precision] = engine.run_gradient(feeds, outputs)
    return traces


@pytest.fixture(scope="module")
def exported(programs: dict[str, Program], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Engine]:
    """Opens an exported network, files and all."""
    root = tmp_path_factory.mktemp("exported")

    def opened(precision: str, engine: str) -> Engine:
        path: Path = root / f"{precision}.bitlens"
        if not path.exists():
            write_bundle(path, programs[precision])
        return open_engine(open_network(path, trust=True), engine)

    return opened


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("precision", ALL)
def test_input_and_feature_gradients_equal_autograd(
    precision: str,
    engine: str,
    engine_traces: dict[tuple[str, str], Trace],
    references: dict[str, Trace],
    oracles: dict[str, OracleRun],
    record_property: Callable[[str, object], None],
) -> None:
    run, got = oracles[precision], engine_traces[engine, precision]
    left_out = excluded(run, references[precision])
    errors = {"x": checked_errors(got["input_gradient"], run.input_gradient, left_out)}
    layers = LAYERS[-1:] if engine == "tflite" else LAYERS
    for layer in layers:
        errors[layer] = checked_errors(got[f"{layer}.gradient"], run.gradients[layer], left_out)
    record_property("images left out", int(left_out.sum()))
    record_property("largest relative errors", errors)
    print(f"{engine} {precision}: {left_out.sum()} images left out, gradient errors {errors}")


@pytest.mark.parametrize("precision", QUANTIZED)
def test_gradients_in_bytes_are_near_autograds(
    precision: str,
    exported: Callable[[str, str], Engine],
    references: dict[str, Trace],
    oracles: dict[str, OracleRun],
    held_out: npt.NDArray[np.uint8],
    targets: dict[str, npt.NDArray[np.int64]],
    record_property: Callable[[str, object], None],
) -> None:
    run, reference, engine = oracles[precision], references[precision], exported(precision, "native-int8")
    seed = one_hot(targets[precision], 10)
    got = engine.traced_gradient(held_out, seed)
    for layer in LAYERS:
        assert np.array_equal(got.codes[layer], reference[layer])
        assert np.array_equal(got.masks[layer], reference[f"{layer}.ste_mask"])
    assert np.array_equal(got.logits, reference["logits"])
    assert np.array_equal(engine.accumulators(held_out), reference[engine.program.outputs[-1]])
    counted = ~excluded(run, reference)
    assert counted.mean() >= 1 - ACCEPTED_EXCLUSIONS
    near = [measure(got.input_gradient, run.input_gradient)[counted] for measure in (cosines, magnitude_spearmans)]
    record_property("smallest and mean cosine, Spearman", [(each.min(), each.mean()) for each in near])
    print(f"native-int8 {precision}: smallest cosine {near[0].min():.6f}, Spearman {near[1].min():.5f}")
    assert near[0].min() >= INT8_COSINE
    assert near[1].mean() >= INT8_SPEARMAN
    assert relative_errors(got.input_gradient, run.input_gradient).min() > BOUND  # it is another gradient


def with_pytorchs_own_pools(model: nn.Sequential) -> nn.Sequential:
    plain = copy.deepcopy(model)
    for name in POOLS:
        plain.set_submodule(name, nn.MaxPool2d(2))
    return plain


@pytest.mark.parametrize("precision", QUANTIZED)
def test_ties_that_pytorchs_own_pool_breaks_by_rounding_errors_are_counted(
    precision: str,
    trained: dict[str, nn.Sequential],
    references: dict[str, Trace],
    held_out: npt.NDArray[np.uint8],
    targets: dict[str, npt.NDArray[np.int64]],
    record_property: Callable[[str, object], None],
) -> None:
    """Why the models have a pool of their own: with PyTorch's, hardly an image has all its winners in common.

    Equal integer sums come out of a float convolution a rounding error apart, and `nn.MaxPool2d` takes the larger
    error. Such images are counted here; everything else about them is equal, which shows that the winner alone makes
    their gradients differ.
    """
    plain = with_pytorchs_own_pools(trained[precision])
    run = run_brevitas(plain, held_out / 255.0, one_hot(targets[precision], 10))
    reference = references[precision]
    windows = {pool: reference[f"{pool}.index"] != run.pool_indices[pool] for pool in POOLS}
    other_winner = np.any([differing.any(axis=(1, 2, 3)) for differing in windows.values()], axis=0)
    counted = {"images": int(other_winner.sum()), "windows": sum(int(part.sum()) for part in windows.values())}
    record_property("another winner with PyTorch's own pool", counted)
    print(f"{precision}: another winner with PyTorch's own pool: {counted}")
    assert np.array_equal(excluded(run, reference), other_winner)
    assert np.all(relative_errors(reference["input_gradient"], run.input_gradient)[~other_winner] <= BOUND)


def test_left_out_images_are_found_and_bounded(references: dict[str, Trace], oracles: dict[str, OracleRun]) -> None:
    reference = references["w2a2"]
    for name in ("act2", "act2.ste_mask", "pool1.index"):
        wrong = dict(reference)
        wrong[name] = reference[name].copy()
        wrong[name][[3, 5], 0, 1, 1] = ~wrong[name][[3, 5], 0, 1, 1] if name.endswith("mask") else 99
        assert np.flatnonzero(excluded(oracles["w2a2"], wrong)).tolist() == [3, 5]
    run = oracles["w2a2"]
    some = np.arange(397) < 4
    with pytest.raises(AssertionError, match="4 images left out"):
        checked_errors(reference["input_gradient"], run.input_gradient, some)
    with pytest.raises(AssertionError, match="relative error"):
        checked_errors(reference["input_gradient"] * np.float32(1.0001), run.input_gradient, some & False)


def weighed_maps(run: OracleRun, layer: str) -> Tensor:
    """GradCAM before its ReLU, in torch from autograd's gradient: (N, 1, h, w)."""
    values, slopes = torch.tensor(run.values[layer]), torch.tensor(run.gradients[layer])
    return (slopes.mean(dim=(2, 3), keepdim=True) * values).sum(dim=1, keepdim=True)


def cam_errors(got: Array, expected: Array, weighed: Tensor) -> npt.NDArray[np.float64]:
    """Largest error of each image, relative to the largest weighed sum before the ReLU.

    What the ReLU leaves can be a small rest of sums that cancel: relative to that alone, the twin's float32 maps are
    no better than the rest of the sum allows.
    """
    size = weighed.detach().abs().amax(dim=(1, 2, 3)).numpy()
    return np.asarray(np.abs(got - expected).max(axis=(1, 2, 3)) / size)


@pytest.mark.parametrize("layer", ["act2", "act3"])
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("precision", ALL)
def test_grad_cam_equals_autograd(
    precision: str,
    engine: str,
    layer: str,
    exported: Callable[[str, str], Engine],
    references: dict[str, Trace],
    oracles: dict[str, OracleRun],
    held_out: npt.NDArray[np.uint8],
    targets: dict[str, npt.NDArray[np.int64]],
    record_property: Callable[[str, object], None],
) -> None:
    run = oracles[precision]
    opened = exported(precision, engine)
    got = asked(
        opened,
        layer in offered_features(opened),
        f"asked was that of {layer}",
        lambda: grad_cam(opened, held_out, targets[precision], layer=layer),
    )
    if got is None:
        return
    weighed = weighed_maps(run, layer)
    expected = functional.interpolate(weighed.relu(), size=(28, 28), mode="bilinear", align_corners=False).numpy()
    assert got.shape == (397, 1, 28, 28)
    left_out = excluded(run, references[precision])
    assert left_out.sum() <= ACCEPTED_EXCLUSIONS * len(left_out)
    assert cam_errors(got, expected, weighed)[~left_out].max() <= BOUND
    record_property("images above 1e-5 of the map after the ReLU", int((relative_errors(got, expected) > BOUND).sum()))
    if precision != "fp32":  # codes are exact, so nothing is lost where they cancel
        checked_errors(got, expected, left_out)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("layer", LAYERS)
def test_grad_cam_on_the_twin_equals_captum(
    layer: str,
    engine: str,
    trained: dict[str, nn.Sequential],
    exported: Callable[[str, str], Engine],
    held_out: npt.NDArray[np.uint8],
    targets: dict[str, npt.NDArray[np.int64]],
) -> None:
    model, image = captum_twin(trained, held_out)
    target = torch.tensor(targets["fp32"])
    captum = LayerGradCam(model, model.get_submodule(layer))
    expected = captum.attribute(image, target, relu_attributions=True).detach()
    weighed = captum.attribute(image, target, relu_attributions=False)
    opened = exported("fp32", engine)
    result = asked(
        opened,
        layer in offered_features(opened),
        f"asked was that of {layer}",
        lambda: opened.gradient(held_out, one_hot(targets["fp32"], 10), features=(layer,)),
    )
    if result is None:
        return
    own = grad_cam_map(result.features[layer])
    assert own.shape == tuple(expected.shape)
    assert cam_errors(own, expected.numpy(), weighed).max() <= BOUND
    large = functional.interpolate(expected, size=(28, 28), mode="bilinear", align_corners=False).numpy()
    resized = grad_cam(opened, held_out, targets["fp32"], layer=layer)
    assert cam_errors(resized, large, weighed).max() <= BOUND
    above = int((relative_errors(own, expected.numpy()) > BOUND).sum())
    print(f"{engine} {layer}: {above} images above 1e-5 of what the ReLU leaves")
    assert above <= ACCEPTED_RESTS * len(own)


@pytest.mark.parametrize("engine", ENGINES)
def test_gradient_and_guided_backprop_on_the_twin_equal_captum(
    engine: str,
    trained: dict[str, nn.Sequential],
    exported: Callable[[str, str], Engine],
    references: dict[str, Trace],
    oracles: dict[str, OracleRun],
    held_out: npt.NDArray[np.uint8],
    targets: dict[str, npt.NDArray[np.int64]],
) -> None:
    model, image = captum_twin(trained, held_out)
    target = torch.tensor(targets["fp32"])
    # A float32 sum may fall on the other side of a ReLU's 0, or make another value the largest of a pool.
    left_out = excluded(oracles["fp32"], references["fp32"])
    opened = exported("fp32", engine)
    plain = Saliency(model).attribute(image, target, abs=False).detach().numpy()
    checked_errors(gradient(opened, held_out, targets["fp32"]), plain, left_out)
    with pytest.warns(UserWarning, match="Setting backward hooks on ReLU"):
        guided = GuidedBackprop(model).attribute(image, target).detach().numpy()
    got = asked(
        opened,
        opened.choices.guided,
        "asked was guided backprop",
        lambda: opened.gradient(held_out, one_hot(targets["fp32"], 10), guided=True),
    )
    if got is not None:
        checked_errors(got.input_gradient, guided, left_out)
    assert relative_errors(guided, plain).min() > 0.1


def captum_twin(trained: dict[str, nn.Sequential], held_out: npt.NDArray[np.uint8]) -> tuple[nn.Sequential, Tensor]:
    """The twin in float64, and the images as the program reads them."""
    model = copy.deepcopy(trained["fp32"]).double().eval()
    return model, torch.tensor((held_out / 255.0).astype(np.float32), dtype=torch.float64, requires_grad=True)


class OtherSurrogate(nn.Module):
    """A trained quantizer with another straight-through gradient: passes inside an interval, guided or not."""

    def __init__(self, trained: nn.Module, interval: Interval, *, guided: bool) -> None:
        super().__init__()
        self.surrogate = trained.surrogate
        self.act_quant = trained.act_quant
        if self.surrogate == "pact":
            self.alpha = trained.alpha
        self.trained = trained
        self.interval = interval
        self.guided = guided

    def forward(self, y: Tensor) -> Tensor:
        low, high = self.interval.low, self.interval.high
        inside = ((y > low) | ((y == low) & self.interval.low_closed)) & (
            (y < high) | ((y == high) & self.interval.high_closed)
        )
        passing = torch.where(inside, y, y.detach())
        result = passing + (self.trained(y) - passing).detach()
        if self.guided and result.requires_grad:
            result.register_hook(lambda arriving: arriving.clamp(min=0.0))
        assert isinstance(result, Tensor)
        return result


def oracle_with(
    model: nn.Sequential, intervals: dict[str, Interval], guided: bool, image: Array, seed: Array
) -> OracleRun:
    changed = copy.deepcopy(model).double().eval()
    for name in LAYERS:
        own: Any = changed.get_submodule(name)
        kind = (
            Interval(-1.0, 1.0, True, True)
            if own.surrogate == "hardtanh"
            else Interval(0.0, float(own.alpha()), False, False)
        )
        setattr(changed, name, OtherSurrogate(own, intervals.get(name, kind), guided=guided))
    return run_brevitas(changed, image, seed)


IMAGES = slice(0, 60)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("guided", [False, True])
@pytest.mark.parametrize("precision", QUANTIZED)
def test_windows_and_the_guided_rule_equal_autograd_with_them(
    precision: str,
    guided: bool,
    engine: str,
    trained: dict[str, nn.Sequential],
    exported: Callable[[str, str], Engine],
    references: dict[str, Trace],
    held_out: npt.NDArray[np.uint8],
    targets: dict[str, npt.NDArray[np.int64]],
) -> None:
    opened = exported(precision, engine)
    images, seed = held_out[IMAGES], one_hot(targets[precision][IMAGES], 10)
    own = trained_window(opened.program, "act2")
    width = own.high - own.low
    windows = {
        "act1": Interval(-2.0, 2.0, True, True),
        "act2": Interval(own.low - 0.5 * width, own.high + 0.5 * width, False, True),
        "act3": Interval(-0.25, 0.5 * own.high, True, False),
    }
    got = asked(
        opened,
        opened.choices.windows and (opened.choices.guided or not guided),
        "asked was (another window of act1|guided backprop)",
        lambda: opened.traced_gradient(images, seed, windows=windows, guided=guided),
    )
    if got is None:
        return
    run = oracle_with(trained[precision], windows, guided, images / 255.0, seed)
    assert relative_errors(got.input_gradient, run.input_gradient).max() <= BOUND
    for layer in LAYERS:
        assert np.array_equal(got.codes[layer], run.codes[layer])
    # A changed window really changes the gradient; the trained ones given as windows give the trained gradient.
    plain = references[precision]["input_gradient"][IMAGES]
    assert relative_errors(got.input_gradient, plain).min() > 1e-3
    same = {layer: trained_window(opened.program, layer) for layer in LAYERS}
    assert relative_errors(opened.gradient(images, seed, windows=same).input_gradient, plain).max() <= BOUND


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("precision", QUANTIZED)
def test_guided_backprop_equals_autograd(
    precision: str,
    engine: str,
    trained: dict[str, nn.Sequential],
    exported: Callable[[str, str], Engine],
    held_out: npt.NDArray[np.uint8],
    targets: dict[str, npt.NDArray[np.int64]],
) -> None:
    images, seed = held_out[IMAGES], one_hot(targets[precision][IMAGES], 10)
    opened = exported(precision, engine)
    got = asked(
        opened,
        opened.choices.guided,
        "asked was guided backprop",
        lambda: opened.traced_gradient(images, seed, guided=True),
    )
    if got is None:
        return
    run = oracle_with(trained[precision], {}, True, images / 255.0, seed)
    assert relative_errors(got.input_gradient, run.input_gradient).max() <= BOUND
    for layer in LAYERS:
        assert np.array_equal(got.masks[layer], run.masks[layer])


def maps_of(engine: Engine, images: Array, classes: list[int]) -> tuple[Array, ...]:
    # The last map, right before a dense layer, is zero for many an image.
    layers = [layer for layer in ("act2",) if layer in offered_features(engine)]
    cams = (grad_cam(engine, images, classes, layer=layer) for layer in layers)
    return (gradient(engine, images, classes), *cams)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("precision", ALL)
def test_another_image_or_class_gives_another_map(
    precision: str, engine: str, exported: Callable[[str, str], Engine], held_out: npt.NDArray[np.uint8]
) -> None:
    opened = exported(precision, engine)
    first = maps_of(opened, held_out[:1], [3])
    other_image = maps_of(opened, held_out[1:2], [3])
    other_class = maps_of(opened, held_out[:1], [8])
    for one, image, label in zip(first, other_image, other_class, strict=True):
        assert np.abs(one).max() > 0
        assert relative_errors(image, one).min() > 0.01
        assert relative_errors(label, one).min() > 0.01
    # And the same again is the same, alone or beside another image.
    together = maps_of(opened, held_out[:2], [3, 3])
    for one, both in zip(first, together, strict=True):
        assert relative_errors(both[:1], one).max() <= BOUND
    again = maps_of(opened, held_out[:1], [3])
    assert all(np.array_equal(one, two) for one, two in zip(first, again, strict=True))


def test_a_seed_weighs_several_classes(
    exported: Callable[[str, str], Engine],
    trained: dict[str, nn.Sequential],
    held_out: npt.NDArray[np.uint8],
) -> None:
    random = np.random.default_rng(4)
    seed = random.normal(size=(12, 10)).astype(np.float32)
    run = run_brevitas(trained["w2a4"], held_out[:12] / 255.0, seed)
    results: list[Gradient] = [exported("w2a4", name).gradient(held_out[:12], seed) for name in ENGINES]
    for result in results:
        assert relative_errors(result.input_gradient, run.input_gradient).max() <= BOUND
