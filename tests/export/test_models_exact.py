"""Every registered network lowers and keeps what is promised: Brevitas' codes, ONNX Runtime's bits, autograd."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from brevitas_oracle import OracleRun, activation_scale, codes_of, run_brevitas
from onnx_folding import folded, optimised
from residual_oracle import FedRun, run_fed, run_with_hooks
from torch import nn
from traces import Trace, differences, feeds_of, onnx_trace, reference_trace

from bitlens.export.affine_form import affine_form, evaluate
from bitlens.export.bundle import write_bundle
from bitlens.export.hand_over import Samples
from bitlens.export.lowering import lower
from bitlens.export.onnx_writer import onnx_model
from bitlens.export.qonnx import qonnx_from_brevitas
from bitlens.runtime.autodiff import ACTIVATION_OPS, gradient_program
from bitlens.runtime.engines import one_hot, open_engine
from bitlens.runtime.errors import BitlensError
from bitlens.runtime.network import open_network
from bitlens.runtime.parity import relative_errors
from bitlens.runtime.program import Program
from bitlens.runtime.thresholds import Interval, channel_thresholds
from bitlens.runtime.type_check import infer_types
from bitlens.train.models import MODELS, build_model
from bitlens.train.quantizers import activation, learned_alphas

BOUND = 1e-5
CLASSES = 10
IMAGES = 8
LEVELS = ("ORT_DISABLE_ALL", "ORT_ENABLE_ALL")

MIXED_20 = ",".join(["w8a4", *["w4a4"] * 6, *["w2a1", "w1a1", "w4a2"] * 4, "w8a4"])
MIXED_18 = ",".join(["w8a1", *["w1a1"] * 5, *["w4a4", "w2a2"] * 5, "w2a8", "w8a8"])
MIXED_7 = "w8a4,w2a1,w4a2,w1a4,w2a8,w4a2,w8a4"


@dataclass(frozen=True)
class Case:
    name: str
    precision: str
    shape: tuple[int, int, int] = (3, 32, 32)
    width: int = 4

    def __str__(self) -> str:
        return f"{self.name}-{self.precision[:12]}-{self.shape[1]}x{self.shape[2]}"


WORDS = ("w1a1", "w2a2", "w2a4", "w4a4")
SIZES = {"vgg_small": (3, 32, 32), "resnet20": (3, 32, 32), "bireal_resnet18": (3, 64, 64)}
QUANTIZED = [Case(name, word, shape) for name, shape in SIZES.items() for word in WORDS] + [
    Case("vgg_small", MIXED_7, (1, 28, 45)),
    Case("resnet20", MIXED_20, (1, 19, 30)),
    Case("bireal_resnet18", MIXED_18, (3, 67, 74)),
]
TWINS = [Case(name, "fp32", shape) for name, shape in SIZES.items()]


def lively_model(case: Case, *, calibration: int = 16) -> nn.Module:
    """A network as if it were trained: statistics of its own data, slopes of both signs, offsets, alphas of its own.

    A fresh one has offset 0 and one alpha for all, where sums tie with the sign and averages with the rounding.
    """
    model = build_model(case.name, case.precision, case.shape, CLASSES, case.width, seed=3).train()
    generator = torch.Generator().manual_seed(1)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]

    def uniform(like: torch.Tensor, low: float, high: float) -> torch.Tensor:
        return low + (high - low) * torch.rand(like.shape, generator=generator)

    with torch.no_grad():
        for norm in norms:
            norm.momentum = None  # the plain mean of what it sees
            norm.weight.copy_(uniform(norm.weight, 0.6, 1.4))
            norm.weight[uniform(norm.weight, 0.0, 1.0) < 0.25] *= -1.0
            norm.bias.copy_(uniform(norm.bias, -0.5, 0.7))
        for alpha in learned_alphas(model).values():
            alpha.mul_(uniform(alpha, 0.7, 1.2))
        model(torch.rand((calibration, *case.shape), generator=generator))
        for norm in norms:
            assert norm.running_mean is not None
            assert norm.running_var is not None
            norm.running_mean += uniform(norm.running_mean, -0.3, 0.3) * norm.running_var.sqrt()
            norm.running_var *= uniform(norm.running_var, 0.7, 1.5)
    return model.eval()


@dataclass
class Lowered:
    """A network, its programs, and what the NumPy reference computes."""

    model: nn.Module
    program: Program
    gradient: Program
    images: npt.NDArray[np.int64]
    seed: npt.NDArray[np.float32]
    trace: Trace

    @property
    def x(self) -> npt.NDArray[np.floating]:
        """What the oracle is fed: code / 255, for a twin the float32 that its program reads."""
        return (self.images / 255.0).astype(np.float32) if self.program.is_full_precision else self.images / 255.0


def lowered_model(case: Case, count: int = IMAGES, *, model: nn.Module | None = None) -> Lowered:
    model = lively_model(case) if model is None else model
    program = lower(qonnx_from_brevitas(model, case.shape))
    gradient = gradient_program(program)
    images = np.random.default_rng(4).integers(0, 256, (count, *case.shape))
    seed = one_hot(np.arange(count) % CLASSES, CLASSES)
    feeds = feeds_of(gradient, images, seed)
    types = infer_types(gradient)
    # Real values too: residual sums, which the oracle is fed.
    sums = [node.outputs[0] for node in gradient.nodes if node.op == "add" and ".sum" in node.name]
    wanted = replace(gradient, outputs=tuple(dict.fromkeys([*gradient.outputs, *sums])))
    assert all(types[name].dtype == "float32" for name in sums)
    return Lowered(model, program, gradient, images, seed, reference_trace(wanted, feeds))


@cache
def lowered(case: Case) -> Lowered:
    return lowered_model(case)


@cache
def oracle(case: Case) -> OracleRun:
    net = lowered(case)
    return run_with_hooks(net.model, net.x, net.seed)


def quantizers(program: Program) -> list[str]:
    return [node.name for node in program.nodes if node.op == "threshold"]


def check_layers(net: Lowered, record: Callable[[str, object], None]) -> FedRun:
    """Every layer, fed the program's own numbers, gives the program's codes and masks in Brevitas' float64."""
    run = run_fed(net.model, net.x, net.trace)
    names = quantizers(net.program)
    assert set(names) == set(run.codes) == set(run.masks)
    compared, real = 0, 0
    types = infer_types(net.program)
    for name in names:
        codes, mask = net.trace[name], net.trace[f"{name}.ste_mask"]
        assert codes.shape == run.codes[name].shape
        assert int((codes != run.codes[name]).sum()) == 0, f"codes of {name}"
        assert int((mask != run.masks[name]).sum()) == 0, f"mask of {name}"
        compared += codes.size + mask.size
        real += codes.size if not types[net.program.node(name).inputs[0]].is_integer else 0
    assert all(error <= 1.0 for error in run.sum_errors.values()), run.sum_errors
    logits = net.trace["logits"]
    assert np.abs(logits - run.logits).max() <= 8 * np.finfo(np.float32).eps * np.abs(run.logits).max()
    record("codes and mask bits compared", compared)
    record("codes of real values", real)
    return run


@pytest.mark.parametrize("case", QUANTIZED, ids=str)
def test_each_layer_fed_the_same_numbers_gives_brevitas_codes_and_masks(
    case: Case, record_property: Callable[[str, object], None]
) -> None:
    net = lowered(case)
    run = check_layers(net, record_property)
    # Not vacuous: every layer has several codes, and masks are neither all set nor all clear.
    assert min(len(np.unique(codes)) for codes in run.codes.values()) >= 2
    passing = np.array([mask.mean() for mask in run.masks.values()])
    assert passing.min() > 0.05
    assert np.median(passing) < 0.999
    assert bool(run.sum_errors) == (case.name != "vgg_small")
    if run.sum_errors:  # rounding really happens; the bound is no wide one
        assert max(run.sum_errors.values()) > 0.1


def test_a_code_that_is_one_off_is_seen() -> None:
    case = Case("bireal_resnet18", "w2a2", (3, 64, 64))
    for name in ("block2.act1", "block3.shortcut.act", "act1"):
        net = lowered(case)
        codes = net.trace[name].copy()
        codes[0, 0, 0, 0] += 1 if codes[0, 0, 0, 0] == 0 else -1
        with pytest.raises(AssertionError, match=f"codes of {name}"):
            check_layers(replace(net, trace={**net.trace, name: codes}), lambda *_: None)
    sums = net.trace["block2.sum1"].copy()
    sums[0, 0, 0, 0] *= np.float32(1.0 + 2.0**-18)
    with pytest.raises(AssertionError):
        check_layers(replace(net, trace={**net.trace, "block2.sum1": sums}), lambda *_: None)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_a_real_value_exactly_between_two_codes_goes_where_brevitas_puts_it(bits: int) -> None:
    """A float32 can lie on a tie, alpha / 2 for one; there y / scale and the boundary * scale are rounded apart."""
    random = np.random.default_rng(bits)
    codes = np.arange(1, 2**bits, dtype=np.float64)
    ties = 0
    for _ in range(60):
        module = activation(bits, alpha=float(np.float32(random.uniform(0.5, 9.0)))).double().eval()
        scale = activation_scale(module)
        thresholds, direction = channel_thresholds(
            np.ones(1), np.zeros(1), codes - 0.5, codes % 2 == 0, rectified=True, is_float=True, scale=scale
        )
        near = ((codes - 0.5) * scale).astype(np.float32)
        values = np.concatenate([near, np.nextafter(near, np.float32(9)), np.nextafter(near, np.float32(-9))])
        ties += int(np.isin(values / scale, codes - 0.5).sum())
        expected = codes_of(module, module(torch.tensor(values, dtype=torch.float64)), scale)
        assert np.array_equal((values[:, None] >= thresholds[0]).sum(axis=1), expected)
        reach = float(np.finfo(np.float32).max)
        spacing = np.array([scale])
        form = affine_form(thresholds, direction, spacing, -reach, reach, np.float64, is_float=True)
        assert form is not None
        assert np.array_equal(
            evaluate(form.scaling, values, form.constant[0], form.shift[0], form.low, form.high), expected
        )
    assert ties > 0


def test_hooks_see_what_the_flat_oracle_sees() -> None:
    case = Case("vgg_small", "w2a4")
    net, hooked = lowered(case), oracle(case)
    assert isinstance(net.model, nn.Sequential)
    flat = run_brevitas(net.model, net.x, net.seed)
    assert np.array_equal(hooked.logits, flat.logits)
    assert np.array_equal(hooked.input_gradient, flat.input_gradient)
    for part in ("codes", "masks", "pool_indices"):
        own, other = getattr(hooked, part), getattr(flat, part)
        assert own.keys() == other.keys()
        assert all(np.array_equal(own[name], other[name]) for name in own)


@pytest.mark.parametrize("optimization", LEVELS)
@pytest.mark.parametrize("case", QUANTIZED, ids=str)
def test_onnx_runtime_is_equal_and_nothing_is_folded(case: Case, optimization: str, tmp_path: Path) -> None:
    check_onnx(lowered(case), optimization, tmp_path)


def check_onnx(net: Lowered, optimization: str, folder: Path) -> None:
    forward = onnx_trace(net.program, feeds_of(net.program, net.images), optimization)
    assert set(forward) >= {"logits", "logit_accumulators", *quantizers(net.program)}
    assert differences(forward, {name: net.trace[name] for name in forward}) == {}
    gradient = onnx_trace(net.gradient, feeds_of(net.gradient, net.images, net.seed), optimization)
    assert differences(gradient, {name: net.trace[name] for name in gradient}) == {}
    assert relative_errors(gradient["input_gradient"], net.trace["input_gradient"]).max() <= BOUND
    assert folded(optimised(onnx_model(net.program), optimization, folder / "forward"), {"logits"}) == []
    exact = {"logits", *quantizers(net.program)}
    assert folded(optimised(onnx_model(net.gradient), optimization, folder / "gradient"), exact) == []


@pytest.mark.parametrize("case", TWINS, ids=str)
def test_onnx_runtime_computes_the_twin_to_rounding(case: Case) -> None:
    net = lowered(case)
    got = onnx_trace(net.gradient, feeds_of(net.gradient, net.images, net.seed))
    assert relative_errors(got["logits"], net.trace["logits"]).max() <= BOUND


def excluded(net: Lowered, run: OracleRun) -> npt.NDArray[np.bool_]:
    """Images in which a code, a mask bit or a pool index differs: their gradients go another way."""
    different = np.zeros(len(net.images), bool)
    pairs = [(net.trace[f"{name}.index"], indices) for name, indices in run.pool_indices.items()]
    for name in run.codes:
        pairs += [(net.trace[name], run.codes[name]), (net.trace[f"{name}.ste_mask"], run.masks[name])]
    if net.program.is_full_precision:
        pairs += [(net.trace[name] > 0, values > 0) for name, values in run.values.items()]
    for got, expected in pairs:
        assert got.shape == expected.shape
        different |= (got != expected).reshape(len(different), -1).any(axis=1)
    return different


@pytest.mark.parametrize("case", [*QUANTIZED, *TWINS], ids=str)
def test_gradients_equal_autograd(case: Case, record_property: Callable[[str, object], None]) -> None:
    net, run = lowered(case), oracle(case)
    left_out = excluded(net, run)
    record_property("images left out", int(left_out.sum()))
    assert left_out.sum() <= 1, f"{left_out.sum()} of {IMAGES} images have a differing code, mask or pool index"
    kept = ~left_out
    errors = {"x": relative_errors(net.trace["input_gradient"][kept], run.input_gradient[kept]).max()}
    features = [node.outputs[0] for node in net.program.nodes if node.op in ACTIVATION_OPS]
    assert set(features) == set(run.gradients)
    for name in features:
        if f"{name}.gradient" in net.trace:
            errors[name] = relative_errors(net.trace[f"{name}.gradient"][kept], run.gradients[name][kept]).max()
    record_property("largest relative error", float(max(errors.values())))
    print(f"{case}: {left_out.sum()} images left out, largest gradient error {max(errors.values()):.1e}")
    assert max(errors.values()) <= BOUND, errors
    assert np.abs(run.input_gradient[kept]).max() > 0


@pytest.mark.parametrize(
    "case", [Case("bireal_resnet18", "w1a1", (3, 64, 64)), Case("resnet20", MIXED_20, (1, 19, 30))], ids=str
)
def test_gradient_at_the_programs_own_numbers_equals_autograd(case: Case) -> None:
    """Nothing is left out here: codes and sums are the program's, and only the way back is PyTorch's."""
    net = lowered(case)
    run = run_fed(net.model, net.x, net.trace, net.seed)
    assert relative_errors(net.trace["input_gradient"], run.input_gradient).max() <= BOUND


def test_another_gradient_is_seen() -> None:
    case = Case("resnet20", "w1a1")
    net, run = lowered(case), oracle(case)
    assert relative_errors(net.trace["input_gradient"] * np.float32(1.0001), run.input_gradient).max() > BOUND
    wrong = {**net.trace, "block4.act1.ste_mask": ~net.trace["block4.act1.ste_mask"]}
    assert excluded(replace(net, trace=wrong), run).all()


@pytest.mark.parametrize("name", sorted(SIZES))
def test_real_valued_places_are_where_they_should_be(name: str) -> None:
    """Quantizers between layers, float32 sums at the shortcuts, an integer sum at every average."""
    case = Case(name, "w1a1", SIZES[name])
    program = lowered(case).program
    types = infer_types(program)
    for node in program.nodes:
        if node.op in ("conv2d", "dense", "sum_pool"):
            assert types[node.inputs[0]].is_integer
    sums = [node for node in program.nodes if node.op == "add"]
    assert len(sums) == {"vgg_small": 0, "resnet20": 18, "bireal_resnet18": 16}[name]


def test_a_network_too_wide_for_exact_sums_is_refused_with_its_layer() -> None:
    model = build_model("vgg_small", "w8a8", (1, 8, 8), CLASSES, 64)
    with pytest.raises(BitlensError, match=r"node '/conv6/Conv' \(Conv\): the sum can reach \d+, expected below"):
        lower(qonnx_from_brevitas(model, (1, 8, 8)))


def samples_of(net: Lowered, logits: npt.NDArray[np.float64]) -> Samples:
    return Samples(net.images.astype(np.uint8), np.arange(len(net.images)) % CLASSES, logits)


@pytest.mark.parametrize("case", [*TWINS, *(Case(name, "w1a1", shape) for name, shape in SIZES.items())], ids=str)
def test_exported_networks_agree_with_the_trained_logits_and_on_every_engine(case: Case, tmp_path: Path) -> None:
    net, trained = lowered(case), oracle(case).logits
    written = write_bundle(tmp_path / "net.bitlens", net.program, samples=samples_of(net, trained))
    assert written.logit_error is not None
    assert written.logit_error < BOUND
    other_images = np.roll(trained, 1, axis=0)
    with pytest.raises(BitlensError, match="logits differ from the trained model's"):
        write_bundle(tmp_path / "wrong.bitlens", net.program, samples=samples_of(net, other_images))
    # A code that falls on the other side of a threshold in float32 is no wrong export where sums are real.
    flipped = trained.copy()
    flipped[0] += 0.01 * np.abs(trained).max()
    if case.precision == "w1a1" and case.name != "vgg_small":
        write_bundle(tmp_path / "flipped.bitlens", net.program, samples=samples_of(net, flipped))
    else:
        with pytest.raises(BitlensError, match="logits differ from the trained model's"):
            write_bundle(tmp_path / "flipped.bitlens", net.program, samples=samples_of(net, flipped))
    if case.precision != "fp32":  # a window chosen at run time, on float32 sums too
        network = open_network(tmp_path / "net.bitlens", trust=True)
        windows = dict.fromkeys(quantizers(net.program), Interval(-2.0, 2.0, True, False))
        images = net.images[:3].astype(np.uint8)
        native, onnx, expected = (
            open_engine(network, name).traced_gradient(images, net.seed[:3], windows=windows)
            for name in ("native", "onnxruntime", "reference")
        )
        for got in (native, onnx):
            assert all(np.array_equal(got.codes[name], codes) for name, codes in expected.codes.items())
            assert all(np.array_equal(got.masks[name], mask) for name, mask in expected.masks.items())
            assert relative_errors(got.input_gradient, expected.input_gradient).max() <= BOUND
        assert any((mask != net.trace[f"{name}.ste_mask"][:3]).any() for name, mask in expected.masks.items())
        fixed, plain = (  # TFLite's windows are those of training
            open_engine(network, name).traced_gradient(images, net.seed[:3]) for name in ("tflite", "reference")
        )
        assert all(np.array_equal(fixed.codes[name], codes) for name, codes in plain.codes.items())
        assert all(np.array_equal(fixed.masks[name], mask) for name, mask in plain.masks.items())
        assert np.array_equal(fixed.logits, plain.logits)
        assert relative_errors(fixed.input_gradient, plain.input_gradient).max() <= BOUND


FULL_SIZE = [
    Case("vgg_small", "w2a2", (3, 32, 32), 128),
    Case("resnet20", "w1a1", (3, 32, 32), 16),
    Case("bireal_resnet18", "w1a1", (3, 224, 224), 64),
]


@pytest.mark.long
@pytest.mark.parametrize("case", FULL_SIZE, ids=str)
def test_full_width(case: Case, tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    assert case.width == MODELS[case.name].width
    start = time.perf_counter()
    net = lowered_model(case, 1, model=lively_model(case, calibration=2))
    record_property("seconds to lower and run the reference", round(time.perf_counter() - start, 1))
    check_layers(net, record_property)
    check_onnx(net, "ORT_ENABLE_ALL", tmp_path)
    fed = run_fed(net.model, net.x, net.trace, net.seed)
    assert relative_errors(net.trace["input_gradient"], fed.input_gradient).max() <= BOUND
    seconds = time.perf_counter() - start
    record_property("seconds in all", round(seconds, 1))
    run = run_with_hooks(net.model, net.x, net.seed)
    codes = sum(int((net.trace[name] != run.codes[name]).sum()) for name in run.codes)
    total = sum(codes.size for codes in run.codes.values())
    print(f"{case}: {codes} of {total} codes differ end to end from sums in float64, {seconds:.1f} s")
