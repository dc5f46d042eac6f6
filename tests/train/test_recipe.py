from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from bitlens.runtime.errors import BitlensError
from bitlens.train import verb
from bitlens.train.datasets import DATASETS
from bitlens.train.fit import FitConfig
from bitlens.train.models import MODELS
from bitlens.train.precision import FULL_PRECISION, parse_precision
from bitlens.train.recipe import options_of, read_recipe, recipe_names
from bitlens.train.run_folder import load_run

TINY = """title = "digits, two channels"

[options]
data = "digits"
width = 2
epochs = 7
precision = "fp32"
label-smoothing = 0.25
"""


def call(*options: str | Path) -> int:
    parser = argparse.ArgumentParser()
    verb.add_arguments(parser)
    return verb.run(parser.parse_args([str(option) for option in options]))


@pytest.mark.parametrize("name", recipe_names())
def test_recipe_is_whole(name: str) -> None:
    recipe = read_recipe(name)
    options = options_of(recipe, verb.add_arguments)
    assert recipe.name == name
    assert recipe.title
    assert options.data in DATASETS
    assert options.model in MODELS
    precision = parse_precision(options.precision, MODELS[options.model].layers)
    FitConfig(epochs=options.epochs, batch_size=options.batch_size, learning_rate=options.learning_rate)
    if recipe.twin is None:
        assert options.distil == 0
        return
    assert not precision.is_full
    twin = options_of(read_recipe(recipe.twin), verb.add_arguments)
    assert twin.precision == FULL_PRECISION
    assert (twin.data, twin.model, twin.width) == (options.data, options.model, options.width)


def test_options_come_from_the_recipe_and_the_command_line_comes_first(tmp_path: Path) -> None:
    recipe = tmp_path / "tiny.toml"
    recipe.write_text(TINY)
    assert call("--recipe", recipe, "--output", tmp_path / "run", "--epochs", "1") == 0
    run = load_run(tmp_path / "run")
    assert (run.config.width, run.config.precision) == (2, "fp32")
    assert run.config.fit == FitConfig(epochs=1, label_smoothing=0.25)

    # One that is given with its default's value was given all the same.
    assert call("--label-smoothing", "0", "--recipe", recipe, "--output", tmp_path / "run", "--epochs", "1") == 0
    assert load_run(tmp_path / "run").config.fit == FitConfig(epochs=1)


def test_twin_is_looked_for_beside_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    low = tmp_path / "low.toml"
    low.write_text(TINY.replace("fp32", "w2a2").replace("\n[options]", 'twin = "twin"\n[options]'))
    (tmp_path / "twin.toml").write_text(TINY)
    with pytest.raises(BitlensError, match=r"first run `bitlens train --recipe twin --output .*/runs/twin`"):
        call("--recipe", low, "--output", tmp_path / "runs" / "low", "--epochs", "1")
    assert not (tmp_path / "runs").exists()
    assert call("--recipe", tmp_path / "twin.toml", "--output", tmp_path / "runs" / "twin", "--epochs", "1") == 0
    assert call("--recipe", low, "--output", tmp_path / "runs" / "low", "--epochs", "1") == 0
    origin = load_run(tmp_path / "runs" / "low").config.twin
    assert origin is not None
    assert origin.path == "../twin"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is not a recipe .*options"),
        ("title = 3\n[options]\n", "title is not text"),
        ('[options]\ndata = "digits"\n', "is not a recipe .*title"),
        ('title = "a"\noptions = 3\n', "options is not a table"),
        ('title = "a"\n[options]\nepochs = [1, 2]\n', "option 'epochs' is neither text, number"),
        ('title = "a"\nepochs = 3\n[options]\n', "unknown entry 'epochs'"),
        ("title = \xff\n", "is not a recipe"),
        ("[" * 5000, "is not a recipe"),
        ("#" * 100_000, "more than 65536 bytes"),
        (TINY + "epoch = 3\n", "recipe bad: unrecognized arguments: --epoch=3"),
        (TINY + 'threads = "x"\n', "recipe bad: argument --threads: invalid int value"),
        (TINY + 'output = "here"\n', "recipe bad sets 'output', which belongs on the command line"),
        (TINY.replace("fp32", "w9a9"), "unknown precision word 'w9a9'"),
    ],
)
def test_bad_recipe_is_refused_before_training(content: str, message: str, tmp_path: Path) -> None:
    recipe = tmp_path / "bad.toml"
    recipe.write_bytes(content.encode("latin-1"))
    with pytest.raises(BitlensError, match=message):
        call("--recipe", recipe, "--output", tmp_path / "run")
    assert list(tmp_path.iterdir()) == [recipe]


def test_unknown_recipe_is_refused_with_the_names(tmp_path: Path) -> None:
    with pytest.raises(BitlensError, match=r"there is no recipe 'mnist': choose one of .*mnist-w1a1"):
        call("--recipe", "mnist", "--output", tmp_path / "run")
    with pytest.raises(BitlensError, match=r"there is no recipe '\.\./recipe'"):
        call("--recipe", "../recipe", "--output", tmp_path / "run")
    with pytest.raises(BitlensError, match="cannot read the recipe"):
        call("--recipe", tmp_path / "nowhere.toml", "--output", tmp_path / "run")


def test_list_names_every_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match=r"^0$"):
        call("--recipes")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(recipe_names())
    assert read_recipe("mnist-w1a1").title in "\n".join(lines)
