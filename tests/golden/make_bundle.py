"""Make `bundle_1.bitlens`.

It was written once, by the release that introduced version 1, and stays as it is: every later release opens it and
gives the answers that lie in it. Run this by hand for a new version only, with a new name:

    PYTHONPATH=tests .venv/bin/python tests/golden/make_bundle.py
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from small_programs import images_for, small_network, small_twin

from bitlens.export.bundle import write_bundle
from bitlens.export.hand_over import Samples

GOLDEN_BUNDLE = Path(__file__).parent / "bundle_1.bitlens"

METADATA = {
    "precision": "mixed",
    "model": "small_network",
    "dataset": "random",
    "width": 3,
    "fit": {"epochs": 0, "seed": 1},
    "test_accuracy": None,
    "versions": {"bitlens": "0.1.0"},
}


def main() -> None:
    if GOLDEN_BUNDLE.exists():
        raise SystemExit(f"{GOLDEN_BUNDLE} exists and is kept for ever: give a new version a new name")
    network = small_network(1)
    program = replace(network, metadata={**network.metadata, **METADATA})
    samples = Samples(images_for(program, 4), np.array([0, 1, 2, 0]), None)
    write_bundle(GOLDEN_BUNDLE, program, samples=samples, twin=small_twin())


if __name__ == "__main__":
    main()
