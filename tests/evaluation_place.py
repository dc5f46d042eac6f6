"""A folder with what an evaluation needs: two networks of one twin, another seed, strangers, and labelled images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from exported_network import GOLDEN_IMAGES
from small_programs import images_for, small_network, small_twin

from bitlens.export.bundle import write_bundle
from bitlens.export.hand_over import Samples
from bitlens.runtime.bundle_file import SUFFIX
from bitlens.runtime.program import Program

IMAGES = 23  # one whole block and a bit


def _write(path: Path, program: Program, twin: Program | None) -> None:
    samples = Samples(images_for(program, GOLDEN_IMAGES), np.arange(GOLDEN_IMAGES, dtype=np.int64), None)
    write_bundle(path.with_suffix(SUFFIX), program, samples=samples, twin=twin)


def write_evaluation_place(place: Path) -> None:
    """Write bundles that nobody trusts, and `images.npz`.

    `one` and `two` share `full`, their twin; `stranger` has another; `alone` has none; `other` is another seed.
    """
    _write(place / "one", small_network(), small_twin())
    _write(place / "two", small_network(seed=4), small_twin())
    _write(place / "full", small_twin(), None)
    _write(place / "other", small_twin(seed=9), None)
    _write(place / "stranger", small_network(), small_twin(seed=9))
    _write(place / "alone", small_network(), None)
    labels = np.arange(IMAGES) % 3
    np.savez(place / "images.npz", images=images_for(small_network(), IMAGES), labels=labels)
