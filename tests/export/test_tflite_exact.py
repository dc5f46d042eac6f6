"""The exported TFLite graphs compute the program: the same codes, masks, sums and logits, in one delegate partition."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from ai_edge_litert import schema_py_generated as schema
from drawn_programs import drawn_program
from small_programs import (
    affine,
    conv2d,
    dense,
    image_input,
    images_for,
    pact,
    reshape,
    residual_network,
    small_network,
    small_twin,
)
from traces import (
    Trace,
    channels_first,
    channels_last,
    differences,
    feeds_of,
    open_tflite,
    partitions,
    reference_trace,
    tflite_trace,
    traced_names,
)

from bitlens.export import tflite_rules
from bitlens.export.tflite_graph import TfliteGraph
from bitlens.export.tflite_rules import TFLITE_RULES, TfliteRule, _outside
from bitlens.export.tflite_writer import tflite_model
from bitlens.runtime.autodiff import INPUT_GRADIENT, SEED, gradient_program
from bitlens.runtime.engines import one_hot
from bitlens.runtime.errors import BitlensError
from bitlens.runtime.interpreter import interpret
from bitlens.runtime.ops.threshold import GUIDED_FLOOR
from bitlens.runtime.parity import GRADIENT_TOLERANCE, relative_errors
from bitlens.runtime.program import Node, Program, TensorType

QUANTIZED = ("w4a4", "w2a4", "w2a2", "w1a1")
GRADIENTS = ("input_gradient", "act1.gradient", "act2.gradient", "act3.gradient")


def compared(program: Program, got: Trace, expected: Trace) -> dict[str, int]:
    """Differing elements, with the one output that a TFLite file has none of left out: the pool's index."""
    exact = {name: values for name, values in expected.items() if not name.endswith(".index")}
    return differences(got, exact)


@pytest.mark.parametrize("precision", QUANTIZED)
def test_every_code_mask_sum_and_logit_is_equal(
    precision: str,
    gradients: dict[str, Program],
    references: dict[str, Trace],
    held_out: npt.NDArray[np.uint8],
    targets: dict[str, npt.NDArray[np.int64]],
) -> None:
    program, expected = gradients[precision], references[precision]
    got = tflite_trace(program, feeds_of(program, held_out, one_hot(targets[precision], 10)))
    assert set(got) > {"logits", "act1", "act1.ste_mask", "conv1", "pool2"}
    assert compared(program, got, expected) == {}
    for name in GRADIENTS:
        assert relative_errors(got[name], expected[name]).max() <= GRADIENT_TOLERANCE


@pytest.mark.parametrize("precision", QUANTIZED)
def test_any_code_that_a_method_may_give_is_taken(precision: str, gradients: dict[str, Program]) -> None:
    program, random = gradients[precision], np.random.default_rng(2)
    codes = random.integers(-512, 768, (12, 1, 28, 28))
    codes[:4] = random.choice([-512, 767], (4, 1, 28, 28))
    codes[4], codes[5] = -512, 767
    feeds = feeds_of(program, codes, one_hot(np.arange(12) % 10, 10))
    assert compared(program, tflite_trace(program, feeds), reference_trace(program, feeds)) == {}


def test_the_twin_agrees_in_class_and_to_rounding(
    programs: dict[str, Program], gradients: dict[str, Program], held_out: npt.NDArray[np.uint8]
) -> None:
    program = gradients["fp32"]
    feeds = feeds_of(program, held_out[:100], one_hot(np.arange(100) % 10, 10))
    got, expected = tflite_trace(program, feeds), reference_trace(program, feeds)
    assert relative_errors(got["logits"], expected["logits"]).max() <= GRADIENT_TOLERANCE
    errors = relative_errors(got[INPUT_GRADIENT], expected[INPUT_GRADIENT])
    # A pool's winner may change where two sums are a rounding error apart: counted, not averaged.
    assert (errors > GRADIENT_TOLERANCE).sum() <= 2


@pytest.mark.parametrize("precision", ["fp32", *QUANTIZED])
def test_both_files_stay_in_one_partition(
    precision: str, programs: dict[str, Program], gradients: dict[str, Program]
) -> None:
    assert partitions(open_tflite(tflite_model(programs[precision]))) == 1
    assert partitions(open_tflite(tflite_model(gradients[precision], signature="gradient"))) == 1


@pytest.mark.parametrize("made", [small_network, residual_network, small_twin])
def test_small_networks(made: object) -> None:
    assert callable(made)
    network: Program = made()
    program = gradient_program(network)
    classes = interpret(network, feeds_of(network, images_for(network, 1)), network.outputs[:1])
    count = classes[network.outputs[0]].shape[1]
    feeds = feeds_of(program, images_for(network, 6), one_hot(np.arange(6) % count, count))
    got, expected = tflite_trace(program, feeds), reference_trace(program, feeds)
    if not network.is_full_precision:
        assert compared(program, got, expected) == {}
    assert relative_errors(got[INPUT_GRADIENT], expected[INPUT_GRADIENT]).max() <= GRADIENT_TOLERANCE
    assert partitions(open_tflite(tflite_model(program))) == 1


@pytest.mark.parametrize("value", [0.0, 2.0**-125, -(2.0**-125), 1e-30, -1e-30])
def test_values_at_and_beside_0(value: float) -> None:
    # A window that is open at 0 begins at the smallest float32, which XNNPACK takes for 0.
    network = residual_network()
    sums = {name for node in network.nodes if node.op == "add" for name in node.inputs}
    nodes, opened = [], 0
    for node in network.nodes:
        if node.op == "affine" and node.outputs[0] in sums:
            flat = {"slope": np.zeros_like(node.arrays["slope"])}
            flat["offset"] = np.full_like(node.arrays["offset"], value / 2)
            node = replace(node, arrays=dict(node.arrays) | flat)
        if node.op == "threshold" and node.arrays["thresholds"].dtype == np.float32:
            open_at_0 = np.full_like(node.arrays["mask_low"], np.finfo(np.float32).smallest_subnormal)
            node = replace(node, arrays=dict(node.arrays) | {"mask_low": open_at_0})
            opened += 1
        nodes.append(node)
    assert opened
    program = gradient_program(replace(network, nodes=tuple(nodes)))
    feeds = feeds_of(program, images_for(network, 1), one_hot([0], 3))
    assert compared(program, tflite_trace(program, feeds), reference_trace(program, feeds)) == {}


def unread(model: bytes) -> list[str]:
    """Operators and constants that nobody reads; ai-edge-litert 1.2 dies of some operators."""
    graph = schema.ModelT.InitFromObj(schema.Model.GetRootAs(model)).subgraphs[0]
    read = {*graph.outputs, *(place for operator in graph.operators for place in operator.inputs)}
    made = {*range(len(graph.tensors))} - {*graph.inputs}
    return [graph.tensors[place].name.decode() for place in sorted(made - read)]


def same_that_skips(model: bytes) -> list[int]:
    """Convolutions padded by SAME whose steps leave places out: two of the interpreters compute wrong sums then."""
    graph = schema.ModelT.InitFromObj(schema.Model.GetRootAs(model)).subgraphs[0]
    found = []
    for place, operator in enumerate(graph.operators):
        options = operator.builtinOptions
        if getattr(options, "padding", 1) == 0 and operator.builtinOptionsType != schema.BuiltinOptions.Pool2DOptions:
            _, height, width, _ = graph.tensors[operator.inputs[1]].shape
            if options.strideH > height or options.strideW > width:
                found.append(place)
    return found


def test_same_that_skips_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tflite_rules, "_skips", lambda _: False)
    model = written(gradient_program(drawn_program(SKIPPING[-1])))
    assert model is not None
    assert same_that_skips(model)


def test_what_nobody_reads_is_seen(programs: dict[str, Program], monkeypatch: pytest.MonkeyPatch) -> None:
    assert unread(tflite_model(programs["w1a1"])) == []
    monkeypatch.setitem(TFLITE_RULES, "affine", with_one_more(TFLITE_RULES["affine"]))
    assert len(unread(tflite_model(programs["w1a1"]))) == 1


def with_one_more(rule: TfliteRule) -> TfliteRule:
    def written(graph: TfliteGraph, node: Node) -> None:
        rule(graph, node)
        graph.add("ABS", [graph.place(node.outputs[0])])

    return written


def reach(weight: npt.NDArray[np.int8], code: int) -> float:
    """A size that a sum of codes up to this one seldom passes."""
    return float(np.sqrt((weight.astype(np.float64) ** 2).sum(axis=(1, 2, 3)).max()) * code)


def quantized_by(slopes: npt.NDArray[np.float64], pad: int, alphabet: tuple[int, ...]) -> Program:
    """Two convolutions, both padded with a code that is not 0, and quantizers with these slopes."""
    random, channels = np.random.default_rng(7), len(slopes)
    first = random.choice(alphabet, (channels, 16, 3, 3)).astype(np.int8)
    second = random.choice(alphabet, (channels, channels, 3, 3)).astype(np.int8)
    one = (1, 1, 1, 1)
    nodes = (
        conv2d("image", "conv1", first, padding=one, pad=np.full(16, pad, np.int16)),
        pact("conv1", "act1", slopes / reach(first, 767), np.linspace(0.2, 1.0, channels), bits=2, alpha=1.5),
        conv2d("act1", "conv2", second, padding=one, pad=np.full(channels, 3, np.int16)),
        pact("conv2", "act2", slopes / reach(second, 3), np.linspace(0.2, 1.0, channels), bits=4, alpha=1.5),
        reshape("act2", "flat", channels * 25),
        dense("flat", "sums", random.choice((-1, 1), (3, channels * 25)).astype(np.int8)),
        affine("sums", "logits", [0.01, 0.02, 0.03], [0.1, 0.2, 0.3]),
    )
    return Program((image_input((16, 5, 5)),), nodes, ("logits",), {})


SLOPES = np.array([1.0, -1.0, 0.0, 2.0, -0.5, 1.5])


@pytest.mark.parametrize("slopes", [SLOPES, np.full(6, -1.0), np.full(70, 1.0) + np.arange(70) / 99], ids=len)
@pytest.mark.parametrize("alphabet", [(-1, 1), (-128, -3, 5, 127)])
def test_factors_and_the_padding_go_into_the_convolution(
    slopes: npt.NDArray[np.float64], alphabet: tuple[int, ...]
) -> None:
    # With the larger weights the sums of shifted codes leave what float32 adds exactly, and -128 has no opposite.
    program = gradient_program(quantized_by(slopes, 200, alphabet))
    random = np.random.default_rng(3)
    feeds = feeds_of(program, random.integers(-512, 768, (4, 16, 5, 5)), one_hot([0, 1, 2, 0], 3))
    got, expected = tflite_trace(program, feeds), reference_trace(program, feeds)
    assert compared(program, got, expected) == {}
    assert all(np.unique(expected[name]).size > 1 for name in ("act1", "act2", "act1.ste_mask", "act2.ste_mask"))
    assert relative_errors(got[INPUT_GRADIENT], expected[INPUT_GRADIENT]).max() <= GRADIENT_TOLERANCE


def test_a_value_reaches_its_bound_where_it_is_above_what_is_next_to_it() -> None:
    smallest, largest = np.float32(2.0**-126), np.finfo(np.float32).max
    some = np.array([0.0, smallest, 2.0**-102, 2.0**-90, 1e-3, 1.0, 3.3, 1e20, largest], np.float32)
    bounds = np.concatenate([some, -some])
    with np.errstate(over="ignore"):
        beside = [bounds, np.nextafter(bounds, np.float32(np.inf)), np.nextafter(bounds, np.float32(-np.inf))]
    values = np.unique(np.concatenate(beside))
    values = values[(np.abs(values) < largest) & ((values == 0) | (np.abs(values) >= smallest))]  # as XNNPACK has them
    below = _outside(bounds[bounds != -smallest].astype(np.float64), TensorType("float32", (1,))).astype(np.float32)
    for bound, low in zip(bounds[bounds != -smallest], below, strict=True):
        with np.errstate(over="ignore"):
            differences = values - low
        seen = np.where(np.abs(differences) < smallest, 0.0, differences) > 0.0
        assert np.array_equal(seen, values >= bound), f"{bound!r}"


def written(program: Program) -> bytes | None:
    """A file with every traced tensor, or None where the program is refused for a reason that the cells name."""
    try:
        return tflite_model(program, traced_names(program), signature="trace")
    except BitlensError as error:
        if "no TFLite form for strides" in str(error) or "no exact form in TFLite" in str(error):
            return None
        raise


# A pool and two convolutions whose steps leave places out: XNNPACK took none of them, ai-edge-litert 1.2 died of one.
SKIPPING = (4026, 3186, 3296)


def test_drawn_programs() -> None:
    taken = 0
    for seed in [*range(40), *SKIPPING]:
        network = drawn_program(seed)
        program, random = gradient_program(network), np.random.default_rng(seed)
        model = written(program)
        if model is None:
            continue
        taken += 1
        shape = (3, *network.image_type.shape)
        codes = random.integers(-512, 768, shape)
        codes[0] = random.choice([-512, 767], shape[1:])
        classes = next(item for item in program.inputs if item.name == SEED).type.shape[0]
        feeds = feeds_of(program, codes, one_hot(np.arange(3) % classes, classes))
        got, expected = tflite_trace(program, feeds, model), reference_trace(program, feeds)
        assert compared(program, got, expected) == {}, f"drawn_program({seed})"
        assert partitions(open_tflite(model)) == 1, f"drawn_program({seed})"
        assert not unread(model), f"drawn_program({seed})"
        assert not same_that_skips(model), f"drawn_program({seed})"
        assert relative_errors(got[INPUT_GRADIENT], expected[INPUT_GRADIENT]).max() <= GRADIENT_TOLERANCE, seed
    assert taken >= 20


def test_a_changed_threshold_is_seen(programs: dict[str, Program], held_out: npt.NDArray[np.uint8]) -> None:
    program = programs["w4a4"]
    node = program.node("act2")
    thresholds = node.arrays["thresholds"].copy()
    thresholds[:, -1] += np.where(node.arrays["direction"] > 0, 1, -1)
    arrays = {**node.arrays, "thresholds": thresholds}
    changed = replace(program, nodes=tuple(replace(n, arrays=arrays) if n.name == "act2" else n for n in program.nodes))
    feeds = feeds_of(program, held_out)
    assert compared(program, tflite_trace(program, feeds), reference_trace(changed, feeds)).keys() >= {"act2"}


def test_windows_and_the_guided_rule_are_those_that_are_fixed(
    gradients: dict[str, Program], held_out: npt.NDArray[np.uint8]
) -> None:
    program = gradients["w4a4"]
    bounds = next(item for item in program.inputs if item.name == "act2.mask_high")
    assert bounds.default is not None
    fixed = {GUIDED_FLOOR: np.zeros(1, np.float32), "act2.mask_high": bounds.default // 2}
    feeds = feeds_of(program, held_out[:8], one_hot(np.arange(8), 10))
    model = tflite_model(program, traced_names(program), signature="trace", fixed=fixed)
    got, expected = tflite_trace(program, feeds, model), reference_trace(program, feeds | fixed)
    assert compared(program, got, expected) == {}
    assert relative_errors(got[INPUT_GRADIENT], expected[INPUT_GRADIENT]).max() <= GRADIENT_TOLERANCE
    free = reference_trace(program, feeds)
    assert differences(expected, free)
    assert not np.array_equal(expected[INPUT_GRADIENT], free[INPUT_GRADIENT])


def test_a_file_does_not_depend_on_what_else_it_gives_out(
    gradients: dict[str, Program], held_out: npt.NDArray[np.uint8]
) -> None:
    program = gradients["w2a2"]
    runner = open_tflite(tflite_model(program, [INPUT_GRADIENT])).get_signature_runner("forward")
    feeds = feeds_of(program, held_out[:1], one_hot([3], 10))
    alone = runner(**{name: channels_last(value.astype(np.float32)) for name, value in feeds.items()})
    assert list(alone) == [INPUT_GRADIENT]
    whole = tflite_trace(program, feeds)[INPUT_GRADIENT]
    assert np.array_equal(channels_first(alone[INPUT_GRADIENT]), whole)


def test_the_same_program_gives_the_same_bytes(programs: dict[str, Program]) -> None:
    assert tflite_model(programs["w1a1"]) == tflite_model(programs["w1a1"])


def test_an_output_must_exist(programs: dict[str, Program]) -> None:
    with pytest.raises(BitlensError, match="no tensor named 'nothing'"):
        tflite_model(programs["w1a1"], ["nothing"])
    with pytest.raises(BitlensError, match=f"no tensor named '{GUIDED_FLOOR}'"):
        tflite_model(gradient_program(programs["w1a1"]), [GUIDED_FLOOR])


def test_an_op_without_a_cell_is_refused(programs: dict[str, Program]) -> None:
    program = programs["w1a1"]
    nodes = (*program.nodes[:-1], replace(program.nodes[-1], op="affine"))
    strange = Node("softmax", "last", (program.nodes[-1].outputs[0],), ("last",))
    from bitlens.runtime.ops import OPS, Op

    OPS["softmax"] = Op("softmax", lambda node, types: tuple(types), lambda node, values: tuple(values))
    try:
        with pytest.raises(BitlensError, match=r"node 'last' \(softmax\): this op has no TFLite cell"):
            tflite_model(replace(program, nodes=(*nodes, strange), outputs=("last",)))
    finally:
        del OPS["softmax"]
