"""The command line: what it prints, and that a refusal is one line, an exit code and nothing else."""

from __future__ import annotations

import argparse
import errno
import hashlib
import html
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
from command_line import Answer, answered, check_refused
from exported_network import exported_network, replaced_member, unpacked
from method_settings import quick
from missing_modules import without_kernels, without_modules
from PIL import Image
from small_programs import LABELS, images_for, small_network
from tflite_by_schema import buffer, model, operator_code, rich_model, subgraph, tensor

from bitlens.runtime import cli
from bitlens.runtime.bundle_file import open_bundle
from bitlens.runtime.engines import open_engine, registry
from bitlens.runtime.engines.engine import Engine
from bitlens.runtime.engines.native import KERNELS_VARIABLE
from bitlens.runtime.engines.tflite_interpreter import PACKAGE_VARIABLE, PACKAGES
from bitlens.runtime.errors import BitlensError
from bitlens.runtime.methods import METHODS, SURROGATE
from bitlens.runtime.methods.integrated_gradients import completeness_gap
from bitlens.runtime.native.kernels import MODULE, kernels
from bitlens.runtime.network import open_network
from bitlens.runtime.program_file import program_bytes
from bitlens.runtime.trust import trust_bundle

RUNTIME_VERBS = (
    "info",
    "predict",
    "explain",
    "verify",
    "evaluate",
    "demo",
    "capture",
    "bench",
    "deploy",
    "trust",
    "doctor",
)
NETWORK = "network.bitlens"
EVERY = ["native", "onnxruntime", "tflite", "reference", "native-int8"]


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a trusted network, its programs and a few images in it."""
    place = tmp_path_factory.mktemp("pristine")
    path = exported_network(place)
    trust_bundle(open_bundle(path).sha256, path.name)
    for name, content in unpacked(path).items():
        if name.endswith(".program"):
            (place / name).write_bytes(content)
    (place / "folder").mkdir()
    codes = images_for(small_network(), 1)[0]
    np.save(place / "image.npy", codes)
    np.save(place / "x.npy", codes / 255.0)
    Image.fromarray(codes[0]).save(place / "image.png")
    Image.fromarray(np.repeat(codes[0][..., None], 3, axis=2)).save(place / "colour.png")
    return place


@pytest.fixture
def place(pristine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, in which the command runs."""
    copy = shutil.copytree(pristine, tmp_path / "place")
    monkeypatch.chdir(copy)
    return Path(copy)


@pytest.fixture
def bitlens(capsys: pytest.CaptureFixture[str]) -> Callable[..., Answer]:
    return lambda *arguments: answered(capsys, *arguments)


def process(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """The same in a process of its own."""
    command = [sys.executable, "-W", "error", "-m", "bitlens.runtime.cli", *arguments]
    return subprocess.run(
        command, capture_output="stdout" not in options, text=True, timeout=60, check=False, **options
    )


def listing(folder: Path) -> dict[str, bytes | None]:
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


Bitlens = Callable[..., Answer]


# What works.


def test_info(place: Path, bitlens: Bitlens) -> None:
    answer = bitlens("info", NETWORK)
    assert (answer.code, answer.err) == (0, "")
    for said in ("1x8x8", "ant, bee, cat", ", ".join(EVERY), "forward.onnx", "ternary", "binary", "mixed"):
        assert said in answer.out
    facts = json.loads(bitlens("info", NETWORK, "--json").out)
    assert facts["input"] == {"dtype": "int16", "shape": [1, 8, 8]}
    assert facts["engines"] == EVERY
    assert [layer["name"] for layer in facts["layers"]][:3] == ["conv1", "pool1", "act1"]
    assert facts["metadata"]["labels"] == list(LABELS)
    assert facts["members"]["network.program"] == (place / "network.program").stat().st_size
    assert facts["sha256"] == hashlib.sha256((place / NETWORK).read_bytes()).hexdigest()
    assert facts["trusted"] is True
    assert facts["feature_maps"] == ["act1", "act2"]
    assert facts["layers"][3]["cost"] == {
        "name": "conv2",
        "op": "conv2d",
        "weights": 108,
        "weight_bits": 2,
        "weight_bytes": 27,
        "input_bits": 2,
        "macs": 16 * 108,
    }
    for said in (facts["sha256"], "trusted", "centre-area-1", "act2 4x4x4", "2.41 bits each"):
        assert said in answer.out


def test_info_of_a_hostile_network_stays_within_its_columns(place: Path, bitlens: Bitlens) -> None:
    metadata: dict[str, Any] = {
        "labels": [f"\x1b[2J{number}" * 30 for number in range(200)],
        "precision": "x" * 400,
        "model": "\x07",
        "fit": {"epochs": "\x1b[0m" * 50, "seed": [1] * 300},
        "versions": {"\x1b]0;": "y " * 300},
        "test_accuracy": "all",
    }
    program = small_network()
    nodes = [replace(node, name=node.name + "n" * 300) for node in program.nodes]
    (place / "bad.program").write_bytes(program_bytes(replace(program, nodes=tuple(nodes), metadata=metadata)))
    answer = bitlens("info", "bad.program")
    assert (answer.code, answer.err) == (0, "")
    assert all(line.isprintable() and len(line) <= 100 for line in answer.out.splitlines())


def test_info_of_an_onnx_file(place: Path, bitlens: Bitlens) -> None:
    (place / "forward.onnx").write_bytes(unpacked(place / NETWORK)["forward.onnx"])
    answer = bitlens("info", "forward.onnx")
    assert (answer.code, answer.err) == (0, "")
    for said in ("ai.onnx 18", "image int16 (N, 1, 8, 8)", "logits float32 (N, 3)", "2 Conv", "quantizers  none"):
        assert said in answer.out
    facts = json.loads(bitlens("info", "forward.onnx", "--json").out)
    assert facts["kind"] == "onnx"
    assert facts["ops"]["Conv"] == 2


def test_info_of_a_tflite_file(place: Path, bitlens: Bitlens) -> None:
    (place / "rich.tflite").write_bytes(rich_model())
    answer = bitlens("info", "rich.tflite")
    assert (answer.code, answer.err) == (0, "")
    for said in (
        "made by hand", "version 3 of the schema, needs TensorFlow Lite 1.14.0", "2, of which the first",
        "image uint8 (?, 4, 4, 3) scale 0.5 zero 128", "run (x -> y)", "2 DEQUANTIZE", "2 int8 in 15 bytes",
        "pets, version v2, by nobody, tells pets", "mean 0, 1.5, deviation 255", "labels.txt (labels of an axis)\n",
        "appended    more.txt",
    ):  # fmt: skip
        assert said in answer.out
    facts = json.loads(bitlens("info", "rich.tflite", "--json").out)
    assert facts["kind"] == "tflite"
    assert facts["ops"]["DEQUANTIZE"] == 2
    assert facts["metadata"]["normalizations"] == [{"input": "image", "mean": [0.0, 1.5], "deviation": [255.0]}]


def test_names_in_a_tflite_file_do_not_steer_the_terminal(place: Path, bitlens: Bitlens) -> None:
    one = subgraph([tensor("\x1b[31m" * 90, "float32", (1,), scales=[np.nan, np.inf])], [], [0], [0])
    content = model([one], [buffer()], [operator_code("CUSTOM", "\x07")], description="\x1b]0;" * 60)
    (place / "odd.tflite").write_bytes(content)
    answer = bitlens("info", "odd.tflite")
    assert (answer.code, answer.err) == (0, "")
    assert all(line.isprintable() and len(line) <= 100 for line in answer.out.splitlines())
    facts = json.loads(bitlens("info", "odd.tflite", "--json").out, parse_constant=pytest.fail)
    assert facts["inputs"][0]["quantization"]["low"] is None


def test_info_of_a_bare_program_and_of_a_twin(place: Path, bitlens: Bitlens) -> None:
    assert "engines     native, reference, native-int8 on this machine" in bitlens("info", "network.program").out
    assert "x float32" in bitlens("info", "twin.program").out


@pytest.mark.parametrize("engine", ["auto", *EVERY])
@pytest.mark.parametrize("image", ["image.npy", "x.npy", "image.png", "colour.png"])
def test_predict(engine: str, image: str, place: Path, bitlens: Bitlens) -> None:
    answer = bitlens("predict", NETWORK, image, "--engine", engine, "--json")
    assert (answer.code, answer.err) == (0, "")
    result = json.loads(answer.out)
    assert result["engine"] == ("native" if engine == "auto" else engine)
    logits = open_engine(open_network(place / NETWORK), "reference").forward(images_for(small_network(), 1))[0]
    assert [entry["class"] for entry in result["classes"]] == np.argsort(-logits).tolist()
    assert [entry["logit"] for entry in result["classes"]] == sorted(map(float, logits), reverse=True)
    assert sum(entry["softmax"] for entry in result["classes"]) == pytest.approx(1.0, abs=1e-12)
    assert result["classes"][0]["label"] == LABELS[logits.argmax()]


def test_predict_for_a_person(place: Path, bitlens: Bitlens) -> None:
    answer = bitlens("predict", NETWORK, "image.png", "--top", "1")
    assert re.fullmatch(r"(ant|bee|cat) +\d+\.\d\d %   logit [+-]\d+\.\d{3}\n", answer.out)
    twin = bitlens("predict", NETWORK, "image.png", "--twin")
    assert twin.code == 0
    assert len(twin.out.splitlines()) == 3


@pytest.mark.parametrize("name", METHODS)
def test_explain(name: str, place: Path, bitlens: Bitlens) -> None:
    before = set(listing(place))
    options = [word for option, value in quick(name).items() for word in ("--set", f"{option}={value}")]
    answer = bitlens(
        "explain", NETWORK, "image.npy", "--method", name, "--target", "bee", "--map", "map.npy", "--json", *options
    )
    assert (answer.code, answer.err) == (0, "")
    assert set(listing(place)) - before == {f"image.{name}.png", "map.npy"}
    result = json.loads(answer.out)
    assert (result["method"], result["target"], result["label"]) == (name, 1, "bee")
    assert (result["picture"], result["map"]) == (f"image.{name}.png", "map.npy")
    engine = open_engine(open_network(place / NETWORK))
    expected = METHODS[name].function(engine, images_for(small_network(), 1), [1], **quick(name))[0]
    passes = METHODS[name].passes(engine.program, **quick(name))
    assert (result["forward_passes"], result["backward_passes"]) == (passes.forward, passes.backward)
    assert result["settings"] == quick(name)
    assert np.array_equal(np.load("map.npy"), expected)
    with Image.open(result["picture"]) as picture:
        assert picture.size == (3 * 224 + 4 * 8 + 8, 224)


def test_explain_for_a_person(place: Path, bitlens: Bitlens) -> None:
    answer = bitlens("explain", NETWORK, "image.npy", "--output", "out.png", "--method", "grad_cam", "--layer", "act1")
    assert (answer.code, answer.err) == (0, "")
    assert (place / "out.png").exists()
    assert re.match(r"out\.png: grad_cam for '(ant|bee|cat)' \(logit", answer.out)
    assert METHODS["grad_cam"].meaning in answer.out


def test_explain_says_what_a_long_method_will_cost(place: Path, bitlens: Bitlens) -> None:
    long = bitlens("explain", NETWORK, "image.npy", "--method", "smooth_taylor").out
    assert long.splitlines()[0] == "smooth_taylor takes 150 forward, 150 backward passes"
    short = bitlens("explain", NETWORK, "image.npy", "--method", "smooth_taylor", "--set", "roots=10").out
    assert short.startswith("image.smooth_taylor.png: ")
    assert "10 forward, 10 backward passes; left to right" in short


def test_explain_tells_the_completeness_gap(place: Path, bitlens: Bitlens) -> None:
    arguments = ["explain", NETWORK, "image.npy", "--method", "integrated_gradients", "--set", "baseline=noise"]
    told = json.loads(bitlens(*arguments, "--seed", "3", "--json", "--map", "map.npy").out)
    engine = open_engine(open_network(place / NETWORK))
    image, target = images_for(small_network(), 1), [told["target"]]
    maps = np.load("map.npy")[None]
    assert told["completeness_gap"] == completeness_gap(engine, image, target, maps, baseline="noise", seed=3)[0]
    assert told["settings"] == {"baseline": "noise", "seed": 3}
    assert (
        f"completeness gap of integrated_gradients: {told['completeness_gap']:+.3g}"
        in bitlens(*arguments, "--seed", "3").out
    )


QUICK_FOR_ALL = [
    word
    for text in ("nsamples=2", "n_steps=3", "roots=2", "max_iteration=1", "iterations=2", "masks=9")
    for word in ("--set", text)
]


def test_explain_by_all_methods(place: Path, bitlens: Bitlens) -> None:
    answer = bitlens("explain", NETWORK, "image.npy", "--method", "all", "--seed", "2", *QUICK_FOR_ALL)
    assert (answer.code, answer.err) == (0, "")
    for method in METHODS.values():
        assert f"{method.title}: {method.meaning}" in answer.out
    assert answer.out.count(SURROGATE) == 1
    with Image.open("image.all.png") as picture:
        rows = -(-(1 + len(METHODS)) // 6)
        assert picture.size == (6 * 224 + 5 * 8, rows * (224 + 36) + (rows - 1) * 8)
    answer = bitlens("explain", NETWORK, "image.npy", "--method", "all", "--json", "--layer", "act1", *QUICK_FOR_ALL)
    told = json.loads(answer.out)
    assert [each["name"] for each in told["methods"]] == list(METHODS)
    assert told["left_out"] == []
    assert {each["name"] for each in told["methods"] if "layer" in each["settings"]} == {
        "grad_cam",
        "grad_cam_plus_plus",
        "layer_cam",
    }


def test_a_method_that_does_not_fit_is_left_out_of_all(
    place: Path, bitlens: Bitlens, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*given: Any, **options: Any) -> NoReturn:
        raise BitlensError("no map here")

    monkeypatch.setitem(METHODS, "rise", replace(METHODS["rise"], function=refuse))
    answer = bitlens("explain", NETWORK, "image.npy", "--method", "all", *QUICK_FOR_ALL)
    assert answer.code == 0
    assert "rise is left out: no map here" in answer.out
    check_refused(bitlens("explain", NETWORK, "image.npy", "--method", "rise", "--json"), "no map here")
    for name in METHODS:
        monkeypatch.setitem(METHODS, name, replace(METHODS[name], function=refuse))
    check_refused(bitlens("explain", NETWORK, "image.npy", "--method", "all", "--json"), "left out: no map here")


@pytest.mark.parametrize("name", ["grad_cam", "all"])
def test_explain_writes_a_page(name: str, place: Path, bitlens: Bitlens) -> None:
    options = QUICK_FOR_ALL if name == "all" else []
    assert bitlens("explain", NETWORK, "image.npy", "--method", name, "--output", "out.html", *options).code == 0
    text = (place / "out.html").read_text()
    shown = METHODS if name == "all" else ["grad_cam"]
    assert text.count("<img ") == len(shown)
    for each in shown:
        assert html.escape(METHODS[each].paper) in text
        assert html.escape(METHODS[each].meaning) in text


@pytest.mark.parametrize("target", ["2", "cat"])
def test_targets(target: str, place: Path, bitlens: Bitlens) -> None:
    answer = bitlens("explain", NETWORK, "image.npy", "--target", target, "--json")
    assert json.loads(answer.out)["target"] == 2


def test_verify(place: Path, bitlens: Bitlens) -> None:
    answer = bitlens("verify", NETWORK, "--output", "certificate.json")
    assert (answer.code, answer.err) == (0, "")
    assert answer.out.endswith("numerical parity holds\n")
    facts = json.loads((place / "certificate.json").read_text())
    assert facts["holds"] is True
    assert [entry["engine"]["name"] for entry in facts["engines"]] == EVERY
    assert json.loads(bitlens("verify", NETWORK, "--json", "--engine", "reference").out)["holds"] is True


def tampered_program() -> bytes:
    """`small_network` with one weight changed."""
    program = small_network()
    nodes = list(program.nodes)
    weight = nodes[0].arrays["weight"].copy()
    weight.flat[4] += 40
    nodes[0] = replace(nodes[0], arrays={**nodes[0].arrays, "weight": weight})
    return program_bytes(replace(program, nodes=tuple(nodes)))


def test_verify_does_not_hold_for_a_tampered_program(place: Path, bitlens: Bitlens) -> None:
    replaced_member(place / NETWORK, "network.program", tampered_program())
    answer = bitlens("verify", NETWORK, "--json")
    assert (answer.code, answer.err) == (1, "")
    facts = json.loads(answer.out)
    assert facts["holds"] is False
    native, onnx, tflite, reference, in_bytes = facts["engines"]
    assert onnx["differing_codes"] == tflite["differing_codes"] > 0  # their graphs are those of the true program
    assert reference["differing_accumulators"] > 0  # against what the desktop stored
    assert native["differing_accumulators"] == in_bytes["differing_accumulators"] == reference["differing_accumulators"]
    assert "DOES NOT HOLD" in bitlens("verify", NETWORK).out


def test_certificate_is_json_whatever_comes_out(place: Path, bitlens: Bitlens, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = registry.ENGINES["onnxruntime"].open

    def broken(network: Any, threads: int) -> Engine:
        engine = opened(network, threads)

        def run_gradient(*given: Any) -> Any:
            got = engine.run_gradient(*given)
            return got | {"input_gradient": got["input_gradient"] * np.float32(np.nan)}

        return replace(engine, run_gradient=run_gradient)

    monkeypatch.setitem(registry.ENGINES, "onnxruntime", replace(registry.ENGINES["onnxruntime"], open=broken))
    answer = bitlens("verify", NETWORK, "--json", "--engine", "onnxruntime")
    assert answer.code == 1

    def refuse(word: str) -> NoReturn:
        raise AssertionError(f"{word} is not JSON")

    (result,) = json.loads(answer.out, parse_constant=refuse)["engines"]
    assert result["gradient_error"] is None
    assert result["holds"] is False


@pytest.fixture
def stranger(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same bundle on a machine with an empty trust list, which is at the path that is given."""
    monkeypatch.setenv("BITLENS_TRUST", str(place / "trusted"))
    return place / "trusted"


def test_a_stranger_runs_on_the_engine_it_cannot_harm(
    stranger: Path, bitlens: Bitlens, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_kernels(monkeypatch)
    for verb in (("predict", NETWORK, "image.npy"), ("explain", NETWORK, "image.npy"), ("verify", NETWORK)):
        answer = bitlens(*verb, "--json")
        assert answer.code == 0
        assert '"reference"' in answer.out
        assert "onnxruntime 1" not in answer.out
        assert not re.search("ai_edge_litert|tflite_runtime", answer.out)
        assert re.fullmatch(
            r"bitlens: network\.bitlens is not on your list of trusted networks, so onnxruntime and tflite do not "
            r"parse its files; running on reference \(`bitlens trust network\.bitlens` or --trust changes that\)\n",
            answer.err,
        )
        trusted = bitlens(*verb, "--json", "--trust")
        assert (trusted.code, trusted.err) == (0, "")
        assert '"onnxruntime"' in trusted.out
        for engine in ("onnxruntime", "tflite"):
            check_refused(
                bitlens(*verb, "--engine", engine), r"run `bitlens trust network\.bitlens` or add --trust, or"
            )
        assert (bitlens(*verb, "--engine", "reference").code, bitlens(*verb, "--engine", "reference").err) == (0, "")
    assert not stranger.exists()
    assert "onnxruntime, tflite too, if it were trusted" in bitlens("info", NETWORK).out


def test_a_stranger_runs_on_the_native_engine_too(stranger: Path, bitlens: Bitlens) -> None:
    for verb in (("predict", NETWORK, "image.npy"), ("explain", NETWORK, "image.npy")):
        answer = bitlens(*verb, "--json")
        assert (answer.code, answer.err) == (0, "")  # nothing faster is passed over
        assert json.loads(answer.out)["engine"] == "native"
    answer = bitlens("verify", NETWORK, "--json")
    assert [each["engine"]["name"] for each in json.loads(answer.out)["engines"]] == [
        "native",
        "reference",
        "native-int8",
    ]
    assert "so onnxruntime and tflite do not parse its files" in answer.err


def test_trust_and_distrust(stranger: Path, place: Path, bitlens: Bitlens) -> None:
    assert "no bundle is trusted" in bitlens("trust", "--list").out
    assert "network.bitlens is trusted" in bitlens("trust", NETWORK).out
    assert "network.bitlens is trusted" in bitlens("trust", NETWORK).out
    sha256 = hashlib.sha256((place / NETWORK).read_bytes()).hexdigest()
    assert re.fullmatch(rf"{sha256}  \d{{4}}-\d\d-\d\d  network\.bitlens\n", bitlens("trust", "--list").out)
    assert json.loads(bitlens("trust", "--list", "--json").out)["bundles"][0]["sha256"] == sha256
    assert json.loads(bitlens("info", NETWORK, "--json").out)["trusted"] is True
    (place / NETWORK).rename(place / "other.bitlens")  # trust is of the content, not of the name
    assert bitlens("predict", "other.bitlens", "image.npy", "--engine", "onnxruntime").code == 0
    answer = bitlens("trust", "--remove", "other.bitlens", "--json")
    assert json.loads(answer.out) == {"sha256": sha256, "name": "other.bitlens", "trusted": False}
    check_refused(bitlens("trust", "--remove", "other.bitlens"), "is not on the trust list")
    check_refused(bitlens("predict", "other.bitlens", "image.npy", "--engine", "onnxruntime"), "--trust")
    bitlens("trust", "other.bitlens")
    assert "no longer trusted" in bitlens("trust", "--remove", sha256).out
    check_refused(bitlens("trust", "--list", "other.bitlens"), "leave the file out")
    check_refused(bitlens("trust", "--list", "--remove"), "not allowed with")


def test_a_trust_list_that_cannot_be_used(stranger: Path, bitlens: Bitlens) -> None:
    stranger.mkdir()
    check_refused(bitlens("trust", NETWORK), "trusted is no plain file: remove it, or set BITLENS_TRUST")
    check_refused(bitlens("trust", "--list"), "trusted is no plain file")
    assert json.loads(bitlens("info", NETWORK, "--json").out)["trusted"] is False


def test_doctor(bitlens: Bitlens, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("BITLENS_DATA", str(tmp_path))
    monkeypatch.delenv(KERNELS_VARIABLE, raising=False)
    answer = bitlens("doctor", "--json")
    assert (answer.code, answer.err) == (0, "")
    facts = json.loads(answer.out)
    assert facts["machine"]["numpy"] == np.__version__
    assert facts["features"] == kernels().cpu_features()
    assert [engine["name"] for engine in facts["engines"]] == [*EVERY, "tflite-int8"]
    assert not any(engine["problem"] for engine in facts["engines"])
    assert (facts["data_folder"], facts["problems"], facts["forced_kernels"]) == (str(tmp_path), [], "")
    assert facts["picture_decoder"].startswith("Pillow ")
    families = {family["name"]: family for family in facts["families"]}
    assert families.keys() == {"expand", "rows", *(family for family, *_ in kernels().sum_kernels())}
    here = {(family, isa): runs for family, isa, *_, runs in kernels().sum_kernels()}
    for (name, isa), runs in here.items():
        assert (isa in families[name]["usable"]) == runs
        assert (isa in families[name]["foreign"]) != runs
        assert families[name]["usable"][-1] == "scalar"
    text = bitlens("doctor").out
    used = families["conv2d_w1a1"]["usable"]
    assert re.search(rf"^  conv2d_w1a1 +{', '.join(used)}", text, re.MULTILINE)
    for said in (facts["machine"]["processor"], "auto takes native", "  native-int8     present", str(tmp_path)):
        assert said in text
    assert all(len(line) <= 100 for line in text.splitlines())


def test_doctor_says_when_kernels_are_forced(bitlens: Bitlens, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KERNELS_VARIABLE, "scalar")
    facts = json.loads(bitlens("doctor", "--json").out)
    assert facts["forced_kernels"] == "scalar"
    assert all(family["usable"] == ["scalar"] for family in facts["families"])
    here = {(family, isa) for family, isa, *_, runs in kernels().sum_kernels() if runs and isa != "scalar"}
    forbidden = {(family["name"], isa) for family in facts["families"] for isa in family["forbidden"]}
    assert here <= forbidden
    assert "kernels           BITLENS_KERNELS=scalar: the first" in bitlens("doctor").out


def test_doctor_says_what_is_missing_and_how_to_get_it(bitlens: Bitlens, monkeypatch: pytest.MonkeyPatch) -> None:
    without_modules(monkeypatch, MODULE, "onnxruntime", *PACKAGES)
    monkeypatch.setitem(sys.modules, "PIL", None)
    monkeypatch.delenv("BITLENS_DATA", raising=False)
    answer = bitlens("doctor")
    assert answer.code == 0  # nothing that is there is broken
    text = " ".join(answer.out.split())
    for said in (
        "auto takes reference",
        "onnxruntime not installed: pip install 'bitlens[onnx]'",
        "tflite not installed: pip install 'bitlens[tflite]'",
        "native not installed: it is the compiled part of bitlens, install bitlens with a C++ compiler and without",
        "none, .npy alone: pip install 'bitlens[image]'",
        "BITLENS_DATA is not set",
    ):
        assert said in text
    facts = json.loads(bitlens("doctor", "--json").out)
    assert (facts["features"], facts["families"], facts["picture_decoder"]) == (None, None, "")


def test_doctor_finds_what_is_broken(place: Path, bitlens: Bitlens, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KERNELS_VARIABLE, "mmx")
    monkeypatch.setenv("BITLENS_DATA", str(place / "nowhere"))
    entry = registry.ENGINES["onnxruntime"]
    (place / "broken_module.py").write_text("raise ImportError('libonnx.so is gone')")
    monkeypatch.syspath_prepend(str(place))
    monkeypatch.setitem(registry.ENGINES, "onnxruntime", replace(entry, modules=("broken_module",)))
    monkeypatch.setenv(PACKAGE_VARIABLE, "tensorflow")
    answer = bitlens("doctor")
    assert (answer.code, answer.err) == (1, "")
    text = " ".join(answer.out.split())
    for said in (
        "PROBLEM onnxruntime is installed but does not load (libonnx.so is gone): pip install 'bitlens[onnx]'",
        "PROBLEM tflite is installed but does not load: BITLENS_TFLITE is 'tensorflow': choose from ai_edge_litert",
        "PROBLEM BITLENS_KERNELS names 'mmx'",
        "which is not a folder",
    ):
        assert said in text
    facts = json.loads(bitlens("doctor", "--json").out)
    assert len(facts["problems"]) == 5  # two engines need the interpreter
    assert facts["families"] is None


def test_a_picture_of_any_size_is_made_to_fit(place: Path, bitlens: Bitlens) -> None:
    pixels = np.random.default_rng(4).integers(0, 256, (40, 57, 3)).astype(np.uint8)
    Image.fromarray(pixels).save("photo.png")
    answer = bitlens("predict", NETWORK, "photo.png", "--json")
    assert answer.err == "bitlens: photo.png: 57x40 pixels, cropped to the central 40x40, resized to 8x8\n"
    luma = pixels[:, 8:48] @ np.array([0.299, 0.587, 0.114])
    means = np.floor(luma + 0.5).reshape(8, 5, 8, 5).mean(axis=(1, 3))
    np.save("by_hand.npy", np.floor(means + 0.5).astype(np.uint8))
    assert answer.out == bitlens("predict", NETWORK, "by_hand.npy", "--json").out
    assert "resized to 8x8" in bitlens("explain", NETWORK, "photo.png", "--output", "why.png").err
    Image.fromarray(pixels[:8, :8]).save("exact.png")
    assert bitlens("predict", NETWORK, "exact.png").err == ""


# What is said about it.


def options_of(verb: str) -> set[str]:
    parser = argparse.ArgumentParser()
    cli.build_parser()[1][verb].add_arguments(parser)
    return {name for action in parser._actions for name in (action.option_strings or [action.dest])}


@pytest.mark.parametrize("verb", [*RUNTIME_VERBS, "train", "export"])
def test_help_mentions_every_option(verb: str, bitlens: Bitlens, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    answer = bitlens(verb, "--help")
    assert (answer.code, answer.err) == (0, "")
    for option in options_of(verb):
        said = re.search(rf"^  (-h, )?{option}\b.*?( {{2,}}|\n {{20,}})\S", answer.out, re.MULTILINE)
        assert said, f"nothing is said about {option}"
    assert re.search(r"^[A-Z][^\n]+\.$", answer.out, re.MULTILINE), "the description is no sentence"


def test_options_may_stand_anywhere(place: Path, bitlens: Bitlens) -> None:
    """Also between a network, which may be left out, and an image."""
    expected = bitlens("predict", NETWORK, "image.npy", "--top", "1")
    assert expected.code == 0
    assert bitlens("predict", NETWORK, "--top", "1", "image.npy") == expected
    assert bitlens("predict", "--top", "1", NETWORK, "image.npy") == expected
    check_refused(
        bitlens("predict", NETWORK, "--top", "1", "image.npy", "--colour", "red"), "see `bitlens predict --help`"
    )


def test_help_lists_every_verb(bitlens: Bitlens) -> None:
    answer = bitlens("--help")
    assert answer.code == 0
    for verb in (*RUNTIME_VERBS, "train", "export"):
        assert re.search(rf"^    {verb} +\S", answer.out, re.MULTILINE)
    assert re.fullmatch(r"bitlens \d+\.\d+\.\d+\S*\n", bitlens("--version").out)


def test_help_offers_what_there_is(bitlens: Bitlens, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    text = bitlens("explain", "--help").out
    for name in (*METHODS, "auto", *registry.ENGINES):
        assert name in text


@pytest.mark.parametrize(
    ("missing", "verb", "message"),
    [
        ("torch", "train", r"bitlens train needs torch, which is not installed: pip install 'bitlens\[train\]'"),
        ("brevitas", "train", r"needs brevitas, .*bitlens\[train\]"),
        ("onnx", "export", r"bitlens export needs onnx, which is not installed: pip install 'bitlens\[export\]'"),
    ],
)
def test_verbs_that_lack_a_package_are_hidden(
    missing: str, verb: str, message: str, place: Path, bitlens: Bitlens, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli, "find_spec", lambda name: None if name == missing else object())
    assert f"    {verb} " not in bitlens("--help").out
    check_refused(bitlens(verb, "--output", "x"), message)
    assert bitlens("info", NETWORK).code == 0


# What is refused. Each case makes its bad input in the folder, then runs the command there.


def written(name: str, content: bytes) -> Callable[[Path], object]:
    return lambda place: (place / name).write_bytes(content)


def saved(values: Any) -> Callable[[Path], None]:
    return lambda place: np.save(place / "bad.npy", values)


def cut_program(place: Path) -> None:
    (place / "bad.program").write_bytes((place / "network.program").read_bytes()[:-100])


def flipped_program(place: Path) -> None:
    content = bytearray((place / "network.program").read_bytes())
    content[1000] ^= 4
    (place / "bad.program").write_bytes(content)


def flipped_member(place: Path) -> None:
    path = place / NETWORK
    content = bytearray(path.read_bytes())
    content[5000] ^= 4
    path.write_bytes(content)


def foreign_op(place: Path) -> None:
    """A program of a later release, which has another op."""
    content = (place / "network.program").read_bytes()
    body = content[48:].replace(b'"op":"reshape"', b'"op":"softmax"', 1)
    assert body != content[48:]
    digest = hashlib.sha256(content[:16] + body).digest()
    (place / "bad.program").write_bytes(content[:16] + digest + body)


def no_golden(place: Path) -> None:
    replaced_member(place / NETWORK, "golden.npz", None)


def no_twin(place: Path) -> None:
    replaced_member(place / NETWORK, "twin.program", None)


def nothing(place: Path) -> None:
    pass


EXPLAIN, PREDICT = ("explain", NETWORK, "image.npy"), ("predict", NETWORK)

REFUSED: dict[str, tuple[Callable[[Path], object], tuple[str, ...], str]] = {
    "program cut short": (cut_program, ("info", "bad.program"), r"bad\.program: damaged or cut short"),
    "program with a flipped bit": (flipped_program, ("predict", "bad.program", "image.npy"), "damaged or cut short"),
    "member with a flipped bit": (flipped_member, ("verify", NETWORK), r"damaged \(its seal differs\)"),
    "program empty": (written("bad.program", b""), ("info", "bad.program"), "not a bitlens program: expected a file"),
    "program of something else": (nothing, ("info", "image.png"), r"image\.png: not a bitlens program"),
    "program missing": (nothing, ("info", "no.program"), r"cannot read no\.program \(No such file or directory\)"),
    "network is a folder": (nothing, ("info", "folder"), r"folder is a folder, expected a \.bitlens file"),
    "unsupported op": (foreign_op, ("info", "bad.program"), "uses op 'softmax', which this version .*update bitlens"),
    "image size": (saved(np.zeros((1, 9, 9), np.uint8)), (*PREDICT, "bad.npy"), r"bad\.npy: .*resize it to 8x8"),
    "image colours": (saved(np.zeros((3, 8, 8), np.uint8)), (*PREDICT, "bad.npy"), "convert it to grey"),
    "image NaN": (saved(np.full((8, 8), np.nan)), (*PREDICT, "bad.npy"), "holds NaN or infinite pixels"),
    "image of codes as floats": (saved(np.full((8, 8), 255.0)), (*PREDICT, "bad.npy"), "give floats from 0 to 1"),
    "image bool": (saved(np.zeros((8, 8), bool)), (*PREDICT, "bad.npy"), "holds bool"),
    "images, several": (saved(np.zeros((2, 1, 8, 8), np.uint8)), (*PREDICT, "bad.npy"), "holds 2 images, expected one"),
    "images, none": (saved(np.zeros((0, 1, 8, 8), np.uint8)), (*PREDICT, "bad.npy"), "there are no images: expected"),
    "image of objects": (saved(np.array([{}, None])), (*PREDICT, "bad.npy"), "not a whole .npy array"),
    "image empty": (written("bad.npy", b""), (*PREDICT, "bad.npy"), "not a whole .npy array"),
    "image is an archive": (
        lambda place: shutil.copy(place / NETWORK, place / "bad.npy"),
        (*PREDICT, "bad.npy"),
        "not a whole .npy array",
    ),
    "picture empty": (written("bad.png", b""), (*PREDICT, "bad.png"), r"bad\.png: not a picture that can be decoded"),
    "image is a folder": (nothing, (*PREDICT, "folder"), r"cannot read the image folder \(Is a directory\)"),
    "image missing": (nothing, (*PREDICT, "no.png"), r"cannot read the image no\.png \(No such file or directory\)"),
    "engine unknown": (nothing, (*PREDICT, "image.npy", "--engine", "cuda"), "unknown engine 'cuda': choose from auto"),
    "engine unknown to verify": (nothing, ("verify", NETWORK, "--engine", "cuda"), "unknown engine 'cuda'"),
    "engine without its files": (
        nothing,
        ("predict", "network.program", "image.npy", "--engine", "onnxruntime"),
        "needs forward.onnx, which network.program does not have",
    ),
    "threads 0": (nothing, (*PREDICT, "image.npy", "--threads", "0"), "threads is 0, expected at least 1"),
    "threads a word": (nothing, (*PREDICT, "image.npy", "--threads", "all"), "invalid int value: 'all'.*--help"),
    "no twin": (no_twin, (*PREDICT, "image.npy", "--twin"), "exported without a twin"),
    "no golden inputs": (no_golden, ("verify", NETWORK), "no golden inputs to replay"),
    "method unknown": (nothing, (*EXPLAIN, "--method", "lime"), "unknown method 'lime': choose from"),
    "target unknown": (nothing, (*EXPLAIN, "--target", "dog"), "target 'dog' is no class: choose .* ant, bee, cat"),
    "target too large": (nothing, (*EXPLAIN, "--target", "3"), "target '3' is no class"),
    "target negative": (nothing, (*EXPLAIN, "--target=-1"), "target '-1' is no class"),
    "layer unknown": (
        nothing,
        (*EXPLAIN, "--method", "grad_cam", "--layer", "conv1"),
        "no feature map named 'conv1': choose from act1, act2",
    ),
    "layer that is not looked at": (nothing, (*EXPLAIN, "--layer", "act1"), "gradient.* looks at no layer"),
    "output in a folder that is not there": (nothing, (*EXPLAIN, "--output", "no/a.png"), "cannot write no/a.png"),
    "output is a folder": (nothing, (*EXPLAIN, "--output", "folder"), r"cannot write folder \(Is a directory\)"),
    "map in a folder that is not there": (nothing, (*EXPLAIN, "--map", "no/a.npy"), "cannot write no/a.npy"),
    "map and picture in one file": (nothing, (*EXPLAIN, "--map", "a", "--output", "a"), "give each its own file"),
    "certificate in a folder that is not there": (
        nothing,
        ("verify", NETWORK, "--output", "no/a.json"),
        "cannot write no/a.json",
    ),
    "verb unknown": (nothing, ("paint",), "invalid choice: 'paint'.*see `bitlens --help`"),
    "verb missing": (nothing, (), "required: VERB"),
    "option unknown": (nothing, (*EXPLAIN, "--colour", "red"), "unrecognized arguments: --colour red"),
    "argument missing": (nothing, ("predict",), "required: image.*see `bitlens predict --help`"),
    "image left out": (nothing, ("predict", NETWORK), "is a network, expected an image: give the image after it"),
    "precision unknown": (
        nothing,
        ("train", "--output", "run", "--precision", "w3a5"),
        "w3a5",
    ),
    "run folder missing": (nothing, ("export", "no", "--output", "new.bitlens"), "cannot export no"),
    "export to another name": (nothing, ("export", "no", "--output", "new"), r"got the name 'new': add \.bitlens"),
    "export over something else": (
        written("other.bitlens", b"PK"),
        ("export", "no", "--output", "other.bitlens"),
        "is not ours to replace",
    ),
    "bundle to trust missing": (nothing, ("trust",), r"expected a \.bitlens file to trust"),
    "trusted is no bundle": (nothing, ("trust", "image.png"), "image.png is no bundle"),
    "trusted is a folder": (nothing, ("trust", "folder"), "folder is no bundle"),
    "removed is not trusted": (nothing, ("trust", "--remove", "0" * 64), "is not on the trust list"),
    "ONNX empty": (written("bad.onnx", b""), ("info", "bad.onnx"), r"not a whole ONNX model \(it holds no graph\)"),
    "TFLite empty": (written("bad.tflite", b""), ("info", "bad.tflite"), "not a whole TFLite model"),
    "TFLite missing": (nothing, ("info", "no.tflite"), "cannot read no.tflite"),
    "ONNX missing": (nothing, ("info", "no.onnx"), "cannot read no.onnx"),
}  # fmt: skip


@pytest.mark.parametrize(("prepare", "arguments", "message"), REFUSED.values(), ids=REFUSED)
def test_refused(
    prepare: Callable[[Path], object], arguments: tuple[str, ...], message: str, place: Path, bitlens: Bitlens
) -> None:
    prepare(place)
    before = listing(place)
    check_refused(bitlens(*arguments), message)
    assert listing(place) == before


def test_check_refused_can_fail() -> None:
    check_refused(Answer(1, "", "bitlens: no\n"))
    for wrong in (
        Answer(0, "", "bitlens: no\n"),
        Answer(1, "half a result", "bitlens: no\n"),
        Answer(1, "", "bitlens: no\nnor yes\n"),
        Answer(1, "", "Traceback (most recent call last):\n"),
        Answer(1, "", ""),
    ):
        with pytest.raises(AssertionError):
            check_refused(wrong)


@pytest.mark.parametrize(
    "arguments",
    [
        (*EXPLAIN, "--map", "map.npy"),
        ("verify", NETWORK, "--output", "certificate.json"),
    ],
    ids=["explain", "verify"],
)
def test_no_space_left(
    arguments: tuple[str, ...], place: Path, bitlens: Bitlens, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_space(*_: Any) -> NoReturn:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    before = listing(place)
    monkeypatch.setattr(os, "fsync", no_space)
    check_refused(bitlens(*arguments), r"cannot write .* \(No space left on device\): make room")
    assert listing(place) == before


def test_out_of_memory_and_interrupt(place: Path, bitlens: Bitlens, monkeypatch: pytest.MonkeyPatch) -> None:
    def raising(error: type[BaseException]) -> Callable[..., NoReturn]:
        def run(_: object) -> NoReturn:
            raise error

        return run

    monkeypatch.setattr(cli.VERBS["info"], "run", raising(MemoryError))
    check_refused(bitlens("info", NETWORK), "out of memory")
    monkeypatch.setattr(cli.VERBS["info"], "run", raising(KeyboardInterrupt))
    assert bitlens("info", NETWORK).code == 130


# Processes of their own.


def test_process(place: Path) -> None:
    done = process("predict", NETWORK, "image.npy", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["classes"]
    done = process("predict", NETWORK, "no.npy")
    check_refused(Answer(done.returncode, done.stdout, done.stderr), "cannot read the image no.npy")


def test_a_reader_that_has_gone(place: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = process("info", NETWORK, stdout=writing, stderr=subprocess.PIPE)
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_output_to_a_full_disk(place: Path) -> None:
    with open("/dev/full", "w") as full:
        done = process("info", NETWORK, stdout=full, stderr=subprocess.PIPE)
    check_refused(Answer(done.returncode, "", done.stderr), r"cannot write the output \(No space left on device\)")


def test_a_label_that_the_terminal_cannot_show(place: Path) -> None:
    program = replace(small_network(), metadata={"labels": ["fünf", "\ud800", "\x1b[2J"]})
    (place / "bad.program").write_bytes(program_bytes(program))
    done = process("info", "bad.program", env={**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"})
    assert (done.returncode, done.stderr) == (0, "")
    assert r"f\xfcnf, '\ud800', '\x1b[2J'" in done.stdout
