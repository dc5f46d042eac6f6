"""`bitlens export` writes everything a board needs, or says in one line why not and writes nothing."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from exported_network import unpacked
from small_programs import small_network

from bitlens.export import bundle
from bitlens.runtime.autodiff import gradient_program
from bitlens.runtime.cli import main
from bitlens.runtime.engines import open_engine, present_engines
from bitlens.runtime.errors import BitlensError
from bitlens.runtime.network import open_network
from bitlens.runtime.program import Program
from bitlens.train.datasets import open_dataset

MEMBERS = {
    "network.program",
    "twin.program",
    "forward.onnx",
    "gradient.onnx",
    "forward.tflite",
    "gradient.tflite",
    "golden.npz",
}


@pytest.fixture(scope="module")
def trained_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two tiny runs: `twin`, and `low`, fine-tuned from it."""
    root = tmp_path_factory.mktemp("runs")
    options = ["--width", "3", "--epochs", "1", "--json"]
    assert main(["train", "--output", str(root / "twin"), "--precision", "fp32", *options]) == 0
    twin = ["--twin", str(root / "twin")]
    assert main(["train", "--output", str(root / "low"), "--precision", "w2a4", *twin, *options]) == 0
    return root


@pytest.fixture
def runs(trained_runs: Path, tmp_path: Path) -> Path:
    """A copy of the runs that a test may damage."""
    shutil.copytree(trained_runs, tmp_path / "runs")
    return tmp_path / "runs"


def listing(folder: Path) -> dict[str, str]:
    """Every file under a folder, hidden ones too, with its SHA-256."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
        for path in sorted(folder.rglob("*"))
    }


def refused(capsys: pytest.CaptureFixture[str], *options: object) -> str:
    """The one line that a refused export prints."""
    capsys.readouterr()
    assert main(["export", *(str(option) for option in options)]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("bitlens: ")
    assert printed.err.count("\n") == 1
    return printed.err


def test_writes_every_member_with_its_hash(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "network.bitlens"
    assert main(["export", str(runs / "low"), "--output", str(output), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    members = unpacked(output)
    assert set(members) == MEMBERS | {"manifest.json"}
    manifest = json.loads(members["manifest.json"])
    assert set(manifest["members"]) == MEMBERS
    for name, record in manifest["members"].items():
        assert record == {"sha256": hashlib.sha256(members[name]).hexdigest(), "bytes": len(members[name])}
    assert printed["bytes"] == {name: len(content) for name, content in members.items()}
    assert printed["sha256"] == hashlib.sha256(output.read_bytes()).hexdigest()
    assert printed["file_bytes"] == output.stat().st_size
    assert printed["network"] == str(output)
    assert 0 <= printed["logit_error"] < 1e-6
    assert manifest["input"]["shape"] == [1, 28, 28]
    assert manifest["precision"] == "w2a4"
    assert manifest["tflite"] == {"feature": "act3", "windows": "as trained", "guided": False, "batch": 1}
    assert printed["tflite_refused"] is None
    assert manifest["labels"] == [str(digit) for digit in range(10)]
    assert [layer["weight_bits"] for layer in manifest["layers"]] == [8, 2, 2, 8]
    training = manifest["training"]
    assert (training["model"], training["dataset"], training["width"]) == ("lenet", "digits", 3)
    assert (training["fit"]["epochs"], training["fit"]["seed"]) == (1, 0)
    assert 0 <= training["test_accuracy"] <= 1
    assert training["twin_sha256"] == hashlib.sha256((runs / "twin" / "weights.pt").read_bytes()).hexdigest()
    assert {"bitlens", "torch", "brevitas", "numpy"} == set(training["versions"])
    assert manifest["twin"]["training"]["precision"] == "fp32"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["network.bitlens", "runs"]  # no temporary left


def test_no_path_of_the_training_machine_travels(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for run in ("low", "twin"):
        config = json.loads((runs / run / "config.json").read_text())
        (runs / run / "config.json").write_text(json.dumps(config | {"dataset": "/home/someone/pictures/birds"}))
    output = tmp_path / "network.bitlens"
    assert main(["export", str(runs / "low"), "--output", str(output)]) == 0
    members = unpacked(output)
    assert json.loads(members["manifest.json"])["training"]["dataset"] == "birds"
    for name, content in members.items():
        for secret in (b"someone", str(tmp_path).encode(), str(runs).encode()):
            assert secret not in content, name


def test_what_is_exported_is_trusted(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BITLENS_TRUST", str(tmp_path / "trusted"))
    output = tmp_path / "network.bitlens"
    assert main(["export", str(runs / "low"), "--output", str(output), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["trusted"] is True
    assert "onnxruntime" in present_engines(open_network(output))
    monkeypatch.setenv("BITLENS_TRUST", str(output / "trusted"))  # a place where nothing can be
    assert main(["export", str(runs / "low"), "--output", str(output), "--json"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["trusted"] is False
    assert "network.bitlens is written, but not on your list of trusted networks: cannot write" in printed.err
    assert printed.err.count("\n") == 1
    assert "onnxruntime" not in present_engines(open_network(output))


def test_what_is_written_opens_and_verifies(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "network.bitlens"
    assert main(["export", str(runs / "low"), "--output", str(output)]) == 0
    shown = capsys.readouterr().out
    assert "forward.onnx" in shown
    assert "of the trained model evaluated in float64" in shown
    network = open_network(output)
    images = open_dataset("digits").test().images.numpy()[:8]
    logits = [open_engine(network, name).forward(images) for name in ("reference", "onnxruntime", "native", "tflite")]
    assert all(np.array_equal(logits[0], other) for other in logits[1:])
    twin = network.twin()
    assert twin is not None
    assert twin.program.is_full_precision
    assert main(["verify", str(output)]) == 0


def test_the_same_run_gives_the_same_bytes(runs: Path, tmp_path: Path) -> None:
    for name in ("one.bitlens", "two.bitlens"):
        assert main(["export", str(runs / "low"), "--output", str(tmp_path / name)]) == 0
    assert (tmp_path / "one.bitlens").read_bytes() == (tmp_path / "two.bitlens").read_bytes()


def test_the_twin_itself_has_no_twin(runs: Path, tmp_path: Path) -> None:
    assert main(["export", str(runs / "twin"), "--output", str(tmp_path / "network.bitlens")]) == 0
    assert set(unpacked(tmp_path / "network.bitlens")) == MEMBERS - {"twin.program"} | {"manifest.json"}


def test_a_qonnx_file_is_exported_with_and_without_images(runs: Path, tmp_path: Path) -> None:
    source, images = runs / "low" / "network.qonnx", tmp_path / "images.npy"
    assert main(["export", str(source), "--output", str(tmp_path / "bare.bitlens")]) == 0
    bare = unpacked(tmp_path / "bare.bitlens")
    assert set(bare) == MEMBERS - {"twin.program", "golden.npz"} | {"manifest.json"}
    np.save(images, open_dataset("digits").test().images.numpy()[:4])
    assert main(["export", str(source), "--output", str(tmp_path / "golden.bitlens"), "--images", str(images)]) == 0
    golden = unpacked(tmp_path / "golden.bitlens")
    assert set(golden) == set(bare) | {"golden.npz"}
    for name in ("forward.onnx", "forward.tflite", "gradient.tflite"):
        assert golden[name] == bare[name]


def test_what_tflite_cannot_hold_is_exported_without_it(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> bytes:
        raise BitlensError("node 'pool1' (max_pool): \x1b no form")

    monkeypatch.setattr(bundle, "tflite_model", refuse)
    output = tmp_path / "network.bitlens"
    assert main(["export", str(runs / "low"), "--output", str(output)]) == 0
    assert "  no TFLite files: " in capsys.readouterr().out
    members = unpacked(output)
    assert set(members) == MEMBERS - {"forward.tflite", "gradient.tflite"} | {"manifest.json"}
    assert json.loads(members["manifest.json"])["tflite"] == {"refused": "node 'pool1' (max_pool): \x1b no form"}
    assert main(["export", str(runs / "low"), "--output", str(output), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["tflite_refused"].endswith("no form")
    network = open_network(output)
    assert "tflite" not in present_engines(network)
    with pytest.raises(BitlensError, match=r"'tflite' needs forward\.tflite, which"):
        open_engine(network, "tflite")
    assert main(["info", str(output)]) == 0
    said = capsys.readouterr().out
    assert "no TFLite" in said
    assert "\x1b" not in said


def test_the_gradient_program_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Program] = []

    def counted(program: Program) -> Program:
        made.append(program)
        return gradient_program(program)

    monkeypatch.setattr(bundle, "gradient_program", counted)
    assert bundle.written_graphs(small_network(), ()) == ({}, {})
    assert not made
    members, _ = bundle.written_graphs(small_network(), bundle.EXACT_GRAPHS.values())
    assert len(members) == 4
    assert len(made) == 1


def test_parts_are_left_out(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output, low = tmp_path / "network.bitlens", runs / "low"
    assert main(["export", str(low), "--output", str(output), "--without", "onnx", "tflite", "twin"]) == 0
    assert set(unpacked(output)) == {"manifest.json", "network.program", "golden.npz"}
    manifest = json.loads(unpacked(output)["manifest.json"])
    assert "tflite" not in manifest
    assert manifest["twin"] is None
    assert main(["verify", str(output), "--output", str(tmp_path / "certificate.json")]) == 0
    assert main(["export", str(low), "--output", str(output), "--without", "onnx"]) == 0
    assert set(unpacked(output)) == {name for name in MEMBERS if not name.endswith("onnx")} | {"manifest.json"}
    said = refused(capsys, low, "--output", output, "--without", "tflite", "--tflite", "int8")
    assert "--tflite int8 asks for what --without tflite leaves out" in said


def test_the_fast_tflite_graph_is_asked_for(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "network.bitlens"
    assert main(["export", str(runs / "low"), "--output", str(output), "--tflite", "int8"]) == 0
    printed = capsys.readouterr().out
    assert set(unpacked(output)) == MEMBERS | {"manifest.json", "forward_int8.tflite"}
    facts = json.loads(unpacked(output)["manifest.json"])["tflite_int8"]
    assert 0 <= facts["missed"] < facts["thresholds"]
    assert f"{facts['missed']} of {facts['thresholds']} thresholds missed" in printed
    said = refused(capsys, runs / "twin", "--output", tmp_path / "twin.bitlens", "--tflite", "int8")
    assert "TFLite int8: a full-precision network has no 8-bit form" in said
    assert not (tmp_path / "twin.bitlens").exists()


def test_an_earlier_export_is_replaced(runs: Path, tmp_path: Path) -> None:
    output = tmp_path / "network.bitlens"
    assert main(["export", str(runs / "low"), "--output", str(output)]) == 0
    assert main(["export", str(runs / "twin"), "--output", str(output)]) == 0
    assert open_network(output).program.is_full_precision
    assert "twin.program" not in unpacked(output)


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.9, 0.999])
def test_a_truncated_network_is_refused(
    kept: float, runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = runs / "low" / "network.qonnx"
    file.write_bytes(file.read_bytes()[: int(kept * file.stat().st_size)])
    before = listing(tmp_path)
    message = refused(capsys, runs / "low", "--output", tmp_path / "network.bitlens")
    assert str(file) in message
    assert listing(tmp_path) == before


def test_a_flipped_bit_is_refused_or_harmless(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def logits_of(path: Path) -> np.ndarray:
        return np.array(np.load(io.BytesIO(unpacked(path)["golden.npz"]))["logits"])

    assert main(["export", str(runs / "low"), "--output", str(tmp_path / "sound.bitlens")]) == 0
    sound = logits_of(tmp_path / "sound.bitlens")
    file = runs / "low" / "network.qonnx"
    content = file.read_bytes()
    random, refusals = np.random.default_rng(6), 0
    for _ in range(30):
        place, bit = int(random.integers(len(content))), int(random.integers(8))
        damaged = bytearray(content)
        damaged[place] ^= 1 << bit
        file.write_bytes(damaged)
        before = listing(tmp_path)
        capsys.readouterr()
        code = main(["export", str(runs / "low"), "--output", str(tmp_path / "network.bitlens")])
        replay = f"byte {place}, bit {bit}"
        if code == 0:  # a name, or a digit of a weight too small to move a code
            logits = logits_of(tmp_path / "network.bitlens")
            assert np.abs(logits - sound).max() <= 1e-6 * np.abs(sound).max(), replay
            (tmp_path / "network.bitlens").unlink()
            continue
        refusals += 1
        assert code == 1, replay
        assert capsys.readouterr().err.count("\n") == 1, replay
        assert listing(tmp_path) == before, replay
    assert refusals > 0


def test_weights_that_are_not_the_trained_ones_are_refused(
    runs: Path, trained_runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # A whole and valid file, of another network: only the stored logits can tell.
    shutil.copy(runs / "twin" / "network.qonnx", runs / "low" / "network.qonnx")
    before = listing(tmp_path)
    message = refused(capsys, runs / "low", "--output", tmp_path / "network.bitlens")
    assert "the program's logits differ from the trained model's by" in message
    assert listing(tmp_path) == before
    assert listing(trained_runs) != {}


def test_a_missing_twin_is_named(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(runs / "twin")
    before = listing(tmp_path)
    message = refused(capsys, runs / "low", "--output", tmp_path / "network.bitlens")
    assert f"cannot read the twin {(runs / 'twin').resolve()}" in message
    assert "put it back, or train the run again" in message
    assert listing(tmp_path) == before


def test_a_twin_that_was_trained_again_is_refused(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--precision", "fp32", "--width", "3", "--epochs", "1", "--seed", "1", "--json"]
    assert main(["train", "--output", str(runs / "twin"), *options]) == 0
    before = listing(tmp_path)
    message = refused(capsys, runs / "low", "--output", tmp_path / "network.bitlens")
    assert "was trained again after" in message
    assert "fine-tune anew" in message
    assert listing(tmp_path) == before


@pytest.mark.parametrize("name", ["config.json", "metrics.json", "samples.npz", "network.qonnx"])
def test_a_missing_or_damaged_file_of_the_run_is_named(
    name: str, runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = runs / "low" / name
    content = file.read_bytes()
    file.unlink()
    before = listing(tmp_path)
    assert name in refused(capsys, runs / "low", "--output", tmp_path / "network.bitlens")
    assert listing(tmp_path) == before
    file.write_bytes(content[: len(content) // 2])
    before = listing(tmp_path)
    assert name in refused(capsys, runs / "low", "--output", tmp_path / "network.bitlens")
    assert listing(tmp_path) == before


def test_what_is_no_bundle_is_not_replaced(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "thesis.bitlens"
    file.write_text("years of work")
    folder = tmp_path / "folder.bitlens"
    folder.mkdir()
    before = listing(tmp_path)
    for place in (file, folder):
        assert "is there and is no bundle, so it is not ours to replace" in refused(
            capsys, runs / "low", "--output", place
        )
    assert "a bundle is one file NAME.bitlens, got the name" in refused(
        capsys, runs / "low", "--output", tmp_path / "network"
    )
    assert "cannot write" in refused(capsys, runs / "low", "--output", file / "network.bitlens")
    assert listing(tmp_path) == before


def test_folders_on_the_way_are_made(runs: Path, tmp_path: Path) -> None:
    assert main(["export", str(runs / "low"), "--output", str(tmp_path / "a" / "b" / "network.bitlens")]) == 0
    assert open_network(tmp_path / "a" / "b" / "network.bitlens").has("golden.npz")


def no_space(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("existing", [False, True])
@pytest.mark.parametrize("moment", ["sync", "rename"])
def test_a_full_disk_leaves_everything_as_it_was(
    moment: str,
    existing: bool,
    runs: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    output = tmp_path / "network.bitlens"
    if existing:
        assert main(["export", str(runs / "twin"), "--output", str(output)]) == 0
    before = listing(tmp_path)
    if moment == "sync":
        monkeypatch.setattr(os, "fsync", no_space)
    else:
        monkeypatch.setattr(os, "replace", no_space)
    message = refused(capsys, runs / "low", "--output", output)
    monkeypatch.undo()
    assert f"cannot write {output} (No space left on device): make room or choose another place" in message
    assert listing(tmp_path) == before


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((2, 1, 28, 28), np.float32), "holds float32 of shape"),
        (np.zeros((28, 28), np.uint8), "expected uint8 (images, C, H, W)"),
        (np.zeros((0, 1, 28, 28), np.uint8), "expected uint8 (images, C, H, W)"),
        (np.zeros((2, 3, 28, 28), np.uint8), "convert it to grey"),
        (np.zeros((2, 1, 14, 14), np.uint8), "resize it to 28x28"),
    ],
)
def test_wrong_images_for_golden_answers_are_refused(
    array: np.ndarray, message: str, runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "images.npy", array)
    before = listing(tmp_path)
    options = (
        runs / "low" / "network.qonnx",
        "--output",
        tmp_path / "network.bitlens",
        "--images",
        tmp_path / "images.npy",
    )
    assert message in refused(capsys, *options)
    assert listing(tmp_path) == before


def test_a_run_folder_brings_its_own_images(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = (runs / "low", "--output", tmp_path / "network.bitlens", "--images", tmp_path / "images.npy")
    assert "a run folder brings its own images" in refused(capsys, *options)
    missing = (
        runs / "low" / "network.qonnx",
        "--output",
        tmp_path / "network.bitlens",
        "--images",
        tmp_path / "images.npy",
    )
    assert "cannot read the images" in refused(capsys, *missing)


def test_no_such_source(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = refused(capsys, tmp_path / "nothing", "--output", tmp_path / "network.bitlens")
    assert "give a run folder or a QONNX file" in message
    assert list(tmp_path.iterdir()) == []
