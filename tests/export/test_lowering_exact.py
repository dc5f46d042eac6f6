"""Codes and masks of a lowered network equal those of the Brevitas model it came from."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace

import brevitas.nn as qnn
import numpy as np
import numpy.typing as npt
import pytest
import torch
from brevitas_oracle import OracleRun, activation_scale, run_brevitas
from torch import nn
from traces import Trace

from bitlens.export.lowering import lower
from bitlens.export.qonnx import qonnx_from_brevitas
from bitlens.runtime.autodiff import gradient_program
from bitlens.runtime.engines import one_hot
from bitlens.runtime.interpreter import interpret
from bitlens.runtime.program import Array, Node, Program, ProgramInput
from bitlens.runtime.thresholds import Interval, channel_thresholds, mask_bounds
from bitlens.runtime.type_check import infer_types
from bitlens.train.quantizers import activation, weight_quantizer

QUANTIZED = ("w4a4", "w2a4", "w2a2", "w1a1")
LAYERS = ("act1", "act2", "act3")
FLOAT32_UNIT = 2.0**-24  # largest relative error of one rounding
LIMIT = 2**24


def layer_program(gradient: Program, layer: str) -> Program:
    """The nodes from one quantizer's output (or the image) to the next quantizer's codes and mask."""
    types = infer_types(gradient)
    end = next(place for place, node in enumerate(gradient.nodes) if node.name == layer)
    begin = max([place + 1 for place, node in enumerate(gradient.nodes[:end]) if node.op == "threshold"], default=0)
    source = gradient.nodes[begin].inputs[0]
    mask = gradient.node(f"{layer}.ste_mask")
    bounds = [item for item in gradient.inputs if item.name in mask.inputs]
    nodes = (*gradient.nodes[begin : end + 1], mask)
    return Program((ProgramInput(source, types[source]), *bounds), nodes, (layer, mask.name))


def run_layer(gradient: Program, layer: str, codes: Array) -> tuple[Array, Array]:
    """Codes and mask bits of one layer that is fed `codes`."""
    program = layer_program(gradient, layer)
    source = program.inputs[0]
    got = interpret(program, {source.name: codes.astype(source.type.dtype)}, program.outputs)
    return got[layer], got[f"{layer}.ste_mask"]


def input_codes(run: OracleRun, layer: str, image: npt.NDArray[np.uint8]) -> Array:
    previous = f"act{int(layer[-1]) - 1}"
    return image if layer == LAYERS[0] else run.codes[previous]


@pytest.fixture(scope="module")
def float64_runs(
    trained: dict[str, nn.Sequential], held_out: npt.NDArray[np.uint8], targets: dict[str, npt.NDArray[np.int64]]
) -> dict[str, OracleRun]:
    """Brevitas in float64 as it is, without putting anything on a grid."""
    return {
        precision: run_brevitas(trained[precision], held_out / 255.0, one_hot(targets[precision], 10))
        for precision in QUANTIZED
    }


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("precision", QUANTIZED)
def test_each_layer_fed_brevitas_codes_gives_its_codes_and_masks(
    precision: str,
    layer: str,
    gradients: dict[str, Program],
    float64_runs: dict[str, OracleRun],
    held_out: npt.NDArray[np.uint8],
    record_property: Callable[[str, object], None],
) -> None:
    run = float64_runs[precision]
    codes, mask = run_layer(gradients[precision], layer, input_codes(run, layer, held_out))
    assert codes.shape == run.codes[layer].shape
    record_property("codes and mask bits compared", codes.size + mask.size)
    assert int((codes != run.codes[layer]).sum()) == 0
    assert int((mask != run.masks[layer]).sum()) == 0
    # Not vacuous: every code occurs, and the mask is neither all set nor all clear.
    assert len(np.unique(codes)) == {"a4": 16, "a2": 4, "a1": 2}[precision[2:]]
    assert 0 < mask.sum() < mask.size


@pytest.mark.parametrize("precision", QUANTIZED)
def test_end_to_end_equals_brevitas_in_float64(
    precision: str, references: dict[str, Trace], float64_runs: dict[str, OracleRun]
) -> None:
    run, reference = float64_runs[precision], references[precision]
    for layer in LAYERS:
        assert int((reference[layer] != run.codes[layer]).sum()) == 0
        assert int((reference[f"{layer}.ste_mask"] != run.masks[layer]).sum()) == 0
    assert np.abs(reference["logits"] - run.logits).max() <= 8 * np.finfo(np.float32).eps * np.abs(run.logits).max()
    assert np.array_equal(reference["logits"].argmax(axis=1), run.logits.argmax(axis=1))


def with_shifted_threshold(program: Program, layer: str, by: int) -> Program:
    def shifted(node: Node) -> Node:
        if node.name != layer:
            return node
        arrays = dict(node.arrays)
        arrays["thresholds"] = arrays["thresholds"].copy()
        arrays["thresholds"][0] += np.int32(by)
        return replace(node, arrays=arrays)

    return replace(program, nodes=tuple(shifted(node) for node in program.nodes))


@pytest.mark.parametrize("precision", QUANTIZED)
def test_the_comparison_sees_thresholds_that_are_one_off(
    precision: str,
    gradients: dict[str, Program],
    float64_runs: dict[str, OracleRun],
    held_out: npt.NDArray[np.uint8],
) -> None:
    run = float64_runs[precision]
    wrong = with_shifted_threshold(gradients[precision], "act2", 1)
    codes, _ = run_layer(wrong, "act2", input_codes(run, "act2", held_out))
    assert int((codes != run.codes["act2"]).sum()) > 0


def float32_bound(program: Program, layer: str, model: nn.Module, codes: Array) -> Array:
    """How far Brevitas' float32 value before a quantizer can lie from the real one, at each position.

    A sum of n products, in any order and with rounded factors, is off by at most (n + 4) roundings of the sum of
    their magnitudes; batch norm and the quantizer's division add a few roundings of each of their terms. A maximum
    over such values is off by no more than the largest of the bounds.
    """
    layered = layer_program(program, layer)
    convolution = next(node for node in layered.nodes if node.op == "conv2d")
    weight = np.abs(convolution.arrays["weight"])
    arrays = {**convolution.arrays, "weight": weight}
    if "pad" in arrays:
        arrays["pad"] = np.abs(arrays["pad"])
    nodes: list[Node] = [replace(convolution, arrays=arrays)]
    for node in layered.nodes:
        if node.op == "max_pool":
            nodes.append(replace(node, outputs=node.outputs[:1], arrays={"direction": np.ones(len(weight), np.int8)}))
    source = layered.inputs[0]
    magnitudes = interpret(
        Program((source,), tuple(nodes), nodes[-1].outputs),
        {source.name: np.abs(codes).astype(source.type.dtype)},
        nodes[-1].outputs,
    )[nodes[-1].outputs[0]]
    norm = copy.deepcopy(model.get_submodule(f"norm{layer[-1]}")).double()
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    factor = (norm.weight / torch.sqrt(norm.running_var + norm.eps)).detach().numpy()
    shift = np.abs(norm.running_mean.numpy() * factor) + np.abs(norm.bias.detach().numpy())
    slope = np.abs(layered.node(layer).arrays["slope"])
    roundings = weight[0].size + 16
    terms = slope[:, None, None] * magnitudes + shift[:, None, None]
    return np.asarray(roundings * FLOAT32_UNIT * terms)


def margins(program: Program, layer: str, codes: Array, other: Array) -> Array:
    """Distance of y from every boundary between the program's code and `other`: the largest one at each position."""
    layered = layer_program(program, layer)
    node = layered.node(layer)
    source = layered.inputs[0]
    feeds = {source.name: codes.astype(source.type.dtype)}
    got = interpret(layered, feeds, [node.inputs[0], layer])
    slope, offset = (node.arrays[name][:, None, None] for name in ("slope", "offset"))
    y = slope * got[node.inputs[0]] + offset
    low, scale = node.integer("low"), node.number("scale")
    if node.integer("step") == 2:
        boundary = np.zeros_like(y)
    else:
        # The boundary of `other` that y would have had to cross: half a step from it towards y.
        boundary = (other + np.sign(got[layer].astype(int) - other) * 0.5) * scale
    assert low in (-1, 0)
    return np.asarray(np.where(got[layer] == other, 0.0, np.abs(y - boundary)))


@pytest.mark.parametrize("precision", QUANTIZED)
def test_differences_from_brevitas_in_float32_are_roundings(
    precision: str,
    trained: dict[str, nn.Sequential],
    gradients: dict[str, Program],
    references: dict[str, Trace],
    held_out: npt.NDArray[np.uint8],
    targets: dict[str, npt.NDArray[np.int64]],
    record_property: Callable[[str, object], None],
) -> None:
    seed = one_hot(targets[precision], 10)
    run = run_brevitas(trained[precision], (held_out / 255.0).astype(np.float32), seed, dtype=torch.float32)
    differing = {layer: int((references[precision][layer] != run.codes[layer]).sum()) for layer in LAYERS}
    record_property("codes that differ end to end from float32", differing)
    print(f"{precision}: codes that differ end to end from Brevitas' float32: {differing}")
    # Every one is explained by induction: fed the float32 run's own codes, a layer differs only where its value lies
    # within float32's error of the boundary between the two codes.
    for layer in LAYERS:
        codes = input_codes(run, layer, held_out)
        bound = float32_bound(gradients[precision], layer, trained[precision], codes)
        assert np.all(margins(gradients[precision], layer, codes, run.codes[layer]) <= bound)
    images = np.zeros(len(held_out), bool)
    for layer in LAYERS:
        images |= (references[precision][layer] != run.codes[layer]).any(axis=(1, 2, 3))
    print(f"{precision}: in {images.sum()} images")
    assert images.sum() <= 0.01 * len(held_out)


def test_a_wrong_code_is_not_explained_by_rounding(
    trained: dict[str, nn.Sequential],
    gradients: dict[str, Program],
    float64_runs: dict[str, OracleRun],
    held_out: npt.NDArray[np.uint8],
) -> None:
    codes = input_codes(float64_runs["w4a4"], "act2", held_out)
    wrong = with_shifted_threshold(gradients["w4a4"], "act2", 1)
    bound = float32_bound(wrong, "act2", trained["w4a4"], codes)
    unexplained = margins(wrong, "act2", codes, float64_runs["w4a4"].codes["act2"]) > bound
    assert unexplained[:, 0].sum() > 0
    assert not unexplained[:, 1:].any()


# Golden thresholds, computed by hand. y = slope * a + offset; codes 0..3 begin at y = 0.5, 1.5, 2.5, and rounding half
# to even gives 0.5 to code 0, 1.5 to code 2 and 2.5 to code 2.
BOUNDARIES = np.array([0.5, 1.5, 2.5])
INCLUSIVE = np.array([False, True, False])


@pytest.mark.parametrize(
    ("slope", "offset", "expected", "direction"),
    [
        # a/2 > 0.5 from a = 2 (1 is the tie, it goes down); a/2 >= 1.5 from 3 (the tie goes up); a/2 > 2.5 from 6.
        pytest.param(0.5, 0.0, [2, 3, 6], 1, id="ties"),
        # -a/2 > 0.5 up to a = -2; -a/2 >= 1.5 up to -3; -a/2 > 2.5 up to -6.
        pytest.param(-0.5, 0.0, [-2, -3, -6], -1, id="negative slope"),
        # a/2 + 1/4 reaches no tie: > 0.5 from a = 1 (0.75), >= 1.5 from 3 (1.75), > 2.5 from 5 (2.75).
        pytest.param(0.5, 0.25, [1, 3, 5], 1, id="offset"),
        # a/4 - 1: 0.5 at a = 6 (down), so 7; 1.5 at 10 (up); 2.5 at 14 (down), so 15.
        pytest.param(0.25, -1.0, [7, 10, 15], 1, id="negative offset"),
        # -2a - 1: > 0.5 for a < -0.75, so -1; >= 1.5 for a <= -1.25, so -2; > 2.5 for a < -1.75, so -2.
        pytest.param(-2.0, -1.0, [-1, -2, -2], -1, id="steep negative slope skips a code"),
        # Constant y = 1.7: the first two boundaries are always passed, the third never.
        pytest.param(0.0, 1.7, [-LIMIT, -LIMIT, LIMIT], 1, id="zero slope"),
        # Constant y = 1.5 and 2.5 stand on ties: 1.5 is passed, 2.5 is not.
        pytest.param(0.0, 1.5, [-LIMIT, -LIMIT, LIMIT], 1, id="zero slope on a tie that goes up"),
        pytest.param(0.0, 2.5, [-LIMIT, -LIMIT, LIMIT], 1, id="zero slope on a tie that goes down"),
        pytest.param(0.0, -3.0, [LIMIT, LIMIT, LIMIT], 1, id="zero slope below everything"),
        # a * 2^-30 needs a = 2^29 for 0.5: beyond every accumulator.
        pytest.param(2.0**-30, 0.0, [LIMIT, LIMIT, LIMIT], 1, id="too flat to pass"),
        pytest.param(-(2.0**-30), 3.0, [LIMIT, LIMIT, LIMIT], -1, id="too flat to fail"),
    ],
)
def test_thresholds_computed_by_hand(slope: float, offset: float, expected: list[int], direction: int) -> None:
    thresholds, signs = channel_thresholds(np.array([slope]), np.array([offset]), BOUNDARIES, INCLUSIVE)
    assert thresholds.dtype == np.int32
    assert thresholds.tolist() == [expected]
    assert signs.tolist() == [direction]


@pytest.mark.parametrize(
    ("slope", "offset", "interval", "expected"),
    [
        # PACT, alpha = 3: 0 < a/2 < 3 for a = 1..5, both ends open.
        pytest.param(0.5, 0.0, Interval(0.0, 3.0, False, False), (1, 5), id="pact"),
        pytest.param(-0.5, 0.0, Interval(0.0, 3.0, False, False), (-5, -1), id="pact, negative slope"),
        # 0 < a/2 + 1 < 3: a > -2 and a < 4.
        pytest.param(0.5, 1.0, Interval(0.0, 3.0, False, False), (-1, 3), id="pact, offset"),
        # hardtanh is closed: |a/2| <= 1 for a = -2..2; |a/2 - 1/4| <= 1 for a = -1..2 (-1.5 and 2.5 are the ends).
        pytest.param(0.5, 0.0, Interval(-1.0, 1.0, True, True), (-2, 2), id="hardtanh"),
        pytest.param(0.5, -0.25, Interval(-1.0, 1.0, True, True), (-1, 2), id="hardtanh, offset"),
        pytest.param(-0.5, -0.25, Interval(-1.0, 1.0, True, True), (-2, 1), id="hardtanh, negative slope"),
        # Slope 0: the code never changes, and no gradient passes.
        pytest.param(0.0, 0.5, Interval(-1.0, 1.0, True, True), (LIMIT, -LIMIT), id="zero slope"),
    ],
)
def test_masks_computed_by_hand(slope: float, offset: float, interval: Interval, expected: tuple[int, int]) -> None:
    low, high = mask_bounds(np.array([slope]), np.array([offset]), interval)
    assert (low.tolist(), high.tolist()) == ([expected[0]], [expected[1]])


def test_a_relu_before_the_quantizer_closes_what_lies_below_zero() -> None:
    # y = max(a/2 - 1, 0) with boundaries -0.5 and 0.5: the first is always passed, the second from a = 4 (y = 1).
    thresholds, _ = channel_thresholds(
        np.array([0.5]), np.array([-1.0]), np.array([-0.5, 0.5]), np.array([True, False]), rectified=True
    )
    assert thresholds.tolist() == [[-LIMIT, 4]]
    # |max(y, 0)| <= 1 holds for every y <= 1, but the ReLU lets no gradient through at y <= 0: 2 < a <= 4.
    low, high = mask_bounds(np.array([0.5]), np.array([-1.0]), Interval(-1.0, 1.0, True, True), rectified=True)
    assert (low.tolist(), high.tolist()) == ([3], [4])


def hand_built(signs: list[list[float]], gamma: list[float], beta: list[float], bits: int) -> nn.Sequential:
    """Codes 0..3 in two channels, worth 1 each, then rows of +-0.5 and a batch norm that is exact in floats."""
    outputs = len(signs)
    norm = nn.BatchNorm2d(outputs, eps=0.0)
    first, second = (
        qnn.QuantConv2d(2, 2, 1, bias=False, weight_quant=weight_quantizer(8)),
        qnn.QuantConv2d(2, outputs, 1, bias=False, weight_quant=weight_quantizer(1)),
    )
    model = nn.Sequential()
    for name, module in (
        ("conv1", first),
        ("act1", activation(2, alpha=3.0)),
        ("conv2", second),
        ("norm2", norm),
        ("act2", activation(bits, alpha=None if bits == 1 else 3.0)),
        ("flatten", nn.Flatten()),
        ("fc", qnn.QuantLinear(outputs, 3, bias=True, weight_quant=weight_quantizer(8))),
    ):
        model.add_module(name, module)
    with torch.no_grad():
        first.weight.copy_(torch.eye(2)[..., None, None] * 3.0)
        second.weight.copy_(0.5 * torch.tensor(signs)[..., None, None])
        norm.weight.copy_(torch.tensor(gamma))
        norm.bias.copy_(torch.tensor(beta))
    return model.eval()


def test_ties_and_signs_through_the_whole_lowering() -> None:
    # y = (c0 + c1)/2, its mirror image, the constant 1.5, and (c0 - c1)/2 + 1.5.
    model = hand_built(
        [[1.0, 1.0], [1.0, 1.0], [1.0, 1.0], [1.0, -1.0]], [1.0, -1.0, 0.0, 1.0], [0.0, 3.0, 1.5, 1.5], bits=2
    )
    gradient = gradient_program(lower(qonnx_from_brevitas(model, (2, 1, 1))))
    node = gradient.node("act2")
    assert node.arrays["slope"].tolist() == [0.5, -0.5, 0.0, 0.5]
    assert node.arrays["thresholds"].tolist() == [[2, 3, 6], [4, 3, 0], [-LIMIT, -LIMIT, LIMIT], [-1, 0, 3]]
    codes = np.array([[0, 0], [1, 0], [1, 1], [2, 1], [2, 2], [3, 2], [3, 3], [0, 3], [3, 0]])[:, :, None, None]
    got, mask = run_layer(gradient, "act2", codes)
    # y in channel 0: 0, .5, 1, 1.5, 2, 2.5, 3, 1.5, 1.5; half to even; alpha = 3 is open.
    assert got[:, 0, 0, 0].tolist() == [0, 0, 1, 2, 2, 2, 3, 2, 2]
    assert mask[:, 0, 0, 0].tolist() == [False, True, True, True, True, True, False, True, True]
    # y in channel 1 is 3 minus that.
    assert got[:, 1, 0, 0].tolist() == [3, 2, 2, 2, 1, 0, 0, 2, 2]
    assert mask[:, 1, 0, 0].tolist() == [False, True, True, True, True, True, False, True, True]
    assert got[:, 2, 0, 0].tolist() == [2] * 9
    assert not mask[:, 2].any()
    # y in channel 3: 1.5, 2, 1.5, 2, 1.5, 2, 1.5, 0, 3.
    assert got[:, 3, 0, 0].tolist() == [2, 2, 2, 2, 2, 2, 2, 0, 3]
    assert mask[:, 3, 0, 0].tolist() == [True] * 7 + [False, False]
    # And Brevitas says the same of its own layer.
    act = model.get_submodule("act2")
    fed = torch.tensor(codes, dtype=torch.float64)
    before = model.double().get_submodule("norm2")(model.get_submodule("conv2")(fed))
    assert torch.equal(act(before), torch.tensor(got, dtype=torch.float64))


def test_sign_of_zero_is_one_and_its_window_is_closed() -> None:
    # y = (c0 - c1)/2 and its mirror image: +1 at 0 in both.
    model = hand_built([[1.0, -1.0], [1.0, -1.0]], [1.0, -1.0], [0.0, 0.0], bits=1)
    gradient = gradient_program(lower(qonnx_from_brevitas(model, (2, 1, 1))))
    codes = np.array([[0, 3], [0, 2], [0, 1], [2, 2], [1, 0], [2, 0], [3, 0]])[:, :, None, None]
    got, mask = run_layer(gradient, "act2", codes)
    assert got[:, 0, 0, 0].tolist() == [-1, -1, -1, 1, 1, 1, 1]
    assert got[:, 1, 0, 0].tolist() == [1, 1, 1, 1, -1, -1, -1]
    for channel in range(2):  # |y| = 1.5, 1, 0.5, 0, 0.5, 1, 1.5
        assert mask[:, channel, 0, 0].tolist() == [False, True, True, True, True, True, False]


def test_alpha_of_each_quantizer_is_its_own(trained: dict[str, nn.Sequential], programs: dict[str, Program]) -> None:
    def scales(model: nn.Sequential) -> Mapping[str, float]:
        return {name: activation_scale(model.get_submodule(name)) for name in LAYERS}

    for precision in ("w4a4", "w2a2"):
        levels = {"a4": 15, "a2": 3}[precision[2:]]
        expected = scales(trained[precision])
        for name in LAYERS:
            node = programs[precision].node(name)
            assert node.number("scale") == pytest.approx(expected[name], rel=1e-6)
            assert node.number("window_high") == node.number("scale") * levels
        assert len(set(expected.values())) == 3


def test_pact_mask_ends_at_alpha_itself() -> None:
    # 15 * (alpha / 15) is another float64 than this alpha; a value of exactly alpha has no gradient (eq. 3).
    alpha = float(np.float32(3.8990542888641357))
    assert 15 * (alpha / 15) != alpha
    model = nn.Sequential()
    model.add_module("conv", qnn.QuantConv2d(1, 1, 1, bias=False, weight_quant=weight_quantizer(8)))
    model.add_module("act", activation(4, alpha=alpha))
    model.add_module("flatten", nn.Flatten())
    model.add_module("fc", qnn.QuantLinear(4, 2, bias=True, weight_quant=weight_quantizer(8)))
    program = lower(qonnx_from_brevitas(model, (1, 2, 2)))
    assert program.node("act").attributes["window_high"] == alpha


def test_mask_of_brevitas_own_quantizer_is_decided_after_its_division() -> None:
    # Brevitas rounds y / scale; compared with (high + 0.5) * scale some values would land on the other side.
    random = np.random.default_rng(31)
    moved = 0
    for scale in random.uniform(0.01, 1.0, 400):
        y = np.array([np.nextafter(3.5 * scale, -np.inf), 3.5 * scale, np.nextafter(3.5 * scale, np.inf)])
        # slope 1e-300 keeps y = offset whatever the accumulator: the box is all or nothing.
        low, high = mask_bounds(np.full(3, 1e-300), y, Interval(-0.5, 3.5, True, False), scale=float(scale))
        inside = y / scale < 3.5
        assert ((low <= 0) & (high >= 0)).tolist() == inside.tolist()
        moved += int((inside != (y < 3.5 * scale)).sum())
    assert moved > 0
