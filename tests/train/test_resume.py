from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from bitlens.runtime.errors import BitlensError
from bitlens.train import verb
from bitlens.train.checkpoint import (
    Checkpoints,
    random_state,
    read_checkpoint,
    restore_random_state,
    write_checkpoint,
)
from bitlens.train.datasets import ImageDataset, SplitDataset
from bitlens.train.fit import EpochRecord, FitConfig, checkpointed_epochs, fit
from bitlens.train.models import build_model
from bitlens.train.run_folder import load_run

CPU = torch.device("cpu")
CONFIG = FitConfig(epochs=2, batch_size=30, seed=7)
GUIDED = replace(CONFIG, saliency_guided_weight=1.0)
GRADIENT = replace(CONFIG, interpretable_gradient_weight=0.1)


@pytest.fixture(scope="module")
def few(digits: SplitDataset) -> ImageDataset:
    return digits.train().subset(torch.arange(100))


def network() -> nn.Module:
    return build_model("lenet", "w2a4", width=2, seed=5)


def same_weights(one: nn.Module, two: nn.Module) -> bool:
    other = two.state_dict()
    return all(torch.equal(tensor, other[name]) for name, tensor in one.state_dict().items())


def call(*options: str | Path) -> int:
    parser = argparse.ArgumentParser()
    verb.add_arguments(parser)
    return verb.run(parser.parse_args([str(option) for option in options]))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="each training is a fork")
def test_killed_runs_end_with_the_weights_of_an_unbroken_one(tmp_path: Path) -> None:
    seed = 11
    steps = random.Random(seed).sample(range(1, 41), 3)  # 2 epochs of 20 steps
    command = [sys.executable, str(Path(__file__).parent.parent / "train_and_die.py"), str(tmp_path), *map(str, steps)]
    print("replay:", *command)
    done = subprocess.run(
        command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    unbroken = load_run(tmp_path / "unbroken")
    for step in steps:
        folder = tmp_path / f"killed at {step}"
        resumed = load_run(folder)
        assert same_weights(resumed.model, unbroken.model)
        assert [record.loss for record in resumed.metrics.epochs] == [record.loss for record in unbroken.metrics.epochs]
        assert resumed.config == unbroken.config
        assert not (folder / "checkpoint").exists()
        for name in ("index.html", "looks.jsonl", "maps.npz"):
            assert (folder / "watch" / name).read_bytes() == (tmp_path / "unbroken" / "watch" / name).read_bytes()
    assert done.stderr.count("holds an unfinished run: go on with --resume") == 3


class _Interrupted(Exception):  # noqa: N818  (no error: what a kill is to the test)
    pass


def interrupt(record: EpochRecord) -> None:
    raise _Interrupted


@pytest.mark.parametrize("config", [CONFIG, GUIDED, GRADIENT], ids=["plain", "saliency", "gradient"])
def test_fit_goes_on_from_its_checkpoint(config: FitConfig, few: ImageDataset, tmp_path: Path) -> None:
    unbroken, broken, resumed = network(), network(), network()
    fit(unbroken, few, config)
    checkpoints = Checkpoints(tmp_path / "state")
    with pytest.raises(_Interrupted):
        fit(broken, few, config, interrupt, checkpoints=checkpoints)
    assert [record.epoch for record in checkpointed_epochs(checkpoints.file)] == [1]
    result = fit(resumed, few, config, checkpoints=checkpoints)
    assert [record.epoch for record in result.epochs] == [1, 2]
    assert same_weights(resumed, unbroken)
    assert not same_weights(resumed, broken)


@pytest.fixture
def state(few: ImageDataset, tmp_path: Path) -> Path:
    fit(network(), few, FitConfig(epochs=1, batch_size=30, seed=7), checkpoints=Checkpoints(tmp_path / "state"))
    return tmp_path / "state"


def _cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def _flip(content: bytes) -> bytes:
    changed = bytearray(content)
    changed[len(changed) // 2] ^= 4
    return bytes(changed)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_cut, "is damaged"),
        (_flip, "is damaged"),
        (lambda content: b"", "is no checkpoint"),
        (lambda content: b"PK" + content, "is no checkpoint"),
    ],
)
def test_damaged_checkpoint_is_refused(
    damage: Callable[[bytes], bytes], message: str, state: Path, few: ImageDataset
) -> None:
    state.write_bytes(damage(state.read_bytes()))
    with pytest.raises(BitlensError, match=message) as caught:
        fit(network(), few, FitConfig(epochs=1, batch_size=30, seed=7), checkpoints=Checkpoints(state))
    assert "\n" not in str(caught.value)


def test_checkpoint_runs_no_code(tmp_path: Path) -> None:
    class Touch:
        def __reduce__(self) -> tuple[object, tuple[object, ...]]:
            return Path.touch, (tmp_path / "executed",)

    buffer = io.BytesIO()
    torch.save({"model": Touch()}, buffer)
    payload = buffer.getvalue()
    header = b"bitlens checkpoint 1 " + hashlib.sha256(payload).hexdigest().encode() + b"\n"
    (tmp_path / "state").write_bytes(header + payload)
    with pytest.raises(BitlensError, match="holds what no checkpoint holds"):
        read_checkpoint(tmp_path / "state")
    assert not (tmp_path / "executed").exists()


def test_checkpoint_of_another_fit_is_refused(state: Path, few: ImageDataset) -> None:
    with pytest.raises(BitlensError, match="belongs to another fit, whose configuration"):
        fit(network(), few, CONFIG, checkpoints=Checkpoints(state))
    config = FitConfig(epochs=1, batch_size=30, seed=7)
    with pytest.raises(BitlensError, match="belongs to another fit, whose training images"):
        fit(network(), few.subset(torch.arange(99)), config, checkpoints=Checkpoints(state))
    with pytest.raises(BitlensError, match="does not fit this network"):
        fit(build_model("lenet", "w2a4", width=3), few, config, checkpoints=Checkpoints(state))


def test_checkpoint_lacking_an_entry_is_refused(state: Path, few: ImageDataset) -> None:
    content = read_checkpoint(state)
    del content["optimiser"]
    write_checkpoint(state, content)
    with pytest.raises(BitlensError, match="does not fit this network"):
        fit(network(), few, FitConfig(epochs=1, batch_size=30, seed=7), checkpoints=Checkpoints(state))


def test_every_global_generator_is_restored() -> None:
    def draw() -> list[float]:
        return [torch.rand(1).item(), random.random(), random.gauss(0, 1), float(np.random.standard_normal())]

    draw()  # leaves half a pair of normal numbers behind in Python and NumPy
    state = random_state(CPU)
    expected = draw()
    assert draw() != expected
    restore_random_state(state, CPU)
    assert draw() == expected


def test_verb_goes_on_with_what_was_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "run"
    options = ["--precision", "w1a1", "--width", "2", "--epochs", "2"]
    monkeypatch.setattr(verb, "_print_progress", interrupt)
    with pytest.raises(_Interrupted):
        call("--output", run, *options)
    lines = (run / "checkpoint" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1]
    monkeypatch.undo()
    run.rename(tmp_path / ".run.abcd.old")  # as a kill leaves it while the finished run takes its place
    with pytest.raises(BitlensError, match=r"--epochs 3 contradicts the run in .*, which was begun with 2"):
        call("--resume", run, "--epochs", "3")
    with pytest.raises(BitlensError, match=r"--epochs 20 contradicts the run in .*, which was begun with 2"):
        call("--resume", run, "--epochs", "20")  # the default is an answer too where it is given
    with (run / "checkpoint" / "metrics.jsonl").open("a") as stream:
        stream.write('{"epoch": 2, "los')  # a line that a kill cut short
    seen: list[list[str]] = []
    monkeypatch.setattr(
        verb,
        "_print_progress",
        lambda record: seen.append((run / "checkpoint" / "metrics.jsonl").read_text().splitlines()),
    )
    assert call("--resume", run, *options) == 0
    assert [[json.loads(line)["epoch"] for line in lines] for lines in seen] == [[1, 2]]
    assert load_run(run).config.precision == "w1a1"
    assert call("--resume", run) == 0  # finished: nothing to do


def test_run_that_an_earlier_version_began_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "run"
    monkeypatch.setattr(verb, "_print_progress", interrupt)
    with pytest.raises(_Interrupted):
        call("--output", run, "--precision", "fp32", "--width", "2", "--epochs", "2")
    command = run / "checkpoint" / "command.json"
    content = json.loads(command.read_text())
    del content["options"]["saliency_guided"]
    command.write_text(json.dumps(content))
    with pytest.raises(BitlensError, match="does not say its saliency_guided: train it anew"):
        call("--resume", run)


def test_nothing_to_resume_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BitlensError, match="holds no unfinished run"):
        call("--resume", tmp_path / "run")
    (tmp_path / "run" / "checkpoint").mkdir(parents=True)
    (tmp_path / "run" / "checkpoint" / "command.json").write_text("{")
    with pytest.raises(BitlensError, match=r"command\.json is damaged"):
        call("--resume", tmp_path / "run")


def test_impossible_checkpoint_interval_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BitlensError, match="every_steps must be at least 1"):
        Checkpoints(tmp_path / "state", 0)
