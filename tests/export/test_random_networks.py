"""Networks drawn at random go Brevitas -> QONNX -> program -> ONNX and TFLite, and every joint agrees with Brevitas."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import brevitas.nn as qnn
import numpy as np
import pytest
import torch
from brevitas_oracle import OracleRun, run_brevitas
from hypothesis import HealthCheck, example, given, note, settings
from hypothesis import strategies as st
from torch import nn
from traces import Trace, differences, feeds_of, onnx_trace, reference_trace

from bitlens.export.bundle import tflite_graphs
from bitlens.export.lowering import lower
from bitlens.export.qonnx import qonnx_from_brevitas
from bitlens.runtime.autodiff import gradient_name, gradient_program, mask_name
from bitlens.runtime.engines import FLOAT32_GRADIENTS, Engine, one_hot, open_engine
from bitlens.runtime.engines.tflite import tflite_refusal
from bitlens.runtime.gradient_likeness import cosines
from bitlens.runtime.network import Network
from bitlens.runtime.parity import GRADIENT_TOLERANCE, INT8_COSINE, relative_errors
from bitlens.runtime.program import ACCUMULATOR_LIMIT, Program
from bitlens.train.pooling import MaxPool2d
from bitlens.train.quantizers import activation, weight_quantizer

BITS = (1, 2, 4, 8)
CLASSES = 4
TFLITE_LACKS = ("no TFLite form for strides", "no exact form in TFLite")  # pools, unevenly spaced 8-bit thresholds


@dataclass(frozen=True)
class Pool:
    kind: str  # max before the quantizer, max or mean behind it
    kernel: int
    stride: int
    padding: int


@dataclass(frozen=True)
class Layer:
    width: int
    kernel: int
    stride: int
    padding: int
    pad_value: float | None  # an explicit pad with this code, where the layer before it is binary
    groups: int
    bias: bool
    weight_bits: int
    activation_bits: int
    alpha: float
    slopes: tuple[int, ...]  # sign of each channel's batch-norm slope, 0 for none
    pool: Pool | None


@dataclass(frozen=True)
class Drawn:
    """A network and the images it is given."""

    channels: int
    side: int
    batch: int
    seed: int
    last_bits: int
    layers: tuple[Layer, ...] = field(default_factory=tuple)


def moved(side: int, kernel: int, stride: int, padding: int) -> int:
    return (side + 2 * padding - kernel) // stride + 1


@st.composite
def networks(draw: st.DrawFn) -> Drawn:
    channels, side = draw(st.sampled_from([1, 3])), draw(st.integers(6, 14))
    batch, seed = draw(st.integers(1, 5)), draw(st.integers(0, 2**32 - 1))
    layers: list[Layer] = []
    inputs, size = channels, side
    for _ in range(draw(st.integers(1, 4))):
        padding = draw(st.integers(0, 2))
        kernel = draw(st.integers(1, min(5, size + 2 * padding)))
        stride = draw(st.integers(1, 2))
        groups = draw(st.sampled_from([1, 1, 1, inputs]))
        width = groups * draw(st.integers(1, max(1, 9 // groups)))
        bits = draw(st.sampled_from(BITS))
        binary = bool(layers) and layers[-1].activation_bits == 1 and layers[-1].pool is None
        pad_value = draw(st.sampled_from([-1.0, 1.0, None])) if binary and padding else None
        size = moved(size, kernel, stride, padding)
        pool = None
        if size > 1 and draw(st.booleans()):
            kinds = ["before", "behind", "mean"] if bits <= 4 else ["before", "behind"]
            pool_kernel = draw(st.integers(2, min(3, size)))
            pool_stride, pool_padding = draw(st.integers(1, 3)), draw(st.integers(0, 1))
            pool = Pool(draw(st.sampled_from(kinds)), pool_kernel, pool_stride, pool_padding)
            size = moved(size, pool_kernel, pool_stride, pool_padding)
        layers.append(
            Layer(
                width=width,
                kernel=kernel,
                stride=stride,
                padding=padding,
                pad_value=pad_value,
                groups=groups,
                bias=draw(st.booleans()),
                weight_bits=draw(st.sampled_from(BITS)),
                activation_bits=bits,
                alpha=draw(st.floats(0.5, 4.0)),
                slopes=tuple(draw(st.lists(st.sampled_from([1, 1, -1, 0]), min_size=width, max_size=width))),
                pool=pool,
            )
        )
        inputs = width
    # As many bits as the sum of the last layer has room for.
    last = layers[-1]
    largest = (2**last.activation_bits - 1) * (9 if last.pool and last.pool.kind == "mean" else 1)
    fitting = [bits for bits in BITS if inputs * size**2 * largest * max(1, 2 ** (bits - 1) - 1) < ACCUMULATOR_LIMIT]
    return Drawn(channels, side, batch, seed, draw(st.sampled_from(fitting)), tuple(layers))


def built(drawn: Drawn) -> nn.Sequential:
    """The network with random weights, its batch norms fitted to random images and then turned round or flattened."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(drawn.seed)
        model = nn.Sequential()
        inputs, size = drawn.channels, drawn.side
        for number, layer in enumerate(drawn.layers, 1):
            padding = layer.padding
            if layer.pad_value is not None:
                model.add_module(f"pad{number}", nn.ConstantPad2d(padding, layer.pad_value))
                padding = 0
            convolution = qnn.QuantConv2d(
                inputs,
                layer.width,
                layer.kernel,
                stride=layer.stride,
                padding=padding,
                groups=layer.groups,
                bias=layer.bias,
                weight_quant=weight_quantizer(layer.weight_bits),
            )
            model.add_module(f"conv{number}", convolution)
            model.add_module(f"norm{number}", nn.BatchNorm2d(layer.width, momentum=None))
            size = moved(size, layer.kernel, layer.stride, layer.padding)
            bits = layer.activation_bits
            parts: list[tuple[str, nn.Module]] = [
                (f"act{number}", activation(bits, alpha=None if bits == 1 else layer.alpha))
            ]
            if layer.pool is not None:
                pool = layer.pool
                kind = nn.AvgPool2d if pool.kind == "mean" else MaxPool2d
                parts.append((f"pool{number}", kind(pool.kernel, pool.stride, pool.padding)))
                if pool.kind == "before":
                    parts.reverse()
                size = moved(size, pool.kernel, pool.stride, pool.padding)
            for name, module in parts:
                model.add_module(name, module)
            inputs = layer.width
        model.add_module("flatten", nn.Flatten())
        quantizer = weight_quantizer(drawn.last_bits)
        model.add_module("fc", qnn.QuantLinear(inputs * size**2, CLASSES, bias=True, weight_quant=quantizer))
        model.train()
        with torch.no_grad():
            model(torch.rand(8, drawn.channels, drawn.side, drawn.side))
            for number, layer in enumerate(drawn.layers, 1):
                norm = model.get_submodule(f"norm{number}")
                assert isinstance(norm, nn.BatchNorm2d)
                norm.weight.copy_(torch.rand(layer.width) + 0.2).mul_(torch.tensor(layer.slopes))
                norm.bias.copy_(torch.randn(layer.width))
    return model.eval()


def with_gradient(mask: np.ndarray, slopes: tuple[int, ...]) -> np.ndarray:
    """A channel of slope 0 has no gradient, whatever its mask."""
    return np.asarray(mask & (np.array(slopes) != 0)[:, None, None])


def check(drawn: Drawn, model: nn.Sequential, program: Program) -> None:
    random = np.random.default_rng(drawn.seed)
    codes = random.integers(0, 256, (drawn.batch, drawn.channels, drawn.side, drawn.side))
    seed = one_hot(random.integers(0, CLASSES, drawn.batch), CLASSES)
    gradient = gradient_program(program)
    feeds = feeds_of(gradient, codes, seed)
    reference = reference_trace(gradient, feeds)
    run = run_brevitas(model, codes / 255.0, seed)
    compare_with_brevitas(drawn, reference, run)
    forward = onnx_trace(program, feeds_of(program, codes))
    assert differences(forward, {name: reference[name] for name in forward}) == {}
    backward = onnx_trace(gradient, feeds)
    assert differences(backward, reference) == {}
    assert relative_errors(backward["input_gradient"], reference["input_gradient"]).max() <= GRADIENT_TOLERANCE
    of_tflite, facts = tflite_graphs(program, gradient)
    manifest = {**facts, "members": {name: {} for name in of_tflite}}
    network = Network(Path("memory"), program, manifest, of_tflite.__getitem__, trusted=True)
    assert of_tflite or any(reason in tflite_refusal(facts) for reason in TFLITE_LACKS)
    for name in ("native", "native-int8", *(["tflite"] if of_tflite else [])):
        compare_with_engine(open_engine(network, name), codes, seed, reference)


def compare_with_engine(engine: Engine, codes: np.ndarray, seed: np.ndarray, reference: Trace) -> None:
    """Codes, masks and sums are equal; so is the gradient within the tolerance, if it is not in bytes."""
    got = engine.traced_gradient(codes, seed)
    masks = {mask_name(name): mask for name, mask in got.masks.items()}
    logits = {"logits": engine.forward(codes), engine.program.outputs[-1]: engine.accumulators(codes)}
    for trace in (dict(got.codes), masks, logits, {"logits": got.logits}):
        assert differences(trace, {name: reference[name] for name in trace}) == {}
    if engine.info.gradients == FLOAT32_GRADIENTS:
        assert relative_errors(got.input_gradient, reference["input_gradient"]).max() <= GRADIENT_TOLERANCE
    else:
        assert cosines(got.input_gradient, reference["input_gradient"]).min() >= INT8_COSINE


def compare_with_brevitas(drawn: Drawn, reference: Trace, run: OracleRun) -> None:
    """Codes and masks are equal, so no image is left out of the gradient's bound."""
    for number, layer in enumerate(drawn.layers, 1):
        name = f"act{number}"
        assert np.array_equal(reference[name], run.codes[name]), f"codes of {name}"
        mask = reference.get(f"{name}.ste_mask")
        if mask is not None:
            got, expected = (with_gradient(array, layer.slopes) for array in (mask, run.masks[name]))
            assert np.array_equal(got, expected), f"mask of {name}"
        own = gradient_name(name)
        assert relative_errors(reference[own], run.gradients[name]).max() <= GRADIENT_TOLERANCE, own
    assert relative_errors(reference["logits"], run.logits).max() <= 1e-6
    assert relative_errors(reference["input_gradient"], run.input_gradient).max() <= GRADIENT_TOLERANCE


def travel(drawn: Drawn) -> None:
    note(f"replay: {drawn}")
    model = built(drawn)
    check(drawn, model, lower(qonnx_from_brevitas(model, (drawn.channels, drawn.side, drawn.side))))


LAYER = Layer(
    width=4,
    kernel=3,
    stride=1,
    padding=1,
    pad_value=None,
    groups=1,
    bias=True,
    weight_bits=4,
    activation_bits=2,
    alpha=2.0,
    slopes=(1, -1, 0, 1),
    pool=Pool("before", 3, 2, 1),
)
FIXED = Drawn(3, 9, 3, 5, 8, (LAYER, Layer(**{**LAYER.__dict__, "pool": Pool("mean", 2, 1, 0)})))


DRAWING = settings(
    derandomize=True,
    deadline=None,
    database=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)


@settings(DRAWING, max_examples=20)
@given(networks())
@example(FIXED)
def test_twenty_random_networks(drawn: Drawn) -> None:
    travel(drawn)


@pytest.mark.long
@settings(DRAWING, max_examples=200)
@given(networks())
def test_two_hundred_random_networks(drawn: Drawn) -> None:
    travel(drawn)


@pytest.mark.parametrize("array", ["thresholds", "mask_low", "mask_high", "slope"])
def test_a_wrong_program_does_not_pass(array: str) -> None:
    model = built(FIXED)
    program = lower(qonnx_from_brevitas(model, (3, 9, 9)))
    check(FIXED, model, program)
    values = program.node("act2").arrays[array]
    program.node("act2").arrays[array][...] = values * 2 if array == "slope" else values + values.dtype.type(40)
    with pytest.raises(AssertionError):
        check(FIXED, model, program)
