from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bitlens.export.hand_over import CONFIG_FILE, METRICS_FILE, RUN_FILES, WEIGHTS_FILE, read_hand_over
from bitlens.runtime.errors import BitlensError
from bitlens.train.datasets import ImageDataset, network_input
from bitlens.train.fit import EpochRecord, FitConfig
from bitlens.train.model_card import CARD_FILE
from bitlens.train.models import build_model
from bitlens.train.processes import Processes
from bitlens.train.run_folder import (
    RunConfig,
    RunMetrics,
    TrainedRun,
    load_run,
    load_twin,
    package_versions,
    run_reference,
    save_run,
)

SHAPE = (1, 12, 12)
METRICS_REACHED = RunMetrics((EpochRecord(1, 2, 2.3, 0.25, 1.5), EpochRecord(2, 2, 1.9, 0.5, 3.0)), 0.4375)


SAMPLES = ImageDataset(
    torch.randint(0, 256, (5, *SHAPE), generator=torch.Generator().manual_seed(2)).to(torch.uint8),
    torch.tensor([0, 1, 2, 0, 1]),
    ("zero", "one", "zwölf"),
)


def config_of(precision: str) -> RunConfig:
    return RunConfig(
        model="lenet",
        precision=precision,
        width=3,
        dataset="digits",
        input_shape=SHAPE,
        labels=("zero", "one", "zwölf"),
        fit=FitConfig(epochs=2, seed=4),
        twin=None,
        versions=package_versions(),
    )


def write(folder: Path, precision: str = "w2a4", seed: int = 0, config: RunConfig | None = None) -> TrainedRun:
    model = build_model("lenet", precision, SHAPE, 3, 3, seed=seed)
    model(torch.rand(4, *SHAPE))
    save_run(folder, model, config or config_of(precision), METRICS_REACHED, SAMPLES)
    return load_run(folder)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path / "run")
    return tmp_path / "run"


@pytest.mark.parametrize("precision", ["fp32", "w1a1", "w2a4", "w8a4,w2a4,w4a2,w8a4"])
def test_round_trip(precision: str, tmp_path: Path) -> None:
    model = build_model("lenet", precision, SHAPE, 3, 3, seed=8)
    x = torch.rand(4, *SHAPE)
    model(x)
    config = config_of(precision)
    save_run(tmp_path / "new" / "run", model, config, METRICS_REACHED, SAMPLES)
    run = load_run(tmp_path / "new" / "run")
    assert run.config == config
    assert run.metrics == METRICS_REACHED
    assert not run.model.training
    assert torch.equal(run.model(x), model.eval()(x))
    assert {path.name for path in run.folder.iterdir()} == RUN_FILES | {CARD_FILE}
    assert run.weights_sha256 == hashlib.sha256((run.folder / WEIGHTS_FILE).read_bytes()).hexdigest()


def test_run_from_before_the_later_options_is_read(folder: Path) -> None:
    content = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    del content["processes"]
    later = ("label_smoothing", "distil_weight", "distil_temperature", "patience", "interpretable_gradient_weight")
    guided = ("saliency_guided_weight", "saliency_guided_share", "saliency_guided_ranking")
    for name in later + guided:
        del content["fit"][name]
    (folder / CONFIG_FILE).write_text(json.dumps(content), encoding="utf-8")
    assert load_run(folder).config == config_of("w2a4")


def test_later_options_are_recorded(tmp_path: Path) -> None:
    fitted = FitConfig(
        epochs=2,
        label_smoothing=0.1,
        distil_weight=0.5,
        distil_temperature=2.0,
        saliency_guided_weight=1.0,
        saliency_guided_share=0.25,
        saliency_guided_ranking="absolute",
        interpretable_gradient_weight=7.5e-3,
        patience=3,
    )
    config = replace(config_of("w2a4"), fit=fitted, processes=Processes("cuda", 4, 2, "bf16"))
    assert write(tmp_path / "run", config=config).config == config


def test_config_is_readable_by_other_programs(folder: Path) -> None:
    content = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    assert content["labels"] == ["zero", "one", "zwölf"]
    assert content["fit"]["seed"] == 4
    assert set(content["versions"]) == {"bitlens", "torch", "brevitas", "numpy"}
    assert json.loads((folder / METRICS_FILE).read_text(encoding="utf-8"))["test_accuracy"] == 0.4375


def test_export_is_handed_the_network_and_the_samples(folder: Path) -> None:
    given = read_hand_over(folder)
    assert (given.samples.images == SAMPLES.images.numpy()).all()
    assert (given.samples.labels == SAMPLES.labels.numpy()).all()
    exact = load_run(folder).model.double()
    with torch.no_grad():
        logits = exact(network_input(SAMPLES.images, torch.float64)).numpy()
    assert (given.samples.logits == logits).all()
    assert [node.op_type for node in given.qonnx.graph.node].count("Quant") == 7  # 4 weights, 3 activations
    assert given.metadata["labels"] == ["zero", "one", "zwölf"]
    assert given.twin is None


def test_weights_hold_tensors_only(folder: Path) -> None:
    state = torch.load(folder / WEIGHTS_FILE, weights_only=True)
    assert type(state) is dict
    assert all(isinstance(tensor, torch.Tensor) for tensor in state.values())


def test_earlier_run_is_replaced(folder: Path) -> None:
    before = load_run(folder).weights_sha256
    assert write(folder, seed=9).weights_sha256 != before


def test_folder_with_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(BitlensError, match=r"holds .thesis\.tex., which is not ours"):
        write(tmp_path)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_file_in_the_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    with pytest.raises(BitlensError, match="is a file, expected a folder"):
        write(tmp_path / "run")


def test_failed_write_keeps_the_earlier_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = load_run(folder).weights_sha256

    def full(*_arguments: object, **_keywords: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(BitlensError, match=r"No space left on device.*nothing was changed"):
        write(folder, seed=9)
    monkeypatch.undo()
    assert load_run(folder).weights_sha256 == before
    assert list(folder.parent.iterdir()) == [folder]


@pytest.mark.parametrize("name", [CONFIG_FILE, WEIGHTS_FILE, METRICS_FILE])
def test_missing_file_is_named(name: str, folder: Path) -> None:
    (folder / name).unlink()
    with pytest.raises(BitlensError, match=rf"cannot read .*{name}"):
        load_run(folder)


@pytest.mark.parametrize("name", [CONFIG_FILE, WEIGHTS_FILE, METRICS_FILE])
def test_truncated_file_is_refused(name: str, folder: Path) -> None:
    content = (folder / name).read_bytes()
    for length in (0, 1, len(content) // 2, len(content) - 3):
        (folder / name).write_bytes(content[:length])
        with pytest.raises(BitlensError, match=name):
            load_run(folder)


def test_flipped_bit_in_the_weights_is_seen(folder: Path) -> None:
    content = bytearray((folder / WEIGHTS_FILE).read_bytes())
    content[len(content) // 2] ^= 4
    (folder / WEIGHTS_FILE).write_bytes(content)
    with pytest.raises(BitlensError, match=r"weights\.pt is damaged \(sha256"):
        load_run(folder)


def rewrite(folder: Path, name: str, **changes: object) -> None:
    content = json.loads((folder / name).read_text(encoding="utf-8"))
    content.update(changes)
    (folder / name).write_text(json.dumps(content), encoding="utf-8")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, "has format 2, expected 1"),
        ({"model": "vgg"}, "unknown model 'vgg'"),
        ({"precision": "w3a3"}, "unknown precision word 'w3a3'"),
        ({"precision": 4}, "4 is not text"),
        ({"width": "3"}, "'3' is not a whole number"),
        ({"width": True}, "True is not a whole number"),
        ({"width": 5}, r"weights\.pt does not fit the run's configuration"),
        ({"input_shape": [1, 12]}, "wrong kind"),
        ({"labels": "zero"}, "'zero' is not a list"),
        ({"fit": {"epochs": 1}}, "wrong kind"),
        ({"fit": None}, "None is not an object"),
        ({"twin": {"path": "x", "sha256": "0"}}, r"sha256 '0'"),
        ({"versions": {"torch": 2}}, "2 is not text"),
    ],
)
def test_wrong_entry_in_the_configuration_is_refused(changes: dict[str, object], message: str, folder: Path) -> None:
    rewrite(folder, CONFIG_FILE, **changes)
    with pytest.raises(BitlensError, match=message) as caught:
        load_run(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ["[]", "null", "{", "\x00", "[" * 100_000])
def test_metrics_that_are_no_object_are_refused(content: str, folder: Path) -> None:
    (folder / METRICS_FILE).write_text(content)
    with pytest.raises(BitlensError, match=r"metrics\.json is damaged"):
        load_run(folder)


def test_wrong_entry_in_the_metrics_is_refused(folder: Path) -> None:
    rewrite(folder, METRICS_FILE, test_accuracy="high")
    with pytest.raises(BitlensError, match="'high' is not a number"):
        load_run(folder)


class _Touch:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.path,)


def test_weights_run_no_code(folder: Path, tmp_path: Path) -> None:
    torch.save({"conv1.weight": _Touch(tmp_path / "executed")}, folder / WEIGHTS_FILE)
    sha256 = hashlib.sha256((folder / WEIGHTS_FILE).read_bytes()).hexdigest()
    rewrite(folder, CONFIG_FILE, weights_sha256=sha256)
    with pytest.raises(BitlensError, match="does not fit"):
        load_run(folder)
    assert not (tmp_path / "executed").exists()
    torch.load(folder / WEIGHTS_FILE, weights_only=False)  # the trap is a real one
    assert (tmp_path / "executed").exists()


def test_absent_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BitlensError, match="is not a run folder"):
        load_run(tmp_path / "nothing")


def test_twin_is_found_again_and_moves_along(tmp_path: Path) -> None:
    twin = write(tmp_path / "here" / "twin", "fp32")
    reference = run_reference(tmp_path / "here" / "run", twin)
    assert reference.path == "../twin"
    write(tmp_path / "here" / "run", config=replace(config_of("w2a4"), twin=reference))
    shutil.move(tmp_path / "here", tmp_path / "there")
    found = load_twin(load_run(tmp_path / "there" / "run"))
    assert found is not None
    assert found.weights_sha256 == twin.weights_sha256
    assert found.config.precision == "fp32"


def test_run_without_a_twin_has_none(folder: Path) -> None:
    assert load_twin(load_run(folder)) is None


def test_twin_that_was_trained_again_is_refused(tmp_path: Path) -> None:
    twin = write(tmp_path / "twin", "fp32")
    run = write(tmp_path / "run", config=replace(config_of("w2a4"), twin=run_reference(tmp_path / "run", twin)))
    write(tmp_path / "twin", "fp32", seed=1)
    with pytest.raises(BitlensError, match="was trained again after"):
        load_twin(run)
