from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from bitlens.runtime.errors import BitlensError
from bitlens.train import verb
from bitlens.train.datasets import DATASETS, ImageDataset, digits
from bitlens.train.fit import FitConfig, checkpointed_epochs
from bitlens.train.processes import Processes
from bitlens.train.run_folder import load_run, load_twin


def call(*options: str | Path) -> int:
    parser = argparse.ArgumentParser()
    verb.add_arguments(parser)
    return verb.run(parser.parse_args([str(option) for option in options]))


def test_trains_a_twin_and_a_network_from_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    twin, output = tmp_path / "twin", tmp_path / "low"
    assert call("--output", twin, "--precision", "fp32", "--width", "4", "--epochs", "1", "--json") == 0
    printed = capsys.readouterr()
    summary = json.loads(printed.out)
    assert summary["run"] == str(twin)
    assert summary["test_accuracy"] == load_run(twin).metrics.test_accuracy
    assert "epoch 1/1" in printed.err
    assert "s left" in printed.err

    assert call("--output", output, "--precision", "w2a4", "--width", "4", "--epochs", "1", "--twin", twin) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith(f"{output}: lenet w2a4, ")
    assert "397 test images" in printed.out
    origin = load_twin(load_run(output))
    assert origin is not None
    assert origin.folder == twin.resolve()

    with pytest.raises(BitlensError, match=r"has precision w2a4, expected fp32"):
        call("--output", tmp_path / "third", "--width", "4", "--twin", output)
    with pytest.raises(
        BitlensError, match=r"conv1\.weight of the twin has shape \(4, 1, 5, 5\), expected \(5, 1, 5, 5\)"
    ):
        call("--output", tmp_path / "third", "--width", "5", "--twin", twin)
    with pytest.raises(BitlensError, match="would replace the twin"):
        call("--output", twin, "--width", "4", "--twin", twin)
    assert not (tmp_path / "third").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--precision", "w3a3"], "unknown precision word 'w3a3'"),
        (["--model", "vgg"], "unknown model 'vgg'"),
        (["--data", "nowhere"], "unknown data set 'nowhere'"),
        (["--size", "32"], "digits has images of 28x28 pixels"),
        (["--data", "./nowhere"], "nowhere has no folder train"),
        (["--epochs", "0"], "epochs must be at least 1"),
        (["--threads", "0"], "threads must be at least 1"),
        (["--width", "0"], "width must be at least 1"),
        (["--seed", "-1"], "seed must lie in"),
        (["--twin", "/nowhere"], "is not a run folder"),
        (["--patience", "0"], "patience must be at least 1"),
        (["--distil", "0.5"], "--distil needs the twin's answers: add --twin"),
        (["--mixed-precision", "bf16"], "mixed precision bf16 needs a GPU"),
        (["--checkpoint-every", "0"], "every_steps must be at least 1"),
    ],
)
def test_bad_option_is_refused_before_training(options: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(BitlensError, match=message):
        call("--output", tmp_path / "run", *options)
    assert list(tmp_path.iterdir()) == []


def test_place_with_other_files_is_refused_before_training(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(BitlensError, match=r"thesis\.tex"):
        call("--output", tmp_path)


def test_default_epochs_are_those_of_the_library() -> None:
    parser = argparse.ArgumentParser()
    verb.add_arguments(parser)
    assert parser.parse_args(["--output", "x"]).epochs == FitConfig().epochs


def test_the_help_names_every_data_set() -> None:
    parser = argparse.ArgumentParser()
    verb.add_arguments(parser)
    assert set(re.split(r"[\s,]+", parser.format_help())) >= set(DATASETS)


def test_listing_the_verb_does_not_wait_for_torch() -> None:
    code = "import sys, bitlens.train.verb; sys.exit(bool({'torch', 'brevitas', 'sklearn'} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_options_reach_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = ["--width", "2", "--epochs", "1", "--precision", "fp32"]
    assert call("--output", tmp_path / "twin", *few) == 0
    given = ["--label-smoothing", "0.1", "--distil", "0.25", "--distil-temperature", "2", "--patience", "3"]
    assert call("--output", tmp_path / "run", *few, "--twin", tmp_path / "twin", "--batch-size", "100", *given) == 0
    config = load_run(tmp_path / "run").config
    assert config.fit == FitConfig(
        epochs=1, batch_size=100, label_smoothing=0.1, distil_weight=0.25, distil_temperature=2.0, patience=3
    )
    assert config.processes == Processes()
    assert any((tmp_path / "run" / "events").iterdir())  # tensorboard is among the developers' packages


def test_training_never_opens_the_test_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []

    def part(index: int) -> ImageDataset:
        if index == 1:
            # The checkpoint after the last epoch is written: nothing is chosen any more.
            assert len(checkpointed_epochs(tmp_path / "run" / "checkpoint" / "state.checkpoint")) == 2
        opened.append(("train", "test")[index])
        return original(index)

    original = digits._part
    monkeypatch.setattr(digits, "_part", part)
    assert call("--output", tmp_path / "run", "--width", "2", "--epochs", "2", "--patience", "1") == 0
    assert opened == ["train", "test"]
