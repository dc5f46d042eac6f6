"""The benchmark itself: its files, its arithmetic, and that a wrong result has no figure. No test asserts a time."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from bench import own_jobs, peer_jobs
from bench.cold_start import BOUND_MS, ENGINES, ColdStart, cold_starts, text_of_cold_starts
from bench.job import CHAIN, Absence, Check, Group, Job, Key
from bench.layer_program import last_codes, layer_program
from bench.measurement import Table, measured
from bench.network_program import network_program
from bench.onnx_model import onnx_model
from bench.quantization import activation_scales
from bench.report import json_of, text_of_outcomes, text_of_table
from bench.shapes import LayerShape, NetworkShape, read_layers, read_networks
from bench.standard_network import (
    NETWORKS,
    Convolution,
    Reals,
    StandardNetwork,
    evaluate,
    same_padding,
    standard_chain,
    standard_network,
    tensor_ranges,
    tensor_shapes,
)
from bench.targets import TARGETS, Outcome, Target, outcomes
from bench.timing import interleaved, median_ratio, time_jobs

from bitlens.runtime.engines import open_engine
from bitlens.runtime.engines.native import KERNELS_VARIABLE
from bitlens.runtime.errors import BitlensError
from bitlens.runtime.network import Network
from bitlens.train.models import MODELS

BENCH = Path(own_jobs.__file__).parent
LAYER = "cifar 4 8 16 16 3 1 w1a1,w2a2"
NETWORK = "net vgg_small 3 32 32 10 w1a1 forward,gradient"
SMALL = LayerShape("small", 5, 6, 32, 3, ("w1a1", "w2a2", "w4a4"))
LENET = NetworkShape("small", "lenet", (1, 8, 8), 4, ("w1a1",), ("forward", "gradient"))


def test_own_files_are_read() -> None:
    layers, networks = read_layers(BENCH / "layers.txt"), read_networks(BENCH / "networks.txt")
    first = layers[0]
    assert (first.height, first.width, first.channels, first.kernel) == (56, 56, 64, 3)
    assert first.macs == 56 * 56 * 64 * 64 * 9
    assert {network.model for network in networks} <= set(MODELS) & set(NETWORKS)
    assert any("occlusion" in network.tasks for network in networks)


@pytest.mark.parametrize(
    ("line", "refusal"),
    [
        ("other 4 8 16 16 3 1", "7 columns, expected 8: name height width in out kernel stride precisions"),
        ("other 4 8 16 32 3 1 w1a1", "16 channels become 32 at stride 1: expected a layer that gives the shape"),
        ("other 4 8 16 16 3 2 w1a1", "16 channels become 16 at stride 2"),
        ("other 4 8 16 16 2 1 w1a1", "a kernel of 2 has no middle"),
        ("other 4 0 16 16 3 1 w1a1", "'0' is no number from 1 to 10000"),
        ("other 4 -8 16 16 3 1 w1a1", "'-8' is no number"),
        ("other 4 8.0 16 16 3 1 w1a1", "'8.0' is no number"),
        ("other 4 8 16 16 3 1 w3a1", "'w3a1' is unknown: choose from w1a1, w2a2, w4a4"),
        ("c/far 4 8 16 16 3 1 w1a1", "the name 'c/far' has other signs"),
        (LAYER, "'cifar' stands in this file already"),
    ],
)
def test_a_bad_line_of_layers_is_refused_with_file_and_line(line: str, refusal: str, tmp_path: Path) -> None:
    path = tmp_path / "layers.txt"
    path.write_text(f"# a comment\n\n{LAYER}\n{line}\n")
    with pytest.raises(BitlensError) as refused:
        read_layers(path)
    assert str(refused.value).startswith(f"{path}, line 4: {refusal}")


@pytest.mark.parametrize(
    ("line", "refusal"),
    [
        ("other vgg_small 3 32 32 10 w1a1", "7 columns, expected 8"),
        ("other vgg_small 3 32 32 x w1a1 forward", "'x' is no number"),
        ("other vgg_small 3 32 32 10 w1a1 forward,", "'' is unknown: choose from forward, gradient"),
        (NETWORK, "'net' stands in this file already"),
    ],
)
def test_a_bad_line_of_networks_is_refused_with_file_and_line(line: str, refusal: str, tmp_path: Path) -> None:
    path = tmp_path / "networks.txt"
    path.write_text(f"{NETWORK}\n{line}\n")
    with pytest.raises(BitlensError) as refused:
        read_networks(path)
    assert str(refused.value).startswith(f"{path}, line 2: {refusal}")


def test_a_file_without_lines_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "layers.txt"
    path.write_text("# nothing\n")
    with pytest.raises(BitlensError, match="has no line to time"):
        read_layers(path)


def test_a_ratio_is_the_median_of_the_rounds_own_ratios() -> None:
    # Of the medians it would be 4 / 2.
    assert median_ratio(np.array([3.0, 4.0, 90.0]), np.array([1.0, 2.0, 60.0])) == 2.0
    assert median_ratio(np.array([1.0, 4.0, 9.0]), np.array([1.0, 1.0, 1.0])) == 4.0


def test_rounds_in_which_a_chain_took_no_longer_are_left_out() -> None:
    assert median_ratio(np.array([2.0, -1.0, 4.0]), np.ones(3)) == 3.0
    assert np.isnan(median_ratio(np.array([2.0, -1.0, 0.0]), np.ones(3)))


def nothing() -> None:
    pass


RIGHT = Check(0.0, 0.0, "outputs that differ")
WRONG = Check(3.0, 0.0, "outputs that differ")


def job(engine: str, *checks: Check, precision: str = "w1a1", task: str = "layer", calls: int = 2) -> Job:
    return Job(Key(engine, precision, task), (nothing,) * calls, checks)


def test_a_layer_is_a_long_chain_less_a_short_one() -> None:
    times = np.array([[10.0, 2.0], [18.0, 2.0]])
    assert CHAIN == 9
    assert job("native", RIGHT).seconds(times).tolist() == [1.0, 2.0]
    assert job("native", RIGHT, calls=1).seconds(times[:, :1]).tolist() == [10.0, 18.0]


def test_every_round_visits_every_call_in_turn() -> None:
    visits: list[str] = []
    times = interleaved([lambda: visits.append("a"), lambda: visits.append("b")], 3)
    assert times.shape == (3, 2)
    turns = "".join(visit for visit, before in zip(visits, ["", *visits], strict=False) if visit != before)
    assert turns == "ab" * 4  # once to warm up, then three rounds
    assert [len(part) for part in time_jobs([job("x", RIGHT), job("y", RIGHT, calls=1)], 3)] == [3, 3]
    assert time_jobs([], 3) == []


def table_of(*jobs: Job, seconds: list[list[float]]) -> Table:
    group = Group("layer", "small", 1000, jobs, (Absence(Key("ncnn", "float32", "layer"), "not installed"),))
    return measured(group, [np.array(each) for each in seconds])


def test_a_wrong_result_is_marked_and_has_no_figure() -> None:
    jobs = (job("native", RIGHT), job("onnxruntime", RIGHT, WRONG, precision="u8s8"), job("torch"))
    table = table_of(*jobs, seconds=[[1.0, 1.0], [4.0, 4.0], [5.0, 5.0]])
    own, wrong, unchecked = (each.key for each in jobs)
    row = table.row(wrong)
    assert row is not None
    assert row.note == "WRONG: 3 outputs that differ, expected at most 0"
    assert np.isnan(row.milliseconds)
    assert np.isnan(table.ratio(wrong, own))
    assert np.isnan(table.ratio(own, wrong))
    assert np.isnan(table.ratio(unchecked, own))
    assert table.ratio(own, own) == 1.0
    text = text_of_table(table)
    assert "WRONG: 3 outputs" in text
    assert "WRONG: not checked" in text
    assert "not installed" in text
    written = json.loads(json.dumps(json_of([table], [], {}), allow_nan=False))
    assert written["bench_version"] == 1
    rows = {row["engine"]: row for row in written["tables"][0]["rows"]}
    assert rows["native"]["milliseconds"] == 1000.0
    assert rows["onnxruntime"]["milliseconds"] is None
    assert [check["passed"] for check in rows["onnxruntime"]["checks"]] == [True, False]


def test_an_error_that_is_not_a_number_is_wrong() -> None:
    assert not job("native", Check(float("nan"), 1.0, "error")).is_right


def test_a_target_is_met_by_the_worst_of_its_tables_or_not_at_all() -> None:
    native, peer = job("native", RIGHT, precision="w2a2"), job("onnxruntime", RIGHT, precision="u8s8")
    fast = table_of(native, peer, seconds=[[1.0], [2.0]])
    slow = replace(table_of(native, peer, seconds=[[1.0], [1.2]]), name="slow")
    wrong = table_of(native, replace(peer, checks=(WRONG,)), seconds=[[1.0], [2.0]])
    (target,) = (each for each in TARGETS if each.numerator == peer.key)
    assert (target.bound, target.at_least) == (1.3, True)

    def outcome(*tables: Table) -> Outcome:
        return next(each for each in outcomes(tables, {}) if each.target is target)

    assert outcome(fast).verdict == "met"
    assert (outcome(fast, slow).verdict, outcome(fast, slow).ratio, outcome(fast, slow).place) == (
        "missed",
        1.2,
        "slow",
    )
    assert outcome(fast, wrong).verdict == "not measured"
    assert outcome().verdict == "not measured"
    assert "not measured" in text_of_outcomes([outcome()])


def test_an_upper_bound_is_an_upper_bound() -> None:
    target = Target("x", "layer", "", Key("a", "", ""), Key("b", "", ""), 0.3, at_least=False)
    assert [Outcome(target, ratio, "").verdict for ratio in (0.2, 0.3, 0.4)] == ["met", "met", "missed"]


def test_targets_for_other_processors_are_left_out() -> None:
    everywhere = outcomes([], {})
    here = outcomes([], {"avx512vpopcntdq": True})
    assert len(here) == len(TARGETS) > len(everywhere) > 0


def test_an_engine_that_is_not_installed_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer_jobs, "find_spec", lambda name: None)
    found = list(peer_jobs.layer_jobs(SMALL))
    assert len(found) == len(peer_jobs.PEERS)
    assert all(isinstance(each, Absence) and each.reason.startswith("not installed") for each in found)


@pytest.mark.parametrize(("size", "kernel", "stride"), [(32, 3, 1), (32, 3, 2), (33, 3, 2), (224, 7, 2), (7, 1, 2)])
def test_same_padding_is_that_of_onnx(size: int, kernel: int, stride: int) -> None:
    before, after = same_padding(size, kernel, stride)
    rows = -(-size // stride)
    assert 0 <= after - before <= 1
    assert (size + before + after - kernel) // stride + 1 == rows
    assert before + after == max(0, (rows - 1) * stride + kernel - size)


STANDARD = [
    *(standard_network(NetworkShape("x", model, (3, 35, 33), 7, (), ())) for model in ("resnet20", "bireal_resnet18")),
    *(standard_network(NetworkShape("x", model, (3, 16, 24), 7, (), ())) for model in ("lenet", "vgg_small")),
    standard_chain(SMALL, CHAIN),
]


def image_of(network: StandardNetwork) -> Reals:
    return np.random.default_rng(1).random(network.image)


@pytest.mark.parametrize("network", STANDARD, ids=lambda network: f"{len(network.layers)}-layers")
def test_onnx_models_compute_the_standard_network(network: StandardNetwork) -> None:
    subject = peer_jobs._subject(network)
    for peer in (peer_jobs.ORT_FLOAT, peer_jobs.ORT_BYTES):
        check = peer_jobs._check(peer, peer_jobs._open(peer, subject), subject)
        assert check.passed, (peer, check)


@pytest.mark.parametrize("network", STANDARD, ids=lambda network: f"{len(network.layers)}-layers")
def test_u8s8_takes_the_fast_path_in_every_layer(network: StandardNetwork, tmp_path: Path) -> None:
    scales = activation_scales(network, tensor_ranges(network, image_of(network)[None]))
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 4
    onnxruntime.InferenceSession(onnx_model(network, scales), options, providers=["CPUExecutionProvider"])
    ops = [node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node]
    assert not {"Conv", "FusedConv", "Gemm", "FusedGemm", "MatMul", "Add"} & set(ops)
    assert ops.count("QLinearConv") == sum(hasattr(layer, "relu") for layer in network.layers)
    assert (ops.count("QuantizeLinear"), ops.count("DequantizeLinear")) == (1, 1)


@pytest.mark.parametrize("network", STANDARD, ids=lambda network: f"{len(network.layers)}-layers")
def test_torch_computes_the_standard_network_and_its_gradient(network: StandardNetwork) -> None:
    subject = peer_jobs._subject(network)
    assert peer_jobs._check(peer_jobs.TORCH, peer_jobs._open(peer_jobs.TORCH, subject), subject).passed
    if len(tensor_shapes(network)[network.output]) == 1:
        assert peer_jobs._torch_gradient_job(subject).is_right


@pytest.mark.parametrize("network", STANDARD, ids=lambda network: f"{len(network.layers)}-layers")
@pytest.mark.parametrize("peer", [peer_jobs.LITERT_FLOAT, peer_jobs.LITERT_BYTES, peer_jobs.NCNN], ids=str)
def test_other_formats_compute_the_standard_network(peer: peer_jobs.Peer, network: StandardNetwork) -> None:
    pytest.importorskip(peer.module)
    subject = peer_jobs._subject(network)
    check = peer_jobs._check(peer, peer_jobs._open(peer, subject), subject)
    assert check.passed, check


def test_larq_computes_a_binary_chain() -> None:
    pytest.importorskip("ai_edge_litert")
    if peer_jobs.missing_module(peer_jobs.LARQ):
        pytest.skip("larq-compute-engine is not installed")
    made = peer_jobs._larq_job(SMALL)
    assert made.is_right, made.checks


def test_a_peer_that_computes_another_network_is_caught() -> None:
    network = standard_network(LENET)
    subject = peer_jobs._subject(network)
    first = network.layers[0]
    assert isinstance(first, Convolution)
    other = replace(network, layers=(replace(first, bias=-first.bias), *network.layers[1:]))
    call = peer_jobs._open(peer_jobs.ORT_FLOAT, replace(subject, network=other))
    assert not peer_jobs._check(peer_jobs.ORT_FLOAT, call, subject).passed
    short = replace(subject, result=subject.result[:2])
    assert not peer_jobs._check(peer_jobs.ORT_FLOAT, call, short).passed


@pytest.mark.parametrize("precision", SMALL.precisions)
def test_every_code_occurs_in_every_layer(precision: str) -> None:
    program = layer_program(SMALL, precision, 4)
    names = [last_codes(index) for index in range(5)]
    image = np.random.default_rng(5).integers(0, 256, (1, 1, 5, 6)).astype(np.int16)
    engine = open_engine(Network(Path("x.program"), program), "reference")
    for codes in engine.run_forward({"image": image}, names).values():
        assert len(np.unique(codes)) == {"w1a1": 2, "w2a2": 4, "w4a4": 16}[precision]


def test_our_layers_are_checked_against_the_reference_engine() -> None:
    jobs = list(own_jobs.layer_jobs(SMALL))
    assert {made.key.precision for made in jobs} == set(SMALL.precisions)
    assert all(made.is_right and made.kernels for made in jobs)
    assert own_jobs._differing(np.array([1, 2, 3]), np.array([1, 5, 6]), "codes").error == 2.0
    assert not own_jobs._differing(np.array([1, 2]), np.array([1, 5]), "codes").passed


def test_a_wrong_layer_of_ours_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(program: object, name: str) -> object:
        engine = opened(program, name)  # type: ignore[arg-type]
        if name != "native":
            return engine

        def run(feeds, outputs):  # type: ignore[no-untyped-def]
            results = engine.run_forward(feeds, outputs)
            results[outputs[-1]].flat[7] *= -1
            return results

        return replace(engine, run_forward=run)

    opened = own_jobs._open
    monkeypatch.setattr(own_jobs, "_open", broken)
    one = replace(SMALL, precisions=("w1a1",))
    assert [made.is_right for made in own_jobs.layer_jobs(one)] == [False] * len(own_jobs.own_engines())


def test_our_networks_do_every_task(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from bench import network_program

    monkeypatch.setattr(network_program, "CACHE", tmp_path)
    monkeypatch.delenv(KERNELS_VARIABLE, raising=False)
    shape = replace(LENET, image=(1, 16, 16), tasks=("forward", "gradient", "smoothgrad", "occlusion"))
    jobs = list(own_jobs.network_jobs(shape))
    tasks = [made.key.task for made in jobs if made.key.engine == own_jobs.OWN]
    assert tasks == [
        "forward",
        "gradient float32",
        "gradient int8",
        "smoothgrad float32",
        "smoothgrad int8",
        "occlusion near",
        "occlusion whole",
    ]
    for made in jobs:
        assert made.is_right, (made.key, made.checks)
    assert KERNELS_VARIABLE not in os.environ
    (path,) = tmp_path.glob("*.program")
    before = path.stat().st_mtime_ns
    network_program.network_program(shape, "w1a1")
    assert path.stat().st_mtime_ns == before


def test_evaluation_is_a_convolution_with_a_pool() -> None:
    """Once by hand: three pixels in a row, one channel, a kernel that looks at the left neighbour."""
    chain = standard_chain(LayerShape("x", 1, 4, 1, 3, ()), 1)
    (layer,) = chain.layers
    assert isinstance(layer, Convolution)
    weight = np.zeros((1, 1, 3, 3), np.float32)
    weight[0, 0, 1, 0] = 2.0
    own = StandardNetwork(chain.image, (replace(layer, weight=weight, bias=np.array([-1.0], np.float32)),))
    values = evaluate(own, np.array([[[1.0, 3.0, 0.25, 5.0]]]))
    assert values[own.output].tolist() == [[[0.0, 1.0, 5.0, 0.0]]]


def test_cold_starts_are_those_of_the_command() -> None:
    found = cold_starts(LENET, network_program(LENET, "w1a1"), 2)
    assert [each.engine for each in found] == list(ENGINES)
    for each in found:
        assert len(each.milliseconds) == len(each.cpu_milliseconds) == 2  # the first start is not counted
        assert min(*each.milliseconds, *each.cpu_milliseconds) > 0
    assert "cold start of `bitlens predict`, small" in text_of_cold_starts("small", found)


def test_a_cold_start_beyond_the_bound_is_missed() -> None:
    assert ColdStart("native", (9e9,), (BOUND_MS,)).verdict == "met"
    slow = ColdStart("native", (1.0,), (BOUND_MS + 1,))
    assert slow.verdict == "missed"
    assert text_of_cold_starts("small", [slow]).rstrip().endswith("<= 1000 ms: missed")
