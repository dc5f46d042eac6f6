"""The model card says what the run was, and its command makes such a run again."""

from __future__ import annotations

import argparse
import shlex

from bitlens.train.fit import EpochRecord, FitConfig
from bitlens.train.model_card import model_card, training_command
from bitlens.train.run_folder import RunConfig, RunMetrics, RunReference
from bitlens.train.verb import add_arguments

CONFIG = RunConfig(
    model="lenet",
    precision="w2a2",
    width=24,
    dataset="/somewhere/private/fruit",
    input_shape=(3, 32, 48),
    labels=("apple", "pear"),
    fit=FitConfig(epochs=3, batch_size=32, learning_rate=1e-3, distil_weight=0.25, patience=2, seed=7),
    twin=RunReference("../twin", "0" * 64),
    versions={"bitlens": "0.1.0"},
)
METRICS = RunMetrics((EpochRecord(1, 3, 0.5, 0.75, 60.0), EpochRecord(2, 3, 0.4, 0.8, 120.0)), 0.8125)


def test_the_command_sets_what_the_run_had() -> None:
    program, verb, *words = shlex.split(training_command(CONFIG, "out", "twin"))
    assert (program, verb) == ("bitlens", "train")
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    given = parser.parse_args(words)
    assert (given.data, given.model, given.precision, given.width) == ("fruit", "lenet", "w2a2", 24)
    assert (given.epochs, given.batch_size, given.learning_rate, given.seed) == (3, 32, 1e-3, 7)
    assert (given.distil, given.patience) == (0.25, 2)
    assert (str(given.twin), str(given.output)) == ("twin", "out")
    # What the run left at its default the command leaves at its default.
    assert "--label-smoothing" not in words
    assert given.label_smoothing == CONFIG.fit.label_smoothing


def test_the_card_says_accuracy_and_no_path_of_this_machine() -> None:
    card = model_card(CONFIG, METRICS, 400)
    assert "81.25 % of 400 test images" in card
    assert "80.00 % of a held-out part" in card
    assert "apple, pear" in card
    assert "32x48 pixels, RGB" in card
    assert "2 epochs, 2 minutes, begun from a full-precision network" in card
    assert "/somewhere" not in card
